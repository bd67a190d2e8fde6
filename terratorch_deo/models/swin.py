"""Swin trunk: blocks, stages and patch merging behind the patch embeddings.

Names follow torchvision's Swin, so that its state dicts and those of TorchGeo's DEO load as they
are: ``features`` holds stages at 0, 2, 4, 6 and mergers at 1, 3, 5.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from terratorch_deo.models.window_attention import shifted_window_attention

NORM_EPS = 1e-5


class StochasticDepth(nn.Module):
    """Residual branch that each sample of a batch drops on its own, without computing it.

    The branch runs on the kept samples only; its output is scaled by 1 / (1 - rate) and added back:
    the same distribution as computing every branch and multiplying the dropped ones by zero.

    Args:
        rate: Probability that a sample drops the branch, 0 <= rate < 1.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor, branch: Callable[[Tensor], Tensor]) -> Tensor:
        """``x + branch(x)`` with dropped samples.

        Args:
            x: (B, ...).
            branch: Function of (b, ...) that treats samples independently.

        Returns:
            (B, ...).
        """
        if not self.training or self.rate == 0:
            return x + branch(x)
        kept = (torch.rand(len(x), device=x.device) >= self.rate).nonzero()[:, 0]
        if len(kept) == 0:
            return x
        update = branch(x[kept])
        return x.index_add(0, kept, update.to(x.dtype), alpha=1 / (1 - self.rate))

    def extra_repr(self) -> str:
        """Rate, for ``print(model)``."""
        return f"rate={self.rate:.3f}"


class WindowAttention(nn.Module):
    """Window attention with a relative-position bias.

    Args:
        dim: Channels.
        num_heads: Heads.
        window_size: Window in tokens.
        shift: Cyclic shift in tokens.
    """

    def __init__(self, dim: int, num_heads: int, window_size: int, shift: int) -> None:
        super().__init__()
        self.num_heads, self.window_size, self.shift = num_heads, window_size, shift
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        side = 2 * window_size - 1
        self.relative_position_bias_table = nn.Parameter(torch.zeros(side * side, num_heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        attended = shifted_window_attention(
            self.qkv(x),
            self.qkv.bias,
            self.relative_position_bias_table,
            num_heads=self.num_heads,
            window=self.window_size,
            shift=self.shift,
        )
        return self.proj(attended)


class SwinBlock(nn.Module):
    """Window attention and an MLP, both residual with stochastic depth.

    Args:
        dim: Channels.
        num_heads: Heads.
        window_size: Window in tokens.
        shift: Cyclic shift in tokens.
        drop_path: Probability that a sample drops a branch.
    """

    def __init__(
        self, dim: int, num_heads: int, window_size: int, shift: int, drop_path: float
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.attn = WindowAttention(dim, num_heads, window_size, shift)
        self.stochastic_depth = StochasticDepth(drop_path)
        self.norm2 = nn.LayerNorm(dim, eps=NORM_EPS)
        # 1 and 2 of torchvision's MLP are the activation and a dropout.
        self.mlp = nn.Sequential(
            nn.Linear(dim, 4 * dim), nn.GELU(), nn.Identity(), nn.Linear(4 * dim, dim)
        )
        for linear in (self.mlp[0], self.mlp[3]):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.normal_(linear.bias, std=1e-6)

    def _attend(self, x: Tensor) -> Tensor:
        return self.attn(self.norm1(x))

    def _mlp(self, x: Tensor) -> Tensor:
        return self.mlp(self.norm2(x))

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        return self.stochastic_depth(self.stochastic_depth(x, self._attend), self._mlp)


class PatchMerging(nn.Module):
    """Halve the map, double the channels; odd sides are padded with a zero row or column.

    Args:
        dim: Channels of the input.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim, eps=NORM_EPS)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, ceil(H / 2), ceil(W / 2), 2 C)."""
        b, h, w, c = x.shape
        x = F.pad(x, (0, 0, 0, w % 2, 0, h % 2))
        x = x.reshape(b, (h + 1) // 2, 2, (w + 1) // 2, 2, c)
        # Neighbours in torchvision's order: column by column.
        x = x.permute(0, 1, 3, 4, 2, 5).flatten(3)
        return self.reduction(self.norm(x))


class SwinTrunk(nn.Module):
    """Four stages behind a patch embedding.

    Args:
        embed_dim: Channels of the first stage; doubled by each merger.
        depths: Blocks per stage, two or more stages.
        num_heads: Heads per stage.
        window_size: Window in tokens.
        drop_path_rate: Stochastic depth of the last block; rises linearly from 0.
        grad_checkpointing: Recompute blocks in the backward pass to save memory.
    """

    def __init__(
        self,
        *,
        embed_dim: int,
        depths: Sequence[int],
        num_heads: Sequence[int],
        window_size: int,
        drop_path_rate: float = 0.0,
        grad_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.grad_checkpointing = grad_checkpointing
        self.channels = [embed_dim * 2**i for i in range(len(depths))]
        self.features = nn.Sequential()
        n_blocks, done = sum(depths), 0
        for stage, (depth, heads) in enumerate(zip(depths, num_heads, strict=True)):
            if stage:
                self.features.append(PatchMerging(self.channels[stage - 1]))
            blocks = nn.Sequential()
            for block in range(depth):
                rate = drop_path_rate * done / max(n_blocks - 1, 1)
                shift = window_size // 2 if block % 2 else 0
                blocks.append(SwinBlock(self.channels[stage], heads, window_size, shift, rate))
                done += 1
            self.features.append(blocks)
        self.norm = nn.LayerNorm(self.channels[-1], eps=NORM_EPS)

        for name, module in self.named_modules():
            if isinstance(module, nn.Linear) and ".mlp." not in name:
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Stage outputs before the final norm.

        Args:
            x: Embedded patches, (B, H, W, C).

        Returns:
            One (B, h, w, c) map per stage.
        """
        maps = []
        for i, layer in enumerate(self.features):
            if i % 2:
                x = layer(x)
                continue
            for block in layer:
                if self.grad_checkpointing and self.training and torch.is_grad_enabled():
                    x = checkpoint(block, x, use_reentrant=False)
                else:
                    x = block(x)
            maps.append(x)
        return maps
