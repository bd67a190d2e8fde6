"""Losses: coding rate, class token, patch tokens, and their weighted sum (method 3 and 4)."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from terratorch_deo.errors import TrainingError
from terratorch_deo.pretrain.distributed import all_reduce_sum, world_size


class CodingRateTerms(NamedTuple):
    """Multispectral loss and its two terms, scalars.

    Attributes:
        loss: ``-alpha * compression - expansion``.
        compression: Mean cosine of all pairs of a teacher view and another student view, C.
        expansion: Coding rate, R.
    """

    loss: Tensor
    compression: Tensor
    expansion: Tensor


def _check_views(student: Tensor, teacher: Tensor) -> None:
    if (
        student.ndim != 3
        or teacher.ndim != 3
        or student.shape[1:] != teacher.shape[1:]
        or len(student) < len(teacher)
        or len(student) < 2
    ):
        raise TrainingError(
            f"student views {tuple(student.shape)} and teacher views {tuple(teacher.shape)} do not "
            "fit: expected (V, B, d) and (G, B, d) with V >= G, V >= 2, the global views first."
        )


def cross_view_cosine(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean cosine over all pairs (g, v), v != g, and the batch.

    Args:
        student: L2-normalised, (V, B, d); the first G views are the teacher's, in order.
        teacher: L2-normalised, (G, B, d).

    Returns:
        Scalar in [-1, 1].
    """
    v, g, b = len(student), len(teacher), student.shape[1]
    every = (student.sum(0) * teacher.sum(0)).sum()
    same = (student[:g] * teacher).sum()
    return (every - same) / (b * (g * v - g))


def coding_rate(z: Tensor, *, eps: float = 0.05, sync: bool = True) -> Tensor:
    """Volume that one view's embeddings span; grows as the batch spreads out.

    ``1/2 logdet(I + d / (n eps) z^T z)``, n = embeddings on all ranks. A collapsed batch gives
    ``1/2 log(1 + d / eps)``, an isotropic one ``d/2 log(1 + 1 / eps)``.

    Args:
        z: Embeddings, (B, d); computed in float32 under autocast too.
        eps: Allowed distortion, > 0; smaller pushes harder.
        sync: Sum z^T z over ranks with gradient, so that the GPU count does not matter.

    Returns:
        Scalar.

    Raises:
        TrainingError: ``z`` is not (B, d), or holds NaN.
    """
    if z.ndim != 2:
        raise TrainingError(f"embeddings have shape {tuple(z.shape)}, expected (B, d).")
    with torch.autocast(z.device.type, enabled=False):
        z = z if z.dtype == torch.float64 else z.float()
        n, d = z.shape
        covariance = z.T @ z
        if sync:
            n *= world_size()
            covariance = all_reduce_sum(covariance)
        identity = torch.eye(d, dtype=z.dtype, device=z.device)
        try:
            factor = torch.linalg.cholesky(identity + d / (n * eps) * covariance)
        except torch.linalg.LinAlgError as error:
            raise TrainingError(
                "the covariance of the embeddings has no Cholesky factor: they hold NaN or "
                "infinity. Look for a diverged learning rate, fp16 overflow or bad input."
            ) from error
        return factor.diagonal().log().sum()


def coding_rate_loss(
    student: Tensor,
    teacher: Tensor,
    alpha: float = 1.0,
    eps: float = 0.05,
    sync_covariance: bool = True,
    expansion_weight: float = 1.0,
) -> CodingRateTerms:
    """Multispectral self-distillation with a coding-rate regularizer (3.1, 3.3, A.1).

    ``loss = -alpha * C - R`` with C the mean cosine of all pairs of a teacher view and another
    student view, and ``R = gamma / 2 * sum over g of coding_rate((student[g] + teacher[g]) / 2)``,
    ``gamma = (d + n) / (d n)``, n = images on all ranks.

    Args:
        student: L2-normalised projections, (V, B, d); the first G views are the global ones.
        teacher: L2-normalised projections of the global views, (G, B, d).
        alpha: Weight of the compression.
        eps: Distortion of the coding rate.
        sync_covariance: Sum the covariance over ranks; False is the public code's behaviour.
        expansion_weight: 1 in the paper; 0 shows the collapse without the term.

    Returns:
        Loss, compression and expansion, float32 (float64 for float64 input).

    Raises:
        TrainingError: Shapes that do not fit, or NaN embeddings.
    """
    _check_views(student, teacher)
    with torch.autocast(student.device.type, enabled=False):
        if student.dtype != torch.float64:
            student, teacher = student.float(), teacher.float()
        compression = cross_view_cosine(student, teacher)
        n = student.shape[1] * (world_size() if sync_covariance else 1)
        d = student.shape[2]
        rates = [
            coding_rate((s + t) / 2, eps=eps, sync=sync_covariance)
            for s, t in zip(student, teacher, strict=False)
        ]
        expansion = (d + n) / (d * n) / 2 * torch.stack(rates).sum()
        return CodingRateTerms(
            -alpha * compression - expansion_weight * expansion, compression, expansion
        )


