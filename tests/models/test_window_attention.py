"""Attention without padding against torchvision's padded attention."""

import pytest
import torch
from torchvision.models.swin_transformer import ShiftedWindowAttention

from terratorch_deo.models.swin import WindowAttention


def pair(window, shift, dim=8, heads=2, dtype=torch.float64):
    torch.manual_seed(0)
    theirs = ShiftedWindowAttention(dim, [window] * 2, [shift] * 2, heads).to(dtype)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.normal_(std=0.5)
    ours = WindowAttention(dim, heads, window, shift).to(dtype)
    state = {k: v for k, v in theirs.state_dict().items() if not k.endswith("_index")}
    ours.load_state_dict(state, strict=True)
    return ours, theirs


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("window", [3, 4, 7])
def test_every_map_size_up_to_two_windows(window, shifted):
    ours, theirs = pair(window, window // 2 if shifted else 0)
    for height in range(1, 2 * window + 2):
        for width in range(1, 2 * window + 2):
            x = torch.randn(2, height, width, 8, dtype=torch.float64)
            torch.testing.assert_close(ours(x), theirs(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size", [(3, 3), (6, 6), (7, 14), (24, 24), (28, 56), (13, 25)])
@pytest.mark.parametrize("shift", [0, 6])
def test_gradients_at_window_12(size, shift):
    ours, theirs = pair(12, shift)
    inputs = [torch.randn(2, *size, 8, dtype=torch.float64) for _ in range(1)]
    a = inputs[0].clone().requires_grad_()
    b = inputs[0].clone().requires_grad_()
    weight = torch.randn(2, *size, 8, dtype=torch.float64)
    (ours(a) * weight).sum().backward()
    (theirs(b) * weight).sum().backward()
    torch.testing.assert_close(a.grad, b.grad, rtol=1e-10, atol=1e-11)
    expected = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name].grad, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lower_precision(dtype):
    ours, theirs = pair(7, 3, dtype=torch.float32)
    x = torch.randn(2, 10, 16, 8)
    with torch.autocast("cpu", dtype, enabled=dtype is not torch.float32):
        a, b = ours(x), theirs(x)
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 5e-2}[dtype]
    torch.testing.assert_close(a.float(), b.float(), rtol=tolerance, atol=tolerance)
