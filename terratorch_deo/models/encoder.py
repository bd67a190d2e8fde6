"""DEO encoders: two patch embeddings in front of one shared trunk (method 1)."""

from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops.misc import Permute

from terratorch_deo.bands import BANDS, OPTICAL_BANDS, BandMap, Missing, band_map, default_band_map
from terratorch_deo.errors import BandError, DEOError
from terratorch_deo.models.swin import NORM_EPS, SwinTrunk
from terratorch_deo.models.vit import ViTTrunk
from terratorch_deo.scaling import InputContract


class Features(NamedTuple):
    """What a trunk gives for a batch.

    Attributes:
        maps: One (B, C, H, W) map per stage (Swin) or chosen block (ViT), before the final norm.
        pooled: (B, C): final norm then mean over positions (Swin), normed class token (ViT).
    """

    maps: list[Tensor]
    pooled: Tensor


class DEOEncoder(nn.Module):
    """Encoder with a multispectral and an optical patch embedding and one shared trunk.

    ``encoder(x)`` takes pixels as the contract declares them and gives feature maps;
    ``encoder.features_of(z)`` takes standardised views, as pretraining makes them.

    Args:
        trunk: Shared trunk.
        embed_dim: Channels after the patch embedding.
        patch_size: Kernel and stride of the patch embeddings, pixels.
        bands: Names of the input's channels in order (``"B04"``, ``"RED"``, ...). ``None``: ten
            or three channels in DEO's order.
        contract: What the pixel values are.
        missing: Policy for absent bands, see `terratorch_deo.bands.band_map`.
        out_indices: Which maps ``forward`` returns.
        architecture: Name and options that rebuild the encoder; goes into checkpoints.

    Raises:
        BandError: ``bands`` lacks bands and no policy covers them.
        ScalingError: The contract has no meaning.
    """

    def __init__(
        self,
        trunk: SwinTrunk | ViTTrunk,
        *,
        embed_dim: int,
        patch_size: int,
        bands: Sequence[str | Enum] | None,
        contract: InputContract | Mapping[str, Any] | str,
        missing: Missing,
        out_indices: Sequence[int],
        architecture: dict[str, Any],
    ) -> None:
        super().__init__()
        self.contract = InputContract.of(contract)
        self.bands = None if bands is None else band_map(bands, missing)
        if bands is None and missing is not None:
            raise BandError("missing= needs bands=: name the channels that the input has.")
        n_maps = len(trunk.channels)
        wrong = [i for i in out_indices if not -n_maps <= i < n_maps]
        if wrong or not len(out_indices):
            raise DEOError(f"out_indices={tuple(out_indices)} must be among 0 to {n_maps - 1}.")
        self.out_indices = tuple(i % n_maps for i in out_indices)
        self.out_channels = [trunk.channels[i] for i in self.out_indices]
        self.num_features = trunk.channels[-1]
        self.architecture = architecture
        self.stride = patch_size  # not `patch_size`: TerraTorch pads to twice any such attribute
        self.conv_ms = _patch_embedding(len(BANDS), embed_dim, patch_size)
        self.conv_rgb = _patch_embedding(len(OPTICAL_BANDS), embed_dim, patch_size)
        self.trunk = trunk
        self._checked = False

    def freeze(self) -> None:
        """Stop training: no gradients, eval mode."""
        self.requires_grad_(False).eval()

    def _keep_frozen(self) -> None:
        """Hosts freeze by ``requires_grad`` alone; stochastic depth must be off then too."""
        if self.training and not any(p.requires_grad for p in self.parameters()):
            self.eval()

    def prepare(self, x: Tensor) -> Tensor:
        """Pixels as declared -> standardised channels of a patch embedding.

        The first batch is checked against the contract.

        Args:
            x: (B, C, H, W), values as the contract declares.

        Returns:
            (B, 10, H, W) or (B, 3, H, W).

        Raises:
            BandError: Wrong number of channels.
            ScalingError: The values contradict the contract.
        """
        if x.ndim != 4:
            raise BandError(f"the input has shape {tuple(x.shape)}, expected (B, C, H, W).")
        bands = self.bands or default_band_map(x.shape[1])
        if x.shape[1] != bands.n_channels:
            raise BandError(
                f"the input has {x.shape[1]} channels but bands= names {bands.n_channels}. "
                "Select the named bands in the datamodule or name every channel in order."
            )
        if not self._checked and not _traced(x):
            self.contract.check(x, bands)
            self._checked = True
        z = self.contract.standardize(x, bands)
        return z if torch.is_autocast_enabled(x.device.type) else z.to(self.conv_ms[0].weight.dtype)

    def embed(self, z: Tensor) -> Tensor:
        """Standardised (B, 10 or 3, H, W) -> patches (B, h, w, C).

        Swin's convolution leaves out pixels beyond the last whole patch, as torchvision's does. A
        side smaller than a patch, and any side of a ViT's input, is padded with zeros.
        """
        stem = self.conv_ms if z.shape[1] == len(BANDS) else self.conv_rgb
        h, w, p = z.shape[-2], z.shape[-1], self.stride
        if isinstance(self.trunk, ViTTrunk) or h < p or w < p:
            z = F.pad(z, (0, -w % p, 0, -h % p))
        return stem(z)

    def features_of(self, z: Tensor | Sequence[Tensor]) -> Features:
        """Features of standardised views.

        Args:
            z: (B, 10, H, W) or (B, 3, H, W), or several such tensors of one size, which share one
                pass through the trunk (their samples follow each other in the result).

        Returns:
            All maps and the pooled vectors.
        """
        views = [z] if isinstance(z, Tensor) else list(z)
        patches = torch.cat([self.embed(v) for v in views]) if len(views) > 1 else self.embed(views[0])
        if isinstance(self.trunk, ViTTrunk):
            maps, pooled = self.trunk(patches)
        else:
            maps = self.trunk(patches)
            pooled = self.trunk.norm(maps[-1]).mean(dim=(1, 2))
        return Features([m.permute(0, 3, 1, 2) for m in maps], pooled)

    def forward(self, x: Tensor, **kwargs: Any) -> list[Tensor]:
        """Feature maps before the final norm.

        Args:
            x: (B, C, H, W), values as the contract declares; any height and width.
            **kwargs: Other entries of a host's batch; not used.

        Returns:
            One (B, C, h, w) map per ``out_indices``; strides 4, 8, 16, 32 (Swin) or 8 (ViT).
        """
        self._keep_frozen()
        maps = self.features_of(self.prepare(x)).maps
        return [maps[i].contiguous() for i in self.out_indices]

    def pooled(self, x: Tensor) -> Tensor:
        """One vector per image.

        Args:
            x: (B, C, H, W), values as the contract declares.

        Returns:
            (B, C): final norm, then mean over positions (Swin); class token (ViT).
        """
        self._keep_frozen()
        return self.features_of(self.prepare(x)).pooled

    def extra_repr(self) -> str:
        """Contract, for ``print(model)``."""
        return f"unit={self.contract.unit}, contract={self.contract.hash}"


