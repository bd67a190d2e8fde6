"""Shifted-window attention on real tokens only, equal to attention on a zero-padded map.

torchvision's Swin pads a map to a multiple of the window with zeros after the norm, and the padded
positions take part in attention. All of them have the same key and value, the bias of the qkv
layer. So the padded positions that a query sees weigh as much as *one* key whose additive bias is
the log-sum-exp of their relative-position biases: the same result without computing on padding.
"""

from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

# Additive bias of a pair that must not attend. Finite, so that the log-sum-exp of a row without any
# padded key has a gradient; far below torchvision's -100, which is zero after softmax already.
_EXCLUDED = -1e30


class WindowGroup(NamedTuple):
    """Windows of one map with the same number of real rows and columns.

    Attributes:
        n_windows: Number of windows, W.
        n_tokens: Real tokens in each, L.
        bias_index: Rows of the relative-position bias table for each pair, (P, L, L), long. P is 1
            if all windows are alike, else W.
        excluded: Pairs in different regions of a shifted map, (P, L, L), bool, or None.
        padding_index: Rows of the table for each query and padded position, (P, L, Q), or None.
        padding_excluded: Padded positions the query does not see, (P, L, Q), bool, or None.
    """

    n_windows: int
    n_tokens: int
    bias_index: Tensor
    excluded: Tensor | None
    padding_index: Tensor | None
    padding_excluded: Tensor | None


class WindowLayout(NamedTuple):
    """Where every token of a map goes.

    Attributes:
        order: Token (row-major position) at each place of the window order, (H*W,), long.
        inverse: Place of each token in the window order, (H*W,), long.
        groups: Window groups in the window order.
    """

    order: Tensor
    inverse: Tensor
    groups: tuple[WindowGroup, ...]


class _Axis(NamedTuple):
    """One axis cut into windows: per window the positions, which are real, and their regions."""

    position: Tensor  # (windows, window)
    real: Tensor  # (windows, window)
    region: Tensor  # (windows, window)


