"""Frozen optical teachers behind one interface (method 1 and 4)."""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from terratorch_deo.errors import TrainingError
from terratorch_deo.scaling import UNIT_OPTICAL_MEAN, UNIT_OPTICAL_STD

# Intermediate layer by depth, counted from 0: the paper's for ViT-S/B and ViT-L.
_MID_LAYER = {12: 8, 24: 15}


class TeacherFeatures(NamedTuple):
    """What an optical teacher gives for N views.

    Attributes:
        class_token: (N, d), after the final norm; mean of the patch tokens for models without one.
        mid: Patch tokens of the intermediate layer, (N, T, d), after the final norm.
        late: Patch tokens of the last layer, (N, T, d), after the final norm.
    """

    class_token: Tensor
    mid: Tensor
    late: Tensor


def mid_layer_of(depth: int) -> int:
    """Intermediate layer of a teacher of ``depth`` blocks, counted from 0: about two thirds in."""
    return _MID_LAYER.get(depth, max(0, 2 * depth // 3 - 1))


class OpticalTeacher(nn.Module):
    """A frozen timm vision transformer: DINOv3, DINOv2, C-RADIO or any other ViT.

    It stays in eval mode, has no gradients, is no part of checkpoints, and takes views standardised
    for the student: its own mean and standard deviation are applied inside. Without weights it is
    initialised from a fixed seed, so that every rank and every resumed run has the same one.

    Args:
        name: timm model, e.g. ``"vit_large_patch16_dinov3"``.
        pretrained: Load timm's weights; a path loads that file.
        mid_layer: Intermediate block, counted from 0; ``None`` chooses by depth (8 of 12, 15 of 24).
        seed: Seed of the initialisation without weights.

    Raises:
        TrainingError: Unknown model, no token model, or weights that cannot be had.
    """

    def __init__(
        self,
        name: str = "vit_large_patch16_dinov3",
        pretrained: bool | str | Path = True,
        mid_layer: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.name, self.pretrained = name, bool(pretrained)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.model = _build(name, pretrained)
        depth = len(self.model.blocks)
        self.mid_layer = mid_layer_of(depth) if mid_layer is None else mid_layer
        if not 0 <= self.mid_layer < depth:
            raise TrainingError(f"mid_layer={mid_layer}: {name} has blocks 0 to {depth - 1}.")
        self.late_layer = depth - 1
        self.dim: int = self.model.num_features
        self.patch_size: int = self.model.patch_embed.patch_size[0]
        config = self.model.pretrained_cfg
        ours_mean, ours_std = torch.tensor(UNIT_OPTICAL_MEAN), torch.tensor(UNIT_OPTICAL_STD)
        mean, std = torch.tensor(config["mean"]), torch.tensor(config["std"])
        # (z * ours_std + ours_mean - mean) / std in one step
        self.register_buffer("scale", (ours_std / std)[:, None, None], persistent=False)
        self.register_buffer("shift", ((ours_mean - mean) / std)[:, None, None], persistent=False)
        self._prefix = ""
        self.register_load_state_dict_post_hook(self._forgive)
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "OpticalTeacher":
        """Stay in eval mode whatever ``mode`` is."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, views: Tensor) -> TeacherFeatures:
        """Class and patch tokens.

        Args:
            views: Optical views standardised with the [0, 1] statistics, (N, 3, H, W).

        Returns:
            The tokens.

        Raises:
            TrainingError: The view size is no multiple of the teacher's patch.
        """
        if views.shape[-1] % self.patch_size or views.shape[-2] % self.patch_size:
            raise TrainingError(
                f"global views are {tuple(views.shape[-2:])} pixels, no multiple of the patch of "
                f"{self.name} ({self.patch_size}). Choose global_size as a multiple of it."
            )
        (mid, _), (late, prefix) = self._last_two(views * self.scale + self.shift)
        class_token = prefix[:, 0] if prefix.shape[1] else late.mean(dim=1)
        return TeacherFeatures(class_token, mid, late)

    def _last_two(self, x: Tensor) -> list[tuple[Tensor, Tensor]]:
        found = self.model.forward_intermediates(
            x,
            indices=sorted({self.mid_layer, self.late_layer}),
            return_prefix_tokens=True,
            norm=True,
            output_fmt="NLC",
            intermediates_only=True,
        )
        pairs = [
            item if isinstance(item, tuple) else (item, item.new_empty(len(item), 0, self.dim))
            for item in found
        ]
        return [pairs[0], pairs[-1]]

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Nothing: a frozen teacher is rebuilt from its name, not saved with each checkpoint."""
        destination = kwargs.get("destination", args[0] if args else None)
        return {} if destination is None else destination

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        """Remember the own prefix: `_forgive` needs it."""
        self._prefix = prefix

    @staticmethod
    def _forgive(teacher: nn.Module, incompatible: Any) -> None:
        """Expect nothing in a checkpoint, as nothing is saved."""
        prefix = teacher._prefix
        missing = incompatible.missing_keys
        missing[:] = [key for key in missing if not key.startswith(prefix)]


def _build(name: str, pretrained: bool | str | Path) -> nn.Module:
    import timm

    options: dict[str, Any] = {"num_classes": 0, "pretrained": bool(pretrained)}
    if isinstance(pretrained, str | Path):
        options["pretrained_cfg_overlay"] = {"file": str(pretrained)}
    if not timm.is_model(name):
        near = timm.list_models(f"*{name.split('_')[-1]}*")[:6]
        raise TrainingError(
            f"optical_teacher={name!r} is no timm model. Near: {', '.join(near) or 'none'}; see "
            "timm.list_models('vit_*dino*')."
        )
    try:
        model = timm.create_model(name, dynamic_img_size=True, **options)
    except Exception as error:
        raise TrainingError(
            f"the optical teacher {name} could not be built: {error}. If its weights cannot be "
            "downloaded here, pass optical_teacher_pretrained='/path/to/weights', or False for a "
            "random one (a test of the pipeline, not a teacher)."
        ) from error
    if not all(hasattr(model, a) for a in ("blocks", "forward_intermediates", "patch_embed")):
        raise TrainingError(f"optical_teacher={name!r} has no patch tokens; choose a ViT.")
    return model
