"""Sums over ranks that gradients pass through; the identity without a process group."""

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """Number of ranks, 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This rank, 0 without a process group."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


class _AllReduceSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        dist.all_reduce(total)
        return total


def all_reduce_sum(x: Tensor) -> Tensor:
    """Sum over ranks; the backward pass sums the gradients over ranks too.

    Every rank holds the same function of the sum, so each gradient is world size times the wanted
    one, which the mean that DDP takes over ranks undoes.

    Args:
        x: Any shape, the same on every rank.

    Returns:
        The sum, on every rank.
    """
    if world_size() == 1:
        return x
    total: Tensor = _AllReduceSum.apply(x)
    return total