def _patch_embedding(channels: int, dim: int, patch_size: int) -> nn.Sequential:
    embedding = nn.Sequential(
        nn.Conv2d(channels, dim, patch_size, patch_size),
        Permute([0, 2, 3, 1]),
        nn.LayerNorm(dim, eps=NORM_EPS),
    )
    nn.init.trunc_normal_(embedding[0].weight, std=0.02)
    nn.init.zeros_(embedding[0].bias)
    return embedding


def _traced(x: Tensor) -> bool:
    """Whether values cannot be looked at: compiling, exporting, or a meta tensor."""
    return (
        torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or torch.onnx.is_in_onnx_export()
        or x.is_meta
    )


def _swin(
    name: str,
    embed_dim: int,
    depths: Sequence[int],
    num_heads: Sequence[int],
    *,
    pretrained: bool | str,
    bands: Sequence[str | Enum] | None,
    contract: InputContract | Mapping[str, Any] | str,
    out_indices: Sequence[int],
    window_size: int,
    drop_path_rate: float,
    ckpt_path: str | Path | None,
    missing: Missing,
    grad_checkpointing: bool,
) -> DEOEncoder:
    if window_size < 2:
        raise DEOError(f"window_size={window_size} must be at least 2 (12 or 7 are usual).")
    trunk = SwinTrunk(
        embed_dim=embed_dim,
        depths=depths,
        num_heads=num_heads,
        window_size=window_size,
        drop_path_rate=drop_path_rate,
        grad_checkpointing=grad_checkpointing,
    )
    encoder = DEOEncoder(
        trunk,
        embed_dim=embed_dim,
        patch_size=4,
        bands=bands,
        contract=contract,
        missing=missing,
        out_indices=out_indices,
        architecture={"name": name, "window_size": window_size},
    )
    return _initialised(encoder, pretrained, ckpt_path)


def _initialised(
    encoder: DEOEncoder, pretrained: bool | str, ckpt_path: str | Path | None
) -> DEOEncoder:
    from terratorch_deo.models import weights

    if ckpt_path is not None:
        weights.load_weights(encoder, ckpt_path)
    elif pretrained:
        weights.load_released(encoder)
    return encoder


