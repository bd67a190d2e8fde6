"""Parameter groups, schedules as step -> value, and gradient clipping (method 5)."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

REFERENCE_BATCH = 256  # global batch that the peak learning rate is stated for

_NO_DECAY = ("pos_embed", "cls_token", "relative_position_bias_table")


@dataclass(frozen=True)
class CosineSchedule:
    """Linear warm-up, then half a cosine from ``start`` to ``end``.

    Attributes:
        start: Value after the warm-up.
        end: Value at the last step and beyond.
        steps: Steps of the whole schedule.
        warmup_steps: Steps of the warm-up.
        warmup_start: Value at step 0 if there is a warm-up.
    """

    start: float
    end: float
    steps: int
    warmup_steps: int = 0
    warmup_start: float = 0.0

    def __call__(self, step: int) -> float:
        """Value at a step, counted from 0."""
        if step < self.warmup_steps:
            return self.warmup_start + (self.start - self.warmup_start) * step / self.warmup_steps
        length = max(self.steps - self.warmup_steps - 1, 1)
        share = min(max(step - self.warmup_steps, 0) / length, 1.0)
        return self.end + (self.start - self.end) * (1 + math.cos(math.pi * share)) / 2


def scaled_lr(base: float, global_batch: int) -> float:
    """Peak learning rate: ``base`` times global batch / 256."""
    return base * global_batch / REFERENCE_BATCH


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Trainable parameters with and without weight decay.

    Args:
        module: Student.
        weight_decay: Decay of matrices and kernels; biases, norms and position embeddings get none.

    Returns:
        Two groups for an optimizer.
    """
    decay, plain = [], []
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        exempt = parameter.ndim < 2 or name.endswith(_NO_DECAY)
        (plain if exempt else decay).append(parameter)
    return [
        {"params": decay, "weight_decay": weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]


@torch.no_grad()
def clip_each_parameter_(parameters: Iterable[Tensor], max_norm: float) -> None:
    """Scale each tensor's gradient to a norm of at most ``max_norm``, as DINO's code does.

    Args:
        parameters: Those without a gradient are passed over.
        max_norm: Largest norm of one tensor's gradient.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients:
        return
    norms = torch._foreach_norm(gradients)
    factors = [(max_norm / (norm + 1e-6)).clamp(max=1.0) for norm in norms]
    torch._foreach_mul_(gradients, factors)
