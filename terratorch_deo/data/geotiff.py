"""Crops of GeoTIFF files as pretraining samples, bands found by name."""

import fnmatch
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchgeo.datasets import NonGeoDataset

from terratorch_deo.bands import BANDS, canonical
from terratorch_deo.errors import BandError, DataError

logger = logging.getLogger(__name__)


def find_images(folders: str | Path | Sequence[str | Path], pattern: str = "*.tif") -> list[Path]:
    """Files of one or more folders, sorted.

    Args:
        folders: Folders (searched recursively) or files.
        pattern: File-name pattern.

    Returns:
        The files.

    Raises:
        DataError: A path does not exist, or nothing matches.
    """
    given = [folders] if isinstance(folders, str | Path) else list(folders)
    files: list[Path] = []
    for item in map(Path, given):
        if not item.exists():
            raise DataError(f"{item} does not exist.")
        files += [item] if item.is_file() else sorted(item.rglob(pattern))
    if not files:
        raise DataError(
            f"no file matches {pattern!r} in {', '.join(map(str, given))}. Check the folder and pattern."
        )
    return files


def band_indexes(
    descriptions: Sequence[str | None], names: Sequence[str] | None, path: Path
) -> list[int]:
    """Where the ten bands are in a file, counted from 1 as rasterio does.

    Args:
        descriptions: Band descriptions of the file.
        names: Names of the file's bands in order, instead of its descriptions.
        path: File, for the message.

    Returns:
        Ten band indexes in DEO's order.

    Raises:
        BandError: The file has no descriptions, or lacks bands.
    """
    if names is not None and len(names) != len(descriptions):
        raise BandError(f"{path} has {len(descriptions)} bands but {len(names)} were named.")
    if names is None and not all(descriptions):
        raise BandError(
            f"{path} has {len(descriptions)} bands without descriptions. Name them in order: "
            "bands=['B02', 'B03', ...]."
        )
    found = [canonical(name) for name in (names or [str(d) for d in descriptions])]
    missing = [band for band in BANDS if band not in found]
    if missing:
        raise BandError(f"{path} lacks {', '.join(missing)} (it has {', '.join(found)}).")
    return [found.index(band) + 1 for band in BANDS]


class GeoTiffCrops(NonGeoDataset):
    """Square crops of ten-band GeoTIFFs.

    Every file is cut into a grid of crops that covers it, the last ones overlapping; a file with a
    side shorter than the crop gives one crop, resampled bilinearly. Values come as stored plus the
    file's offset, NaN where the file has no data.

    Args:
        folders: Folders or files.
        pattern: File-name pattern in folders.
        crop_px: Side of a crop, pixels.
        bands: Names of the files' bands in order; None: read from the band descriptions.
        offsets: File-name pattern -> number added to its values (-1000 for products of processing
            baseline 04.00 and later that still carry the offset).
        on_error: ``"raise"`` names a broken file and stops; ``"skip"`` leaves it out and reports it
            (`skipped`).

    Raises:
        DataError: No files, or an unreadable one with ``on_error="raise"``.
        BandError: A file lacks bands or their names.
    """

    def __init__(
        self,
        folders: str | Path | Sequence[str | Path],
        *,
        pattern: str = "*.tif",
        crop_px: int = 256,
        bands: Sequence[str] | None = None,
        offsets: Mapping[str, float] | None = None,
        on_error: Literal["raise", "skip"] = "raise",
    ) -> None:
        self.crop_px, self.bands, self.on_error = crop_px, bands, on_error
        self.offsets = dict(offsets or {})
        self.skipped: dict[str, str] = {}
        self.crops: list[tuple[Path, int, int, int, int]] = []
        for path in find_images(folders, pattern):
            self.crops += self._crops_of(path)
        if not self.crops:
            raise DataError(
                f"none of the files can be read: {'; '.join(list(self.skipped.values())[:3])}"
            )

    def _crops_of(self, path: Path) -> list[tuple[Path, int, int, int, int]]:
        import rasterio

        try:
            with rasterio.open(path) as file:
                height, width = file.height, file.width
                band_indexes(file.descriptions, self.bands, path)
        except rasterio.RasterioIOError as error:
            self._broken(path, error)
            return []
        side = min(self.crop_px, height, width)
        return [
            (path, row, column, side, side)
            for row in _starts(height, side)
            for column in _starts(width, side)
        ]

    def _broken(self, path: Path, error: Exception) -> None:
        message = f"{path} cannot be read: {str(error).splitlines()[0]}"
        if self.on_error == "raise":
            raise DataError(
                f"{message}. Remove or replace it, or pass on_error='skip' to leave it out."
            ) from error
        if str(path) not in self.skipped:
            logger.warning("%s; skipped", message)
        self.skipped[str(path)] = message

    def __len__(self) -> int:
        """Number of crops."""
        return len(self.crops)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """``{"image": (10, crop_px, crop_px)}``, float32.

        Raises:
            DataError: The file cannot be read or the crop holds no data, with ``on_error="raise"``.
        """
        for step in range(len(self)):
            path, *window = self.crops[(index + step) % len(self)]
            if str(path) in self.skipped:
                continue
            image = self._read(path, *window)
            if image is not None:
                return {"image": torch.from_numpy(image)}
        raise DataError("no crop of the data set holds data.")

    def _read(
        self, path: Path, row: int, column: int, height: int, width: int
    ) -> NDArray[np.float32] | None:
        """The crop, or None where there is nothing to learn from."""
        import rasterio
        from rasterio.enums import Resampling
        from rasterio.windows import Window

        shape = (len(BANDS), self.crop_px, self.crop_px)
        try:
            with rasterio.open(path) as file:
                image = file.read(
                    band_indexes(file.descriptions, self.bands, path),
                    window=Window(column, row, width, height),
                    out_shape=shape,
                    resampling=Resampling.bilinear,
                    out_dtype="float32",
                    masked=True,
                ).filled(np.nan)
        except rasterio.RasterioIOError as error:
            self._broken(path, error)
            return None
        if not np.isfinite(image).any():
            return None
        offset = next(
            (v for pattern, v in self.offsets.items() if fnmatch.fnmatch(path.name, pattern)), 0.0
        )
        return image + np.float32(offset)


def _starts(size: int, side: int) -> list[int]:
    count = -(-size // side)
    return [round(i * (size - side) / max(count - 1, 1)) for i in range(count)]
