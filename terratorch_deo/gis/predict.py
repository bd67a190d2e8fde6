"""Map a scene with any model: windows in, blended class map out, a strip of memory at a time."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import rasterio.shutil  # noqa: F401  (cog_writer)
import torch
from numpy.typing import NDArray
from rasterio.windows import Window
from torch import Tensor

from terratorch_deo import __version__
from terratorch_deo.errors import DataError
from terratorch_deo.gis.raster import Scene, cog_writer
from terratorch_deo.gis.tiles import blend_weights, tile_rows
from terratorch_deo.scaling import InputContract

NODATA = 255

# Okabe and Ito's colours, told apart by the colour-blind.
PALETTE = (
    (230, 159, 0),
    (0, 158, 115),
    (0, 114, 178),
    (204, 121, 167),
    (240, 228, 66),
    (86, 180, 233),
    (213, 94, 0),
    (0, 0, 0),
)


class MapResult(NamedTuple):
    """What a map holds.

    Attributes:
        path: The GeoTIFF.
        pixels: Number of pixels per class.
        nodata: Number of pixels without data.
    """

    path: Path
    pixels: list[int]
    nodata: int


def colormap(n_classes: int) -> dict[int, tuple[int, int, int, int]]:
    """Colour-blind-safe colours of classes 0 to n - 1; nodata is transparent."""
    colours = {i: (*PALETTE[i % len(PALETTE)], 255) for i in range(n_classes)}
    return {**colours, NODATA: (0, 0, 0, 0)}


def map_classes(
    source: str | Path,
    model: Callable[[Tensor], Tensor],
    path: str | Path,
    *,
    classes: Sequence[str],
    bands: Sequence[str],
    names: Sequence[str] | None = None,
    contract: InputContract | None = None,
    tile: int = 224,
    overlap: int = 64,
    batch_size: int = 4,
    device: str | torch.device = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> MapResult:
    """Classify every pixel of a scene into a Cloud-Optimised GeoTIFF.

    Probabilities of overlapping tiles are blended, so tiles leave no seams; only the rows that
    tiles still overlap are held in memory.

    Args:
        source: Scene with a CRS.
        model: (B, C, h, w) -> class scores (B, K, h, w) before softmax.
        path: GeoTIFF to write: 8-bit classes, 255 where any band has no data.
        classes: Class names, K.
        bands: Bands that the model takes, in order.
        names: Names of the scene's bands in order; None: its band descriptions.
        contract: If given, the first tile with data is checked against it.
        tile: Side of a tile, pixels.
        overlap: Least overlap of neighbours, pixels.
        batch_size: Tiles per call of the model.
        device: Where the model is.
        progress: Called with tiles done and tiles in all.

    Returns:
        The path and the area of each class.

    Raises:
        DataError: Unreadable or empty scene, or unwritable output. Nothing is left under ``path``.
        BandError: The scene lacks bands.
        GeoreferenceError: The scene has no CRS.
    """
    k = len(classes)
    counts = np.zeros(k, np.int64)
    empty = done = 0
    tags = {
        "software": f"terratorch_deo {__version__}",
        "classes": ", ".join(f"{i}={name}" for i, name in enumerate(classes)),
        "source": Path(source).name,
    }
    if contract is not None:
        tags["input_contract"] = f"{contract.unit} {contract.hash}"
    with (
        Scene(source, bands, names) as scene,
        cog_writer(
            path,
            scene.grid,
            count=1,
            dtype="uint8",
            nodata=NODATA,
            descriptions=["class"],
            colormap=colormap(k),
            tags=tags,
        ) as out,
    ):
        height, width = scene.grid.height, scene.grid.width
        rows = list(tile_rows(height, width, tile, overlap))
        total = sum(map(len, rows))
        h, w = rows[0][0].height, rows[0][0].width
        weights = blend_weights(h, w, overlap)
        scores = np.zeros((k, h, width), np.float32)
        valid = np.zeros((h, width), bool)
        for number, row in enumerate(rows):
            for start in range(0, len(row), batch_size):
                part = row[start : start + batch_size]
                pixels = np.stack([scene.read(t) for t in part])
                has_data = np.isfinite(pixels).all(1)
                for t, mask, p in zip(part, has_data, _probabilities(model, pixels, device), strict=True):
                    scores[:, :, t.column : t.column + w] += p * weights
                    valid[:, t.column : t.column + w] |= mask
                done += len(part)
                if progress is not None:
                    progress(done, total)
            # Rows above the next row of tiles are final.
            first = row[0].row
            final = (rows[number + 1][0].row if number + 1 < len(rows) else height) - first
            result = np.where(valid[:final], scores[:, :final].argmax(0), NODATA).astype(np.uint8)
            out.write(result, 1, window=Window(0, first, width, final))
            counts += np.bincount(result.ravel(), minlength=256)[:k]
            empty += int((result == NODATA).sum())
            scores = _shift_up(scores, final)
            valid = _shift_up(valid[None], final)[0]
        if empty == height * width:
            raise DataError(f"{source} holds no data in the bands {', '.join(bands)}.")
    return MapResult(Path(path), counts.tolist(), empty)


def _probabilities(
    model: Callable[[Tensor], Tensor], pixels: NDArray[np.float32], device: str | torch.device
) -> NDArray[np.float32]:
    """Class probabilities of a batch of tiles; tiles without any data are not computed."""
    wanted = np.isfinite(pixels).any((1, 2, 3))
    with torch.inference_mode():
        found = None
        if wanted.any():
            scores = model(torch.from_numpy(pixels[wanted]).to(device))
            found = scores.float().softmax(1).cpu().numpy()
    shape = (len(pixels), 1 if found is None else found.shape[1], *pixels.shape[2:])
    out = np.zeros(shape, np.float32)
    if found is not None:
        out[wanted] = found
    return out


def _shift_up(values: NDArray[np.generic], rows: int) -> NDArray[np.generic]:
    """Drop the first rows of (.., H, W) and append empty ones."""
    out = np.zeros_like(values)
    keep = values.shape[-2] - rows
    if keep > 0:
        out[..., :keep, :] = values[..., rows:, :]
    return out
