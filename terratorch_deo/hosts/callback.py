"""`Register`: one line in a host's YAML that brings the plugin in."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from terratorch_deo.errors import DEOError
from terratorch_deo.models.encoder import DEOEncoder
from terratorch_deo.models.weights import load_weights
from terratorch_deo.scaling import InputContract

logger = logging.getLogger(__name__)


class Register(Callback):
    """Make the encoders known to the host, and close two gaps of the hosts.

    Naming this class in a configuration imports the package, which registers the encoders:

    ``trainer: {callbacks: [{class_path: terratorch_deo.Register}]}``

    A checkpoint that monitors a metric nobody logs is never written; at the end of training this
    callback then saves ``last.ckpt``, so that no work is lost. TorchGeo passes no options on to an
    encoder; ``contract`` and ``ckpt_path`` set them there.

    Args:
        contract: Input contract for every DEO encoder of the model; None: as built.
        ckpt_path: Weights for every DEO encoder of the model, any layout of `load_weights`.

    Raises:
        DEOError: ``contract`` or ``ckpt_path`` are given and the model has no DEO encoder.
    """

    def __init__(
        self,
        contract: str | dict[str, Any] | None = None,
        ckpt_path: str | None = None,
    ) -> None:
        self.contract = None if contract is None else InputContract.of(contract)
        self.ckpt_path = ckpt_path

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Apply contract and weights."""
        if self.contract is None and self.ckpt_path is None:
            return
        encoders = [m for m in pl_module.modules() if isinstance(m, DEOEncoder)]
        if not encoders:
            raise DEOError(
                "terratorch_deo.Register was given contract or ckpt_path, but the model has no DEO "
                "encoder. Choose backbone: deo_swin_base (or another of ours)."
            )
        for encoder in encoders:
            if self.contract is not None:
                encoder.contract = self.contract
            if self.ckpt_path is not None:
                load_weights(encoder, self.ckpt_path)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save ``last.ckpt`` if checkpoints were wanted and none was written."""
        wanted = [c for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint)]
        if not wanted or trainer.fast_dev_run or any(c.best_model_path for c in wanted):
            return
        if any(c.last_model_path for c in wanted):
            return
        folder = Path(wanted[0].dirpath or trainer.default_root_dir)
        path = folder / "last.ckpt"
        trainer.save_checkpoint(path)
        logged: Mapping[str, Any] = trainer.callback_metrics
        logger.warning(
            "no checkpoint was written: %s was never logged (logged: %s). Saved %s.",
            ", ".join(sorted({str(c.monitor) for c in wanted})),
            ", ".join(sorted(logged)) or "nothing",
            path,
        )