def _cut_axis(size: int, window: int, shift: int) -> _Axis:
    padded = -(-size // window) * window
    shift = 0 if padded <= window else shift
    rolled = torch.arange(padded)
    position = (rolled + shift) % padded
    region = torch.zeros(padded, dtype=torch.long)
    if shift:
        region = (rolled >= padded - window).long() + (rolled >= padded - shift).long()
    cut = (-1, window)
    return _Axis(position.view(cut), (position < size).view(cut), region.view(cut))


def _pairs(rows: Tensor, columns: Tensor, combine: str) -> Tensor:
    """Combine a row value (n, w) and a column value (m, w) over all windows: (n, m, w, w)."""
    r, c = rows[:, None, :, None], columns[None, :, None, :]
    return r & c if combine == "and" else r * 3 + c


@lru_cache(maxsize=256)
def window_layout(
    height: int, width: int, window: int, shift: int, device: torch.device
) -> WindowLayout:
    """Index tables of one map size; built once per size, window, shift and device.

    Args:
        height: Rows of the map, >= 1.
        width: Columns of the map, >= 1.
        window: Window size in tokens.
        shift: Cyclic shift in tokens; dropped along an axis that one window covers.
        device: Where the tables live.

    Returns:
        The layout.
    """
    rows, columns = _cut_axis(height, window, shift), _cut_axis(width, window, shift)
    area = window * window
    token = (
        rows.position[:, None, :, None] * width + columns.position[None, :, None, :]
    ).reshape(-1, area)
    real = _pairs(rows.real, columns.real, "and").reshape(-1, area)
    region = _pairs(rows.region, columns.region, "code").reshape(-1, area)
    shape = torch.stack(
        [
            rows.real.sum(1)[:, None].expand(-1, len(columns.real)).reshape(-1),
            columns.real.sum(1)[None].expand(len(rows.real), -1).reshape(-1),
        ],
        dim=1,
    )
    offset = torch.arange(area)
    row_of, column_of = offset // window, offset % window
    relative = (row_of[:, None] - row_of[None] + window - 1) * (2 * window - 1) + (
        column_of[:, None] - column_of[None] + window - 1
    )
    order, groups = [], []
    for size in shape.unique(dim=0):
        if not size.prod():
            continue
        members = (shape == size).all(1).nonzero()[:, 0]
        order.append(token[members][real[members]])
        groups.append(_group(real[members], region[members], relative, device))
    permutation = torch.cat(order).to(device)
    return WindowLayout(permutation, torch.argsort(permutation), tuple(groups))


def _group(
    real: Tensor, region: Tensor, relative: Tensor, device: torch.device
) -> WindowGroup:
    n_windows, length = len(real), int(real[0].sum())
    alike = bool((real == real[0]).all() and (region == region[0]).all())
    if alike:
        real, region = real[:1], region[:1]
    inside = [mask.nonzero()[:, 0] for mask in real]
    outside = [(~mask).nonzero()[:, 0] for mask in real]

    def table(keys: list[Tensor]) -> tuple[Tensor, Tensor | None]:
        index = torch.stack([relative[q][:, k] for q, k in zip(inside, keys, strict=True)])
        excluded = torch.stack(
            [r[q][:, None] != r[k][None] for r, q, k in zip(region, inside, keys, strict=True)]
        )
        return index.to(device), excluded.to(device) if excluded.any() else None

    bias_index, excluded = table(inside)
    padding_index = padding_excluded = None
    if len(outside[0]):
        padding_index, padding_excluded = table(outside)
    return WindowGroup(n_windows, length, bias_index, excluded, padding_index, padding_excluded)


def _bias(group: WindowGroup, table: Tensor) -> Tensor:
    """Additive attention bias of a group, (P, heads, L, L) or (P, heads, L, L + 1)."""

    def gather(index: Tensor, excluded: Tensor | None) -> Tensor:
        bias = table[index].permute(0, 3, 1, 2)  # P, heads, L, keys
        return bias if excluded is None else bias.masked_fill(excluded[:, None], _EXCLUDED)

    bias = gather(group.bias_index, group.excluded)
    if group.padding_index is None:
        return bias
    padding = gather(group.padding_index, group.padding_excluded)
    return torch.cat([bias, padding.logsumexp(dim=-1, keepdim=True)], dim=-1)


def shifted_window_attention(
    qkv: Tensor,
    qkv_bias: Tensor,
    bias_table: Tensor,
    *,
    num_heads: int,
    window: int,
    shift: int,
) -> Tensor:
    """Attention within shifted windows, as on the map padded with zeros before the qkv layer.

    Args:
        qkv: Queries, keys and values of the real tokens, (B, H, W, 3 C).
        qkv_bias: Bias of the qkv layer, (3 C,): what every padded position has as q, k, v.
        bias_table: Relative-position biases, ((2 window - 1)^2, heads).
        num_heads: Heads; C must be a multiple.
        window: Window size in tokens.
        shift: Cyclic shift in tokens, 0 <= shift < window.

    Returns:
        Attended values, (B, H, W, C), before the output projection.
    """
    b, h, w, channels = qkv.shape[0], qkv.shape[1], qkv.shape[2], qkv.shape[3] // 3
    head_dim = channels // num_heads
    layout = window_layout(h, w, window, shift, qkv.device)
    tokens = qkv.reshape(b, h * w, 3 * channels)[:, layout.order]
    virtual = qkv_bias.to(qkv.dtype).view(3, num_heads, 1, head_dim)
    out, start = [], 0
    for group in layout.groups:
        count = group.n_windows * group.n_tokens
        part = tokens[:, start : start + count]
        start += count
        # B, W, L, 3, heads, d -> 3, B, W, heads, L, d
        part = part.reshape(b, group.n_windows, group.n_tokens, 3, num_heads, head_dim)
        q, k, v = part.permute(3, 0, 1, 4, 2, 5).unbind(0)
        if group.padding_index is not None:
            shape = (b, group.n_windows, num_heads, 1, head_dim)
            k = torch.cat([k, virtual[1].expand(shape)], dim=-2)
            v = torch.cat([v, virtual[2].expand(shape)], dim=-2)
        bias = _bias(group, bias_table).to(q.dtype)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        out.append(attended.transpose(2, 3).reshape(b, count, channels))
    return torch.cat(out, dim=1)[:, layout.inverse].view(b, h, w, channels)