def deo_swin_tiny(
    pretrained: bool = False,
    bands: Sequence[str | Enum] | None = None,
    contract: InputContract | Mapping[str, Any] | str = "dn",
    out_indices: Sequence[int] = (0, 1, 2, 3),
    window_size: int = 12,
    drop_path_rate: float = 0.0,
    ckpt_path: str | Path | None = None,
    missing: Missing = None,
    grad_checkpointing: bool = False,
) -> DEOEncoder:
    """Swin-T: width 96, depths 2/2/6/2, 28 M parameters.

    Args:
        pretrained: Load the released weights of this architecture.
        bands: Names of the input's channels in order; ``None``: ten or three in DEO's order.
        contract: What the pixel values are: ``"dn"``, ``"dn_offset"``, ``"reflectance"``,
            ``"uint8"``, ``"standardized"``, a mapping or an `InputContract`.
        out_indices: Which of the four stages ``forward`` returns.
        window_size: Attention window in tokens, 12 or 7.
        drop_path_rate: Stochastic depth of the last block.
        ckpt_path: Weight file in any layout that `load_weights` knows.
        missing: Policy for absent bands: ``"mean"`` or {absent: given band or ``"mean"``}.
        grad_checkpointing: Trade compute for memory in training.

    Returns:
        The encoder.

    Raises:
        BandError: Bands are missing without a policy.
        ScalingError: The contract has no meaning.
        WeightsError: Weights do not fit or cannot be had.
    """
    return _swin("deo_swin_tiny", 96, (2, 2, 6, 2), (3, 6, 12, 24), **locals())


def deo_swin_small(
    pretrained: bool = False,
    bands: Sequence[str | Enum] | None = None,
    contract: InputContract | Mapping[str, Any] | str = "dn",
    out_indices: Sequence[int] = (0, 1, 2, 3),
    window_size: int = 12,
    drop_path_rate: float = 0.0,
    ckpt_path: str | Path | None = None,
    missing: Missing = None,
    grad_checkpointing: bool = False,
) -> DEOEncoder:
    """Swin-S: width 96, depths 2/2/18/2, 49 M parameters. Arguments as `deo_swin_tiny`."""
    return _swin("deo_swin_small", 96, (2, 2, 18, 2), (3, 6, 12, 24), **locals())


def deo_swin_base(
    pretrained: bool = False,
    bands: Sequence[str | Enum] | None = None,
    contract: InputContract | Mapping[str, Any] | str = "dn",
    out_indices: Sequence[int] = (0, 1, 2, 3),
    window_size: int = 12,
    drop_path_rate: float = 0.0,
    ckpt_path: str | Path | None = None,
    missing: Missing = None,
    grad_checkpointing: bool = False,
) -> DEOEncoder:
    """Swin-B: width 128, depths 2/2/18/2, 87 M parameters. Arguments as `deo_swin_tiny`."""
    return _swin("deo_swin_base", 128, (2, 2, 18, 2), (4, 8, 16, 32), **locals())


def deo_vit_base(
    pretrained: bool = False,
    bands: Sequence[str | Enum] | None = None,
    contract: InputContract | Mapping[str, Any] | str = "dn",
    out_indices: Sequence[int] = (0, 1, 2, 3),
    drop_path_rate: float = 0.0,
    ckpt_path: str | Path | None = None,
    missing: Missing = None,
    grad_checkpointing: bool = False,
) -> DEOEncoder:
    """ViT-B/8: width 768, 12 blocks, 87 M parameters; maps of blocks 3, 5, 8, 11, all at stride 8.

    For a pyramid use TerraTorch's neck ``LearnedInterpolateToPyramidal``. Other arguments as
    `deo_swin_tiny`.
    """
    trunk = ViTTrunk(
        embed_dim=768,
        depth=12,
        num_heads=12,
        drop_path_rate=drop_path_rate,
        grad_checkpointing=grad_checkpointing,
    )
    encoder = DEOEncoder(
        trunk,
        embed_dim=768,
        patch_size=8,
        bands=bands,
        contract=contract,
        missing=missing,
        out_indices=out_indices,
        architecture={"name": "deo_vit_base"},
    )
    return _initialised(encoder, pretrained, ckpt_path)




ENCODERS: dict[str, Callable[..., DEOEncoder]] = {
    f.__name__: f for f in (deo_swin_tiny, deo_swin_small, deo_swin_base, deo_vit_base)
}
"""Builders by name, as TerraTorch, timm and smp know them."""
