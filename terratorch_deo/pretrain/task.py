"""`DEOTask`: dual-teacher pretraining as a TorchGeo task and LightningModule; only wiring."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from terratorch_deo.bands import BANDS, BandMap, band_map, default_band_map
from terratorch_deo.errors import BandError, TrainingError
from terratorch_deo.models import ENCODERS, load_weights, save_encoder
from terratorch_deo.pretrain.distributed import rank, world_size
from terratorch_deo.pretrain.ema import update_teacher
from terratorch_deo.pretrain.losses import DEOLoss, LossTerms
from terratorch_deo.pretrain.networks import MultispectralTeacher, Student
from terratorch_deo.pretrain.optim import (
    CosineSchedule,
    clip_each_parameter_,
    parameter_groups,
    scaled_lr,
)
from terratorch_deo.pretrain.teachers import OpticalTeacher
from terratorch_deo.pretrain.views import DualTeacherViews, Views
from terratorch_deo.scaling import InputContract

try:
    from torchgeo.tasks import BaseTask
except ImportError:
    from torchgeo.trainers import BaseTask

# Stochastic depth of the public code; the paper is silent.
DROP_PATH = {
    "deo_swin_tiny": 0.2,
    "deo_swin_small": 0.3,
    "deo_swin_base": 0.5,
    "deo_vit_base": 0.1,
}


class DEOTask(BaseTask):
    """Pretrain a DEO encoder from batches of ``image`` and, optionally, ``optical``.

    ``image`` is (B, 10, H, W), or has more channels named by ``bands``, with values as ``contract``
    declares; ``optical`` is a co-located high-resolution RGB image, (B, 3, h, w), 0-255, that
    replaces the optical channels. Defaults are the paper's Swin-B run (3.6, A.2).

    Args:
        model: Encoder name, a key of `terratorch_deo.models.ENCODERS`.
        model_args: Further arguments of the encoder (``window_size``, ``grad_checkpointing``, ...).
        optical_teacher: timm name of the frozen optical teacher.
        optical_teacher_pretrained: Load its weights; a path loads that file.
        optical_path: ``"separate"``: optical views and patch embedding (the paper). Otherwise an
            ablation: ``"multispectral"`` matches the class token with multispectral features,
            ``"none"`` trains without optical teacher.
        patch_distillation: Distil mid and late patch tokens.
        heavy_augmentation: Colour jitter, grayscale, blur and solarize on the optical channels.
        contract: What the values of ``image`` are.
        bands: Names of ``image``'s channels in order; None: ten in DEO's order.
        global_size: Side of the two global views, pixels.
        local_size: Side of the local views, pixels.
        n_local: Number of local views.
        global_scale: Area share of a global crop.
        local_scale: Area share of a local crop.
        optical_fixed_probability: Share of views whose optical channels are scaled by a fixed
            value instead of the crop's maximum, so that both scalings are seen; the paper has 0.
        bottleneck_dim: Width of the multispectral projections.
        alpha: Weight of the compression term.
        eps: Distortion of the coding rate.
        beta: Weight of the class-token term.
        gamma: Weight of the patch-token terms.
        delta: Weight of the optical loss.
        expansion: Weight of the coding-rate term; 0 shows the collapse without it.
        sync_covariance: Sum the covariance over ranks, so that the GPU count does not matter.
        lr: Peak learning rate for a global batch of 256; scaled linearly with the real one.
        min_lr: Learning rate at the end.
        warmup_epochs: Linear warm-up.
        weight_decay: Start and end of the cosine.
        ema_momentum: Start and end of the cosine.
        clip: Gradient clipping; None: off.
        clip_by: ``"parameter"``: each tensor's own norm, as DINO's code; ``"norm"``: global.
        drop_path_rate: Stochastic depth; None: 0.2 / 0.3 / 0.5 / 0.1 for Swin-T / S / B / ViT.
        ckpt_path: Weights to start from, any layout that `load_weights` knows.
        seed: Seed of views; the same views whatever the rank count or worker count.
        global_batch_size: Images per optimizer step, if the dataloader does not tell.

    Raises:
        TrainingError: Unknown model or teacher, or options that do not go together.
    """

    ignore: Any = ()

    def __init__(
        self,
        model: str = "deo_swin_base",
        model_args: dict[str, Any] | None = None,
        optical_teacher: str = "vit_large_patch16_dinov3",
        optical_teacher_pretrained: bool | str = True,
        optical_path: Literal["separate", "multispectral", "none"] = "separate",
        patch_distillation: bool = True,
        heavy_augmentation: bool = True,
        contract: str | dict[str, Any] = "dn",
        bands: list[str] | None = None,
        global_size: int = 224,
        local_size: int = 96,
        n_local: int = 10,
        global_scale: tuple[float, float] = (0.4, 1.0),
        local_scale: tuple[float, float] = (0.05, 0.4),
        optical_fixed_probability: float = 0.0,
        bottleneck_dim: int = 256,
        alpha: float = 1.0,
        eps: float = 0.05,
        beta: float = 0.5,
        gamma: float = 0.5,
        delta: float = 1.0,
        expansion: float = 1.0,
        sync_covariance: bool = True,
        lr: float = 5e-4,
        min_lr: float = 1e-6,
        warmup_epochs: float = 10,
        weight_decay: tuple[float, float] = (0.04, 0.4),
        ema_momentum: tuple[float, float] = (0.996, 1.0),
        clip: float | None = 3.0,
        clip_by: Literal["parameter", "norm"] = "parameter",
        drop_path_rate: float | None = None,
        ckpt_path: str | None = None,
        seed: int = 0,
        global_batch_size: int | None = None,
    ) -> None:
        if isinstance(contract, InputContract):
            contract = contract.to_dict()  # hyper-parameters must load with weights_only=True
        if model not in ENCODERS:
            raise TrainingError(f"model={model!r} is unknown. Choose one of {', '.join(ENCODERS)}.")
        if optical_path not in ("separate", "multispectral", "none"):
            raise TrainingError(
                f"optical_path={optical_path!r} is unknown. Choose separate, multispectral or none."
            )
        if clip_by not in ("parameter", "norm"):
            raise TrainingError(f"clip_by={clip_by!r} is unknown. Choose parameter or norm.")
        self._schedules: dict[str, CosineSchedule] = {}
        super().__init__()

    # ------------------------------------------------------------------ TorchGeo's hooks

    def configure_models(self) -> None:
        """Student, multispectral teacher and optical teacher."""
        h = self.hparams
        rate = h["drop_path_rate"]
        encoder = ENCODERS[h["model"]](
            drop_path_rate=DROP_PATH[h["model"]] if rate is None else rate,
            contract=h["contract"],
            **(h["model_args"] or {}),
        )
        if h["ckpt_path"]:
            load_weights(encoder, h["ckpt_path"])
        self.optical_teacher: OpticalTeacher | None = None
        if h["optical_path"] != "none":
            self.optical_teacher = OpticalTeacher(
                h["optical_teacher"], h["optical_teacher_pretrained"]
            )
        self.student = Student(
            encoder,
            bottleneck_dim=h["bottleneck_dim"],
            optical_dim=self.optical_teacher.dim if self.optical_teacher else None,
            optical_path=h["optical_path"],
            patch_distillation=h["patch_distillation"],
        )
        self.teacher = MultispectralTeacher(self.student)
        self.views = DualTeacherViews(
            global_size=h["global_size"],
            local_size=h["local_size"],
            n_local=h["n_local"],
            global_scale=tuple(h["global_scale"]),
            local_scale=tuple(h["local_scale"]),
            heavy=h["heavy_augmentation"],
            optical_fixed_probability=h["optical_fixed_probability"],
        )

    def configure_losses(self) -> None:
        """The weighted loss of method 3 and 4."""
        h = self.hparams
        self.loss = DEOLoss(
            alpha=h["alpha"],
            eps=h["eps"],
            beta=h["beta"],
            gamma=h["gamma"],
            expansion=h["expansion"],
            delta=h["delta"],
            sync_covariance=h["sync_covariance"],
        )

    def configure_metrics(self) -> None:
        """None: terms of the loss are logged as they are."""

    # ------------------------------------------------------------------ steps

    def views_of(self, batch: dict[str, Any], seeds: Sequence[int]) -> Views:
        """Standardised views of a batch.

        Args:
            batch: ``image`` (B, C, H, W) and, optionally, ``optical`` (B, 3, h, w).
            seeds: One seed per image.

        Returns:
            The views.

        Raises:
            BandError: ``image`` has other channels than declared.
            ScalingError: The first batch contradicts the contract.
        """
        image = batch["image"]
        bands = self._bands(image)
        contract = self.student.encoder.contract
        if not getattr(self, "_checked", False):
            contract.check(image, bands)
            self._checked = True
        if not bands.is_identity:
            image = image[:, list(bands.index)]
        return self.views(image, batch.get("optical"), contract=contract, seeds=seeds)

    def _bands(self, image: Tensor) -> BandMap:
        named = self.hparams["bands"]
        bands = band_map(named) if named else default_band_map(image.shape[1])
        if bands.path != "multispectral" or image.shape[1] != bands.n_channels:
            raise BandError(
                f"pretraining needs the ten bands; image has {image.shape[1]} channels and bands= "
                f"is {named}. Name the channels of image in order, with all of {', '.join(BANDS)}."
            )
        return bands

    def compute_loss(self, views: Views) -> LossTerms:
        """All terms of the loss for given views."""
        out = self.student(views)
        target = self.teacher(views.global_multispectral)
        if self.optical_teacher is None or out.optical is None:
            return self.loss(out.multispectral, target)
        tokens = self.optical_teacher(views.global_optical.flatten(0, 1))
        return self.loss(
            out.multispectral,
            target,
            optical=out.optical,
            class_tokens=tokens.class_token.unflatten(0, target.shape[:2]),
            maps=out.maps,
            tokens=(tokens.mid, tokens.late),
        )

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The encoder's feature maps, see `DEOEncoder.forward`."""
        return self.student.encoder(*args, **kwargs)

    def _seeds(self, batch_size: int, batch_index: int, stage: int) -> list[int]:
        """One seed per image of the global batch: the same however it is divided over ranks."""
        epoch = self.current_epoch if stage == 0 else 0
        first = rank() * batch_size
        generator = torch.Generator().manual_seed(
            hash((self.hparams["seed"], stage, epoch, batch_index)) & 0x7FFF_FFFF_FFFF_FFFF
        )
        drawn = torch.randint(2**62, (world_size() * batch_size,), generator=generator)
        return drawn[first : first + batch_size].tolist()

    def _step(self, batch: dict[str, Any], batch_index: int, *, stage: int, name: str) -> Tensor:
        size = len(batch["image"])
        with torch.no_grad():
            views = self.views_of(batch, self._seeds(size, batch_index, stage))
        terms = self.compute_loss(views)
        values = {
            f"{name}/{key if key != 'total' else 'loss'}": value.detach()
            for key, value in terms._asdict().items()
            if value is not None
        }
        self.log_dict(values, batch_size=size, sync_dist=stage != 0)
        if stage == 0:
            self.log("loss", terms.total.detach(), prog_bar=True, logger=False, batch_size=size)
        return terms.total

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Loss of one batch."""
        return self._step(batch, batch_idx, stage=0, name="train")

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """The same loss with the same views in every epoch, logged as ``val/loss``."""
        self._step(batch, batch_idx, stage=1, name="val")

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """The same loss, logged as ``test/loss``."""
        self._step(batch, batch_idx, stage=2, name="test")

    # ------------------------------------------------------------------ optimisation

    def configure_optimizers(self) -> Any:
        """AdamW with the paper's schedules, stepped with the optimizer."""
        h = self.hparams
        total = int(self.trainer.estimated_stepping_batches)
        epochs = self.trainer.max_epochs or 0
        per_epoch = total / epochs if epochs > 0 else total
        warmup = int(min(h["warmup_epochs"] * per_epoch, total // 2))
        peak = scaled_lr(h["lr"], self._global_batch())
        self._schedules = {
            "lr": CosineSchedule(1.0, h["min_lr"] / peak, total, warmup_steps=warmup),
            "weight_decay": CosineSchedule(*h["weight_decay"], total),
            "ema": CosineSchedule(*h["ema_momentum"], total),
        }
        optimizer = torch.optim.AdamW(
            parameter_groups(self.student, h["weight_decay"][0]), lr=peak, foreach=True
        )
        scheduler = LambdaLR(optimizer, self._schedules["lr"])
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def _global_batch(self) -> int:
        """Images per optimizer step over all ranks."""
        h = self.hparams
        if h["global_batch_size"]:
            return int(h["global_batch_size"])
        loader = self.trainer.train_dataloader
        sampler = getattr(loader, "batch_sampler", None)
        size = getattr(loader, "batch_size", None) or getattr(sampler, "batch_size", None)
        size = size or getattr(getattr(self.trainer, "datamodule", None), "batch_size", None)
        if not size:
            raise TrainingError(
                "the batch size cannot be read from the dataloader, and the learning rate scales "
                "with it. Pass global_batch_size= (images per optimizer step over all ranks)."
            )
        return int(size) * self.trainer.world_size * self.trainer.accumulate_grad_batches

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Set the weight decay of this step."""
        schedule = self._schedules.get("weight_decay")
        if schedule is None:
            return
        value = schedule(self.global_step)
        for group in optimizer.param_groups:
            if group["weight_decay"]:
                group["weight_decay"] = value

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip as ``clip`` and ``clip_by`` say, or as the Trainer does if it was given a value."""
        if gradient_clip_val is not None:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
        elif self.hparams["clip"] is not None:
            parameters = [p for p in self.student.parameters() if p.grad is not None]
            if self.hparams["clip_by"] == "parameter":
                clip_each_parameter_(parameters, self.hparams["clip"])
            else:
                nn.utils.clip_grad_norm_(parameters, self.hparams["clip"])

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step, then move the multispectral teacher: once per optimizer step."""
        momentum = self._momentum(self.global_step)
        super().optimizer_step(*args, **kwargs)
        update_teacher(self.teacher, self.student, momentum)

    def _momentum(self, step: int) -> float:
        schedule = self._schedules.get("ema")
        return schedule(step) if schedule else float(self.hparams["ema_momentum"][0])

    # ------------------------------------------------------------------ the result

    def export_encoder(
        self, path: str | Path, part: Literal["student", "teacher"] = "student"
    ) -> Path:
        """Write the encoder as the file that ``ckpt_path=`` of the encoders takes.

        Args:
            path: File to write.
            part: The student, or its moving average.

        Returns:
            The path.
        """
        source = self.student if part == "student" else self.teacher
        settings = {k: v for k, v in self.hparams.items() if isinstance(v, int | float | str | bool)}
        return save_encoder(
            source.encoder, path, part=part, step=self.global_step, pretraining=settings
        )
