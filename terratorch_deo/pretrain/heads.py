"""Projection heads (method 1)."""

import torch.nn.functional as F
from torch import Tensor, nn


class ProjectionHead(nn.Module):
    """Three-layer MLP with GELU, then L2 normalisation.

    Args:
        in_dim: Width of the features.
        out_dim: Width of the projections: 256 (multispectral) or the optical teacher's width.
        hidden_dim: Width of the hidden layers.
    """

    def __init__(self, in_dim: int, out_dim: int = 256, hidden_dim: int = 2048) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(in_dim, hidden_dim),
            nn.GELU(),
            nn.Linear(hidden_dim, hidden_dim),
            nn.GELU(),
            nn.Linear(hidden_dim, out_dim),
        )
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_dim) -> (..., out_dim), L2-normalised over the last axis."""
        return F.normalize(self.mlp(x), dim=-1, eps=1e-6)

    def forward_map(self, x: Tensor) -> Tensor:
        """(N, in_dim, h, w) -> (N, out_dim, h, w), every position projected and normalised."""
        return self(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
