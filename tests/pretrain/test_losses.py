"""Losses against literal float64 loops, closed forms and gradients."""

import math

import pytest
import torch
import torch.nn.functional as F

from terratorch_deo.errors import TrainingError
from terratorch_deo.pretrain import (
    DEOLoss,
    class_token_loss,
    coding_rate,
    coding_rate_loss,
    patch_token_loss,
)


def unit(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, dtype=torch.float64, generator=generator), dim=-1)


def literal_coding_rate_loss(student, teacher, alpha=1.0, eps=0.05):
    """Method section 3, number by number."""
    v_count, b_count, d = student.shape
    g_count = len(teacher)
    pairs = []
    for g in range(g_count):
        for v in range(v_count):
            if v != g:
                pairs.append(
                    sum(
                        sum(float(teacher[g, b, i]) * float(student[v, b, i]) for i in range(d))
                        for b in range(b_count)
                    )
                    / b_count
                )
    compression = sum(pairs) / len(pairs)
    expansion = 0.0
    for g in range(g_count):
        z = (student[g] + teacher[g]) / 2
        matrix = torch.eye(d, dtype=torch.float64)
        for b in range(b_count):
            matrix += d / (b_count * eps) * torch.outer(z[b], z[b])
        expansion += 0.5 * 0.5 * float(torch.linalg.slogdet(matrix)[1])
    expansion *= (d + b_count) / (d * b_count)
    return -alpha * compression - expansion, compression, expansion


@pytest.mark.parametrize(("views", "globals_", "batch", "dim"), [(12, 2, 3, 8), (2, 1, 5, 4), (4, 2, 9, 6)])
def test_coding_rate_loss_literally(views, globals_, batch, dim):
    student, teacher = unit(views, batch, dim), unit(globals_, batch, dim, seed=1)
    found = coding_rate_loss(student, teacher, alpha=0.7, eps=0.1)
    expected = literal_coding_rate_loss(student, teacher, alpha=0.7, eps=0.1)
    assert [float(t) for t in found] == pytest.approx(expected, rel=1e-12)


def test_collapsed_batch_closed_form():
    z = unit(1, 16).expand(32, 16)
    assert float(coding_rate(z, eps=0.05)) == pytest.approx(0.5 * math.log(1 + 16 / 0.05))


def test_isotropic_batch_closed_form():
    z = torch.eye(16, dtype=torch.float64).repeat(3, 1)
    assert float(coding_rate(z, eps=0.05)) == pytest.approx(8 * math.log(1 + 1 / 0.05))


def test_batch_order_does_not_matter():
    student, teacher = unit(5, 6, 8), unit(2, 6, 8, seed=1)
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    a = coding_rate_loss(student, teacher).loss
    b = coding_rate_loss(student[:, order], teacher[:, order]).loss
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_gradcheck():
    student = unit(4, 3, 5).requires_grad_()
    teacher = unit(2, 3, 5, seed=1)
    assert torch.autograd.gradcheck(lambda s: coding_rate_loss(s, teacher).loss, student)
    assert torch.autograd.gradcheck(lambda s: class_token_loss(s, teacher), student)
    maps = torch.randn(2, 4, 3, 3, dtype=torch.float64, requires_grad=True)
    tokens = torch.randn(2, 16, 4, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda m: patch_token_loss(m, tokens), maps)


def test_float32_under_autocast():
    student, teacher = unit(4, 8, 16).float(), unit(2, 8, 16, seed=1).float()
    plain = coding_rate_loss(student, teacher).loss
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(coding_rate_loss(student, teacher).loss, plain)
    half = coding_rate_loss(student.bfloat16(), teacher.bfloat16()).loss
    assert half.dtype == torch.float32


def test_class_token_loss_literally():
    student, teacher = torch.randn(5, 3, 7).double(), torch.randn(2, 3, 7).double()
    pairs = [
        float(F.cosine_similarity(teacher[g], student[v], dim=-1).mean())
        for g in range(2)
        for v in range(5)
        if v != g
    ]
    assert float(class_token_loss(student, teacher)) == pytest.approx(-sum(pairs) / len(pairs))


def test_patch_token_loss_literally():
    maps, tokens = torch.randn(2, 3, 2, 2).double(), torch.randn(2, 16, 3).double()
    total = 0.0
    for n in range(2):
        for row in range(4):
            for column in range(4):
                # Bilinear, half-pixel centres, edges repeated.
                y = min(max((row + 0.5) / 2 - 0.5, 0), 1)
                x = min(max((column + 0.5) / 2 - 0.5, 0), 1)
                m = maps[n]
                top = m[:, 0, 0] * (1 - x) + m[:, 0, 1] * x
                bottom = m[:, 1, 0] * (1 - x) + m[:, 1, 1] * x
                value = top * (1 - y) + bottom * y
                token = tokens[n, row * 4 + column]
                total += float(value @ token / (value.norm() * token.norm()))
    assert float(patch_token_loss(maps, tokens)) == pytest.approx(-total / 32)


def test_identical_tokens_give_minus_one():
    tokens = torch.randn(2, 9, 4)
    maps = tokens.mT.unflatten(2, (3, 3))
    assert float(patch_token_loss(maps, tokens)) == pytest.approx(-1, abs=1e-6)


def test_weights_of_the_whole():
    student, teacher = unit(4, 3, 8), unit(2, 3, 8, seed=1)
    optical, tokens = unit(4, 3, 6, seed=2), unit(2, 3, 6, seed=3)
    maps = (torch.randn(6, 6, 2, 2).double(), torch.randn(6, 6, 1, 1).double())
    patches = (torch.randn(6, 4, 6).double(), torch.randn(6, 4, 6).double())
    terms = DEOLoss(beta=0.3, gamma=0.4, delta=2.0)(
        student, teacher, optical=optical, class_tokens=tokens, maps=maps, tokens=patches
    )
    expected = float(coding_rate_loss(student, teacher).loss) + 2.0 * (
        0.3 * float(class_token_loss(optical, tokens))
        + 0.4 * sum(float(patch_token_loss(m, t)) for m, t in zip(maps, patches, strict=True)) / 2
    )
    assert float(terms.total) == pytest.approx(expected, rel=1e-12)
    assert DEOLoss()(student, teacher).optical is None


@pytest.mark.parametrize(
    ("student", "teacher"), [((4, 3, 8), (2, 3, 7)), ((1, 3, 8), (2, 3, 8)), ((4, 8), (2, 8))]
)
def test_shapes_that_do_not_fit(student, teacher):
    with pytest.raises(TrainingError, match="do not fit"):
        coding_rate_loss(torch.ones(student), torch.ones(teacher))


def test_nan_embeddings_are_named():
    student, teacher = unit(4, 3, 8), unit(2, 3, 8)
    student[0, 0, 0] = float("nan")
    with pytest.raises(TrainingError, match="NaN"):
        coding_rate_loss(student, teacher)
