"""Overlapping windows over a raster and the weights that blend them; numpy only."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from terratorch_deo.errors import DataError


class Tile(NamedTuple):
    """A window of a raster in pixels.

    Attributes:
        row: First row.
        column: First column.
        height: Rows.
        width: Columns.
    """

    row: int
    column: int
    height: int
    width: int


def tile_starts(size: int, tile: int, overlap: int) -> list[int]:
    """Starts of equal tiles that cover ``size`` pixels and overlap by at least ``overlap``.

    Args:
        size: Pixels to cover.
        tile: Side of a tile; a smaller raster gives one tile of its own size.
        overlap: Least overlap of neighbours, 0 <= overlap < tile.

    Returns:
        Ascending starts; the last tile ends at the border.

    Raises:
        DataError: ``overlap`` is not smaller than ``tile``.
    """
    if not 0 <= overlap < tile:
        raise DataError(f"overlap={overlap} must be at least 0 and less than the tile, {tile}.")
    if size <= tile:
        return [0]
    return [*range(0, size - tile, tile - overlap), size - tile]


def tile_rows(height: int, width: int, tile: int, overlap: int) -> Iterator[list[Tile]]:
    """Tiles of a raster, one list per row of tiles, top to bottom.

    Args:
        height: Rows of the raster.
        width: Columns of the raster.
        tile: Side of a tile.
        overlap: Least overlap of neighbours.

    Yields:
        The tiles of one row, left to right.
    """
    h, w = min(tile, height), min(tile, width)
    columns = tile_starts(width, tile, overlap)
    for row in tile_starts(height, tile, overlap):
        yield [Tile(row, column, h, w) for column in columns]


def blend_weights(height: int, width: int, overlap: int) -> NDArray[np.float32]:
    """Weights of a tile's pixels: 1 inside, falling linearly over the overlap, never 0.

    Args:
        height: Rows of the tile.
        width: Columns of the tile.
        overlap: Pixels over which the weight falls.

    Returns:
        (height, width), in (0, 1].
    """

    def ramp(n: int) -> NDArray[np.float32]:
        distance = np.minimum(np.arange(1, n + 1), np.arange(n, 0, -1))
        return np.minimum(distance / (overlap + 1), 1).astype(np.float32)

    return ramp(height)[:, None] * ramp(width)[None]
