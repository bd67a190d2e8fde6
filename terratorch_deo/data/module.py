"""Data module that feeds pretraining from folders of GeoTIFFs."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import Subset
from torchgeo.datamodules import NonGeoDataModule

from terratorch_deo.data.geotiff import GeoTiffCrops
from terratorch_deo.errors import DataError


class GeoTiffDataModule(NonGeoDataModule):
    """Crops of GeoTIFF files, split into training and validation, as raw values.

    It is a TorchGeo data module that does not normalise: the input contract of the task says what
    the values are.

    Args:
        folders: Folders or files.
        batch_size: Images per step and device.
        num_workers: Loader processes.
        val_share: Share of the crops kept for validation; 0: none.
        seed: Seed of the split.
        pattern: File-name pattern in folders.
        crop_px: Side of a crop, pixels.
        bands: Names of the files' bands in order; None: read from the band descriptions.
        offsets: File-name pattern -> number added to its values.
        on_error: ``"raise"`` or ``"skip"`` broken files.

    Raises:
        DataError: No usable file, or fewer crops than a batch.
    """

    # TorchGeo's default is mean 0, std 255: it would divide digital numbers by 255.
    mean = torch.tensor(0.0)
    std = torch.tensor(1.0)

    def __init__(
        self,
        folders: str | list[str],
        batch_size: int = 8,
        num_workers: int = 0,
        val_share: float = 0.0,
        seed: int = 0,
        pattern: str = "*.tif",
        crop_px: int = 256,
        bands: Sequence[str] | None = None,
        offsets: Mapping[str, float] | None = None,
        on_error: Literal["raise", "skip"] = "raise",
    ) -> None:
        super().__init__(
            GeoTiffCrops,
            batch_size,
            num_workers,
            folders=folders,
            pattern=pattern,
            crop_px=crop_px,
            bands=bands,
            offsets=offsets,
            on_error=on_error,
        )
        self.val_share, self.seed = val_share, seed

    def setup(self, stage: str) -> None:
        """Index the files and split the crops."""
        dataset = GeoTiffCrops(**self.kwargs)
        order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(self.seed))
        n_val = round(len(dataset) * self.val_share)
        train, val = order[n_val:].tolist(), order[:n_val].tolist()
        if len(train) < self.batch_size:
            raise DataError(
                f"{len(train)} crops are fewer than one batch of {self.batch_size}. "
                "Add files, or lower batch_size, crop_px or val_share."
            )
        self.train_dataset: Any = Subset(dataset, train)
        self.val_dataset: Any = Subset(dataset, val) if val else None

    def val_dataloader(self) -> Any:
        """Validation crops; none if ``val_share`` is 0."""
        return super().val_dataloader() if self.val_dataset is not None else []

    def on_after_batch_transfer(self, batch: dict[str, Tensor], dataloader_idx: int) -> Any:
        """Leave the values as they are."""
        return batch
