"""Read rasters by band name, write Cloud-Optimised GeoTIFFs."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.windows import Window

from terratorch_deo.bands import canonical
from terratorch_deo.errors import BandError, DataError, GeoreferenceError
from terratorch_deo.gis.tiles import Tile


class Grid(NamedTuple):
    """Where the pixels of a raster lie.

    Attributes:
        height: Rows.
        width: Columns.
        crs: Coordinate reference system.
        transform: Pixel to coordinates.
    """

    height: int
    width: int
    crs: Any
    transform: Any


class Scene:
    """An open raster whose bands are found by name.

    Args:
        path: GeoTIFF, COG or VRT.
        bands: Names to read, in the order wanted.
        names: Names of the file's bands in order; None: its band descriptions.

    Raises:
        DataError: The file does not exist or cannot be opened.
        GeoreferenceError: It has no CRS.
        BandError: Bands are missing or unnamed.
    """

    def __init__(
        self, path: str | Path, bands: Sequence[str], names: Sequence[str] | None = None
    ) -> None:
        self.path = Path(path)
        if not self.path.exists():
            raise DataError(f"{path} does not exist.")
        try:
            self.file = rasterio.open(path)
        except rasterio.RasterioIOError as error:
            raise DataError(f"{path} cannot be opened: {error}") from error
        if self.file.crs is None:
            self.file.close()
            raise GeoreferenceError(
                f"{path} has no coordinate reference system, so its map could not be placed. "
                "Assign it: gdal_edit.py -a_srs EPSG:... FILE."
            )
        given = names or self.file.descriptions
        if len(given) != self.file.count or not all(given):
            raise BandError(
                f"{path} has {self.file.count} bands; their names are {list(given)}. "
                "Name every band in order."
            )
        found = [canonical(str(name)) for name in given]
        missing = [band for band in bands if canonical(band) not in found]
        if missing:
            raise BandError(f"{path} lacks {', '.join(missing)} (it has {', '.join(found)}).")
        self.indexes = [found.index(canonical(band)) + 1 for band in bands]
        self.grid = Grid(self.file.height, self.file.width, self.file.crs, self.file.transform)

    def read(self, tile: Tile) -> NDArray[np.float32]:
        """Values of a tile, (bands, height, width), NaN where there is no data.

        Raises:
            DataError: The file is damaged there.
        """
        window = Window(tile.column, tile.row, tile.width, tile.height)
        try:
            values = self.file.read(self.indexes, window=window, masked=True, out_dtype="float32")
        except rasterio.RasterioIOError as error:
            raise DataError(
                f"{self.path} cannot be read at row {tile.row}, column {tile.column}: {error}"
            ) from error
        filled: NDArray[np.float32] = values.filled(np.nan)
        return filled

    def __enter__(self) -> "Scene":
        return self

    def __exit__(self, *args: object) -> None:
        self.file.close()


@contextmanager
def cog_writer(
    path: str | Path,
    grid: Grid,
    *,
    count: int,
    dtype: str,
    nodata: float | None,
    descriptions: Sequence[str],
    overview_resampling: str = "mode",
    colormap: dict[int, tuple[int, int, int, int]] | None = None,
    tags: dict[str, str] | None = None,
) -> Iterator[Any]:
    """Write a Cloud-Optimised GeoTIFF that appears under its name only when whole.

    Args:
        path: File to write; replaced if it exists.
        grid: Size and place.
        count: Bands.
        dtype: Data type of the file.
        nodata: Value of pixels without data.
        descriptions: Band names.
        overview_resampling: ``"mode"`` for classes, ``"average"`` for scores.
        colormap: Value -> red, green, blue, alpha, for one 8-bit band.
        tags: Metadata.

    Yields:
        An open rasterio dataset to write windows to.

    Raises:
        DataError: The folder cannot be written.
    """
    path = Path(path)
    rough = path.with_name(f".{path.name}.{os.getpid()}.rough.tif")
    done = path.with_name(f".{path.name}.{os.getpid()}.tif")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = rasterio.open(
            rough,
            "w",
            driver="GTiff",
            height=grid.height,
            width=grid.width,
            count=count,
            dtype=dtype,
            crs=grid.crs,
            transform=grid.transform,
            nodata=nodata,
            tiled=True,
            compress="deflate",
            BIGTIFF="IF_SAFER",
        )
    except (OSError, rasterio.RasterioIOError) as error:
        raise DataError(
            f"{path} cannot be written: {error}. Choose a writable folder with free space."
        ) from error
    try:
        with file:
            file.descriptions = tuple(descriptions)
            file.update_tags(**(tags or {}))
            if colormap:
                file.write_colormap(1, colormap)
            yield file
        rasterio.shutil.copy(
            rough,
            done,
            driver="COG",
            compress="deflate",
            overview_resampling=overview_resampling,
        )
        os.replace(done, path)
    finally:
        for temporary in (rough, done):
            if temporary.is_file():
                temporary.unlink()