def class_token_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Negative mean cosine of teacher class tokens and student projections (3.4, D_cls).

    Args:
        student: Projected pooled features, (V, B, d); the first G views are the global ones.
        teacher: Class tokens of the global views, (G, B, d).

    Returns:
        Scalar in [-1, 1], to be minimised.

    Raises:
        TrainingError: Shapes that do not fit.
    """
    _check_views(student, teacher)
    return -cross_view_cosine(
        F.normalize(student.float() if student.dtype != torch.float64 else student, dim=-1),
        F.normalize(teacher.float() if teacher.dtype != torch.float64 else teacher, dim=-1),
    )


def patch_token_loss(
    student_map: Tensor, teacher_tokens: Tensor, grid: tuple[int, int] | None = None
) -> Tensor:
    """Negative mean cosine of patch tokens (3.4, D_mid or D_late).

    Args:
        student_map: Projected map, (N, d, h, w); resized bilinearly to the teacher's token grid.
        teacher_tokens: Patch tokens of the same views, (N, T, d), row by row.
        grid: Rows and columns of the tokens; None: square.

    Returns:
        Scalar in [-1, 1], to be minimised.

    Raises:
        TrainingError: Shapes that do not fit.
    """
    n, t, d = teacher_tokens.shape
    rows, columns = grid or (int(t**0.5), int(t**0.5))
    if student_map.shape[:2] != (n, d) or rows * columns != t:
        raise TrainingError(
            f"student map {tuple(student_map.shape)} and teacher tokens "
            f"{tuple(teacher_tokens.shape)} do not fit: expected (N, d, h, w) and (N, T, d), with "
            "T a square or grid= given."
        )
    if student_map.dtype != torch.float64:
        student_map, teacher_tokens = student_map.float(), teacher_tokens.float()
    resized = F.interpolate(student_map, size=(rows, columns), mode="bilinear", align_corners=False)
    return -F.cosine_similarity(resized.flatten(2).mT, teacher_tokens, dim=-1, eps=1e-6).mean()


class LossTerms(NamedTuple):
    """All terms of a step, scalars; terms that are off are None.

    Attributes:
        total: What is minimised.
        multispectral: Multispectral loss.
        compression: C.
        expansion: R.
        optical: Optical loss before its weight.
        class_token: ``-D_cls``.
        patch_mid: ``-D_mid``.
        patch_late: ``-D_late``.
    """

    total: Tensor
    multispectral: Tensor
    compression: Tensor
    expansion: Tensor
    optical: Tensor | None = None
    class_token: Tensor | None = None
    patch_mid: Tensor | None = None
    patch_late: Tensor | None = None


@dataclass(frozen=True)
class DEOLoss:
    """``L = L_ms + delta * L_opt`` with the paper's weights.

    Attributes:
        alpha: Weight of the compression.
        eps: Distortion of the coding rate.
        beta: Weight of the class-token term.
        gamma: Weight of the mean of the patch-token terms.
        delta: Weight of the optical loss.
        expansion: Weight of the coding-rate term; 1 in the paper.
        sync_covariance: Sum the covariance over ranks.
    """

    alpha: float = 1.0
    eps: float = 0.05
    beta: float = 0.5
    gamma: float = 0.5
    delta: float = 1.0
    expansion: float = 1.0
    sync_covariance: bool = True

    def __call__(
        self,
        student: Tensor,
        teacher: Tensor,
        *,
        optical: Tensor | None = None,
        class_tokens: Tensor | None = None,
        maps: tuple[Tensor, Tensor] | None = None,
        tokens: tuple[Tensor, Tensor] | None = None,
    ) -> LossTerms:
        """All terms.

        Args:
            student: Multispectral projections of all views, (V, B, d).
            teacher: Multispectral teacher's projections of the global views, (G, B, d).
            optical: Class projections of the optical views, (V, B, D).
            class_tokens: Optical teacher's class tokens of the global views, (G, B, D).
            maps: Projected mid and late maps of the global views, (G B, D, h, w) each.
            tokens: Optical teacher's mid and late patch tokens, (G B, T, D) each.

        Returns:
            The terms.
        """
        ms = coding_rate_loss(
            student, teacher, self.alpha, self.eps, self.sync_covariance, self.expansion
        )
        total, loss, cls, mid, late = ms.loss, None, None, None, None
        if optical is not None and class_tokens is not None:
            cls = class_token_loss(optical, class_tokens)
            loss = self.beta * cls
        if maps is not None and tokens is not None:
            mid, late = (patch_token_loss(m, t) for m, t in zip(maps, tokens, strict=True))
            loss = (0 if loss is None else loss) + self.gamma * (mid + late) / 2
        if loss is not None:
            total = total + self.delta * loss
        return LossTerms(total, *ms, loss, cls, mid, late)
