"""Moving-average update of the multispectral teacher."""

import torch
from torch import nn

from terratorch_deo.errors import TrainingError


@torch.no_grad()
def update_teacher(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """``teacher = momentum * teacher + (1 - momentum) * student``, parameters matched by name.

    Buffers are copied. The student may have more (optical heads), the teacher not.

    Args:
        teacher: Updated in place.
        student: Source.
        momentum: In [0, 1].

    Raises:
        TrainingError: The teacher has a tensor that the student lacks.
    """
    source = dict(student.named_parameters())
    target = dict(teacher.named_parameters())
    unknown = sorted(set(target) - set(source))
    if unknown:
        raise TrainingError(
            f"{len(unknown)} teacher parameters have no counterpart in the student (first: "
            f"{unknown[0]}). Build the teacher as a copy of the student."
        )
    names = list(target)
    torch._foreach_lerp_(
        [target[n].data for n in names], [source[n].data for n in names], 1 - momentum
    )
    buffers = dict(student.named_buffers())
    for name, buffer in teacher.named_buffers():
        buffer.copy_(buffers[name])
