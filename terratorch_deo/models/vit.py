"""ViT trunk of timm blocks behind the patch embeddings (patch 8, class token)."""

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

NORM_EPS = 1e-6  # DINO's ViT


class ViTTrunk(nn.Module):
    """Plain vision transformer behind a patch embedding.

    Args:
        embed_dim: Width.
        depth: Blocks.
        num_heads: Heads.
        grid_size: Side of the position-embedding grid in patches; other sizes are interpolated.
        map_blocks: Blocks (counted from 0) whose outputs are the feature maps.
        drop_path_rate: Stochastic depth of the last block; rises linearly from 0.
        grad_checkpointing: Recompute blocks in the backward pass to save memory.
    """

    def __init__(
        self,
        *,
        embed_dim: int,
        depth: int,
        num_heads: int,
        grid_size: int = 28,
        map_blocks: Sequence[int] = (3, 5, 8, 11),
        drop_path_rate: float = 0.0,
        grad_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        from timm.layers import trunc_normal_
        from timm.models.vision_transformer import Block

        self.grad_checkpointing = grad_checkpointing
        self.channels = [embed_dim] * len(map_blocks)
        self.map_blocks = tuple(map_blocks)
        self.grid_size = grid_size
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + grid_size**2, embed_dim))
        rates = torch.linspace(0, drop_path_rate, depth).tolist()
        self.blocks = nn.ModuleList(
            Block(
                embed_dim,
                num_heads,
                qkv_bias=True,
                drop_path=rate,
                norm_layer=partial(nn.LayerNorm, eps=NORM_EPS),
            )
            for rate in rates
        )
        self.norm = nn.LayerNorm(embed_dim, eps=NORM_EPS)
        for parameter in (self.cls_token, self.pos_embed):
            trunc_normal_(parameter, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def _positions(self, height: int, width: int) -> Tensor:
        if (height, width) == (self.grid_size, self.grid_size):
            return self.pos_embed
        grid = self.pos_embed[:, 1:].unflatten(1, (self.grid_size, self.grid_size))
        grid = F.interpolate(
            grid.permute(0, 3, 1, 2).float(), size=(height, width), mode="bicubic", antialias=True
        )
        return torch.cat([self.pos_embed[:, :1], grid.flatten(2).mT.to(self.pos_embed)], dim=1)

    def forward(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """Maps of the chosen blocks and the class token after the final norm.

        Args:
            x: Embedded patches, (B, H, W, C).

        Returns:
            Patch maps before the final norm, (B, H, W, C) each, and class token, (B, C).
        """
        b, h, w, _ = x.shape
        x = torch.cat([self.cls_token.expand(b, -1, -1), x.flatten(1, 2)], dim=1)
        x = x + self._positions(h, w)
        maps = []
        for i, block in enumerate(self.blocks):
            if self.grad_checkpointing and self.training and torch.is_grad_enabled():
                x = checkpoint(block, x, use_reentrant=False)
            else:
                x = block(x)
            if i in self.map_blocks:
                maps.append(x[:, 1:].unflatten(1, (h, w)))
        return maps, self.norm(x[:, 0])
