"""Student and multispectral teacher: an encoder with its projection heads (method 1)."""

import copy
from typing import NamedTuple

import torch
from torch import Tensor, nn

from terratorch_deo.models.encoder import DEOEncoder
from terratorch_deo.models.vit import ViTTrunk
from terratorch_deo.pretrain.heads import ProjectionHead
from terratorch_deo.pretrain.views import Views


class StudentOutput(NamedTuple):
    """Projections of a batch of B images in V views, the first G of them global.

    Attributes:
        multispectral: Projected pooled features of the multispectral views, (V, B, d).
        optical: Projected pooled features of the optical views, (V, B, D); None without any
            class-token distillation.
        maps: Projected mid and late maps of the global optical views, (G B, D, h, w) each, or None
            without patch distillation.
        pooled: Pooled features of the global multispectral views, (G B, C).
    """

    multispectral: Tensor
    optical: Tensor | None
    maps: tuple[Tensor, Tensor] | None
    pooled: Tensor


class Student(nn.Module):
    """Encoder with one multispectral and up to three optical projection heads.

    Args:
        encoder: The encoder.
        bottleneck_dim: Width of the multispectral projections, d.
        optical_dim: Width of the optical teacher, D; None: no optical heads.
        optical_path: ``"separate"``: optical views go through the optical patch embedding.
            ``"multispectral"``: the optical teacher's class token is matched by the multispectral
            features themselves (second row of the paper's ablation). ``"none"``: no optical loss.
        patch_distillation: Whether mid and late patch tokens are distilled (optical path only).
    """

    def __init__(
        self,
        encoder: DEOEncoder,
        *,
        bottleneck_dim: int = 256,
        optical_dim: int | None = None,
        optical_path: str = "separate",
        patch_distillation: bool = True,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.optical_path = optical_path
        self.patches = patch_distillation and optical_path == "separate"
        channels = encoder.trunk.channels
        # Stages 3 and 4 of a Swin; blocks 5 and 11 of a ViT, whose maps are 3, 5, 8, 11.
        self.mid_map, self.late_map = (1 if isinstance(encoder.trunk, ViTTrunk) else 2), 3
        self.head_ms = ProjectionHead(encoder.num_features, bottleneck_dim)
        if optical_path != "none":
            assert optical_dim is not None
            self.head_class = ProjectionHead(encoder.num_features, optical_dim)
        if self.patches:
            assert optical_dim is not None
            self.head_mid = ProjectionHead(channels[self.mid_map], optical_dim)
            self.head_late = ProjectionHead(channels[self.late_map], optical_dim)

    def forward(self, views: Views) -> StudentOutput:
        """Project all views; views of one size share one pass through the trunk."""
        n_global, b = views.global_multispectral.shape[:2]
        global_ms, local_ms = views.global_multispectral, views.local_multispectral
        separate = self.optical_path == "separate"

        def inputs(multispectral: Tensor, optical: Tensor) -> list[Tensor]:
            pair = [multispectral.flatten(0, 1)]
            return [*pair, optical.flatten(0, 1)] if separate else pair

        large = self.encoder.features_of(inputs(global_ms, views.global_optical))
        pooled_ms, pooled_opt = [large.pooled[: n_global * b]], [large.pooled[n_global * b :]]
        if len(local_ms):
            n_local = len(local_ms) * b
            small = self.encoder.features_of(inputs(local_ms, views.local_optical)).pooled
            pooled_ms.append(small[:n_local])
            pooled_opt.append(small[n_local:])
        multispectral = torch.cat(pooled_ms)
        optical = maps = None
        if self.optical_path != "none":
            source = torch.cat(pooled_opt) if separate else multispectral
            optical = self.head_class(source).unflatten(0, (-1, b))
        if self.patches:
            mid, late = large.maps[self.mid_map], large.maps[self.late_map]
            maps = (
                self.head_mid.forward_map(mid[n_global * b :]),
                self.head_late.forward_map(late[n_global * b :]),
            )
        projected = self.head_ms(multispectral).unflatten(0, (-1, b))
        return StudentOutput(projected, optical, maps, pooled_ms[0])


class MultispectralTeacher(nn.Module):
    """Exponential moving average of the student's encoder and multispectral head.

    It runs deterministically: always in eval mode, without gradients.

    Args:
        student: Student to start from.
    """

    def __init__(self, student: Student) -> None:
        super().__init__()
        self.encoder = copy.deepcopy(student.encoder)
        self.head_ms = copy.deepcopy(student.head_ms)
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "MultispectralTeacher":
        """Stay in eval mode whatever ``mode`` is."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, global_multispectral: Tensor) -> Tensor:
        """(G, B, 10, S, S) -> (G, B, d), L2-normalised."""
        g, b = global_multispectral.shape[:2]
        pooled = self.encoder.features_of(global_multispectral.flatten(0, 1)).pooled
        return self.head_ms(pooled).unflatten(0, (g, b))
