"""segmentation_models_pytorch: our Swin encoders by their plain names."""

from functools import partial
from typing import Any

import segmentation_models_pytorch as smp
from segmentation_models_pytorch.encoders._base import EncoderMixin
from torch import Tensor, nn

from terratorch_deo.hosts.timm import NAMES, build_encoder


class DEOSmp(nn.Module, EncoderMixin):
    """A DEO encoder with smp's interface.

    Args:
        name: Encoder.
        depth: Levels of the pyramid; level 1 (stride 2) is empty.
        output_stride: 32.
        **options: Further arguments of the encoder (``contract``, ``window_size``, ...).
    """

    def __init__(self, name: str, depth: int = 5, output_stride: int = 32, **options: Any) -> None:
        super().__init__()
        self.backbone = build_encoder(name, 10, **options)
        self._name = name
        self._depth, self._in_channels, self._output_stride = depth, 10, output_stride
        self._out_channels = [10, 0, *self.backbone.trunk.channels]

    def set_in_channels(self, in_channels: int, pretrained: bool = True) -> None:
        """Ten or three channels; the encoder has a patch embedding for each."""
        if in_channels not in (3, 10):
            build_encoder(self._name, in_channels)  # raises
        self._in_channels = in_channels
        self._out_channels = [in_channels, *self._out_channels[1:]]

    def forward(self, x: Tensor) -> list[Tensor]:
        """The input, an empty level and the stage maps."""
        b, _, h, w = x.shape
        maps = self.backbone(x)
        return [x, x.new_empty(b, 0, h // 2, w // 2), *maps][: self._depth + 1]


def register() -> None:
    """Register with smp."""
    for name in NAMES:
        smp.encoders.encoders.setdefault(
            name, {"encoder": partial(DEOSmp, name), "pretrained_settings": {}, "params": {}}
        )
