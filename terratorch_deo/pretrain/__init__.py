"""Dual-teacher pretraining: views, networks, losses and the task."""

from typing import TYPE_CHECKING, Any

from terratorch_deo.pretrain.losses import (
    CodingRateTerms,
    DEOLoss,
    LossTerms,
    class_token_loss,
    coding_rate,
    coding_rate_loss,
    patch_token_loss,
)
from terratorch_deo.pretrain.teachers import OpticalTeacher, TeacherFeatures
from terratorch_deo.pretrain.views import DualTeacherViews, Views

if TYPE_CHECKING:
    from terratorch_deo.pretrain.task import DEOTask

__all__ = [
    "CodingRateTerms",
    "DEOLoss",
    "DEOTask",
    "DualTeacherViews",
    "LossTerms",
    "OpticalTeacher",
    "TeacherFeatures",
    "Views",
    "class_token_loss",
    "coding_rate",
    "coding_rate_loss",
    "patch_token_loss",
]


def __getattr__(name: str) -> Any:
    """Import `DEOTask` when it is asked for: it needs Lightning and TorchGeo."""
    if name == "DEOTask":
        from terratorch_deo.pretrain.task import DEOTask

        return DEOTask
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
