"""timm: our Swin encoders as timm models, also for TorchGeo and ``tu-`` encoders."""

from collections.abc import Callable, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from terratorch_deo.errors import BandError
from terratorch_deo.models import ENCODERS
from terratorch_deo.models.encoder import DEOEncoder

# The ViT has no pyramid of strides 4 to 32, which timm's and smp's feature users ask for.
NAMES = tuple(name for name in ENCODERS if "swin" in name)


def build_encoder(name: str, in_chans: int, **options: Any) -> DEOEncoder:
    """Encoder for ten or three channels in DEO's order.

    Raises:
        BandError: Another number of channels.
    """
    if in_chans not in (3, 10):
        raise BandError(
            f"{name} takes 10 channels (RED, GREEN, BLUE, RED_EDGE_1-3, NIR_BROAD, NIR_NARROW, "
            f"SWIR_1, SWIR_2) or 3 (RED, GREEN, BLUE), not {in_chans}. Select the bands in the "
            "datamodule; for change detection use fcsiamdiff or fcsiamconc, which encode each date "
            "on its own."
        )
    encoder = ENCODERS[name](**options)
    encoder.in_chans = in_chans
    return encoder


class DEOTimm(nn.Module):
    """A DEO encoder with timm's interface.

    Args:
        name: Encoder.
        in_chans: 10 or 3 channels in DEO's order.
        num_classes: Classes of the linear head; 0: none.
        drop_path_rate: Stochastic depth.
        global_pool: Only ``"avg"``: final norm, then mean over positions.
        **options: Further arguments of the encoder (``contract``, ``window_size``, ...).
    """

    output_fmt = "NCHW"

    def __init__(
        self,
        name: str,
        in_chans: int = 10,
        num_classes: int = 0,
        drop_path_rate: float = 0.0,
        global_pool: str = "avg",
        **options: Any,
    ) -> None:
        super().__init__()
        # TorchGeo finds the stem as the first leaf and the classifier as the last child.
        self.backbone = build_encoder(name, in_chans, drop_path_rate=drop_path_rate, **options)
        self.num_classes, self.num_features = num_classes, self.backbone.num_features
        self.head_hidden_size = self.num_features
        self.feature_info = [
            {"num_chs": c, "reduction": 4 * 2**i, "module": f"backbone.trunk.features.{2 * i}"}
            for i, c in enumerate(self.backbone.trunk.channels)
        ]
        self.head = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()

    def get_classifier(self) -> nn.Module:
        """The head."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A new head."""
        self.num_classes = num_classes
        self.head = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()

    def forward_features(self, x: Tensor) -> Tensor:
        """Last map after the final norm, (B, C, h, w)."""
        encoder = self.backbone
        last = encoder.features_of(encoder.prepare(x)).maps[-1]
        return encoder.trunk.norm(last.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Pool, then the head."""
        pooled = F.adaptive_avg_pool2d(x, 1).flatten(1)
        return pooled if pre_logits else self.head(pooled)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> class scores, or pooled features without a head."""
        return self.forward_head(self.forward_features(x))

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """Feature maps by stage, as timm defines it."""
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt={output_fmt!r}: DEO gives NCHW maps.")
        maps = self.backbone.features_of(self.backbone.prepare(x)).maps
        chosen = [maps[i] for i in self._indices(indices)]
        if intermediates_only:
            return chosen
        return self.forward_features(x), chosen

    def prune_intermediate_layers(
        self,
        indices: int | Sequence[int] | None = None,
        prune_norm: bool = False,
        prune_head: bool = True,
    ) -> list[int]:
        """Drop the head; the stages stay."""
        if prune_head:
            self.reset_classifier(0)
        return self._indices(indices)

    def _indices(self, indices: int | Sequence[int] | None) -> list[int]:
        n = len(self.feature_info)
        if indices is None:
            return list(range(n))
        return list(range(n - indices, n)) if isinstance(indices, int) else list(indices)


def _entrypoint(name: str) -> Callable[..., nn.Module]:
    def build(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        from timm.models import build_model_with_cfg

        model: nn.Module = build_model_with_cfg(
            _models[name],
            name,
            pretrained,
            feature_cfg={"out_indices": (0, 1, 2, 3), "feature_cls": "getter"},
            **kwargs,
        )
        return model

    build.__name__ = name
    build.__module__ = __name__
    build.__doc__ = f"{ENCODERS[name].__doc__}"
    return build


def _model(name: str) -> type[DEOTimm]:
    def __init__(self: DEOTimm, **kwargs: Any) -> None:
        DEOTimm.__init__(self, name, **kwargs)

    return type(f"DEOTimm_{name}", (DEOTimm,), {"__init__": __init__})


_models = {name: _model(name) for name in NAMES}
default_cfgs: dict[str, Any] = {}


def register() -> None:
    """Register with timm."""
    import timm
    from timm.models import generate_default_cfgs, register_model

    cfg = {"url": "", "input_size": (10, 224, 224), "num_classes": 0}
    for name in NAMES:
        if timm.is_model(name):
            continue
        default_cfgs.update(generate_default_cfgs({f"{name}.untrained": cfg}))
        register_model(_entrypoint(name))
