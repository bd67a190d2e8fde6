"""The encoder against torchvision's Swin with the same weights."""

import pytest
import torch
from torchvision.models.swin_transformer import SwinTransformer

from terratorch_deo.errors import BandError, DEOError
from terratorch_deo.models import deo_swin_base, deo_swin_tiny, deo_vit_base, load_weights

DN = 3000


def torchvision_maps(model, x):
    maps = []
    for i, layer in enumerate(model.features):
        x = layer(x)
        if i % 2:
            maps.append(x.permute(0, 3, 1, 2))
    return maps, model.norm(x).mean(dim=(1, 2))


@pytest.mark.parametrize("window", [7, 12])
@pytest.mark.parametrize("size", [(64, 64), (96, 96), (33, 90), (100, 57)])
def test_equals_torchvision(window, size):
    torch.manual_seed(0)
    theirs = SwinTransformer([4, 4], 96, [2, 2, 6, 2], [3, 6, 12, 24], [window] * 2).eval()
    ours = deo_swin_tiny(window_size=window, contract="standardized").eval()
    report = load_weights(ours, theirs.state_dict())
    assert report.layout == "torchvision Swin"
    x = torch.randn(2, 3, *size)
    with torch.no_grad():
        maps, pooled = torchvision_maps(theirs, x)
        torch.testing.assert_close(ours.pooled(x), pooled, rtol=1e-4, atol=1e-5)
        for a, b in zip(ours(x), maps, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_train_mode_gradients_equal_torchvision_without_drop_path():
    theirs = SwinTransformer([4, 4], 96, [2, 2, 6, 2], [3, 6, 12, 24], [12, 12],
                             stochastic_depth_prob=0.0).double()
    ours = deo_swin_tiny(contract="standardized").double()
    load_weights(ours, theirs.state_dict())
    x = torch.randn(1, 3, 72, 60, dtype=torch.float64)
    torchvision_maps(theirs, x)[1].square().sum().backward()
    ours.pooled(x).square().sum().backward()
    expected = theirs.features[1][1].attn.qkv.weight.grad
    torch.testing.assert_close(ours.trunk.features[0][1].attn.qkv.weight.grad, expected)


def test_pyramid():
    encoder = deo_swin_tiny(out_indices=(1, 3)).eval()
    maps = encoder(torch.rand(1, 10, 64, 96) * DN)
    assert encoder.out_channels == [192, 768]
    assert [tuple(m.shape) for m in maps] == [(1, 192, 8, 12), (1, 768, 2, 3)]


def test_base_has_the_papers_size():
    with torch.device("meta"):
        encoder = deo_swin_base()
    assert 86e6 < sum(p.numel() for p in encoder.parameters()) < 88e6
    assert encoder.out_channels == [128, 256, 512, 1024]


def test_vit_maps():
    encoder = deo_vit_base().eval()
    with torch.no_grad():
        maps = encoder(torch.rand(1, 10, 60, 64) * DN)
    assert [tuple(m.shape) for m in maps] == [(1, 768, 8, 8)] * 4


def test_band_order_is_mapped():
    torch.manual_seed(0)
    encoder = deo_swin_tiny().eval()
    shuffled = ["B12", "B02", "B03", "B04", "B05", "B01", "B06", "B07", "B08", "B8A", "B11"]
    other = deo_swin_tiny(bands=shuffled).eval()
    other.load_state_dict(encoder.state_dict())
    x = torch.rand(1, 11, 64, 64) * DN
    order = [3, 2, 1, 4, 6, 7, 8, 9, 10, 0]
    with torch.no_grad():
        torch.testing.assert_close(other.pooled(x), encoder.pooled(x[:, order]))


def test_contracts_agree():
    encoder = deo_swin_tiny().eval()
    dn = (torch.rand(1, 10, 64, 64) * DN).round() + 50
    expected = encoder.pooled(dn)
    for contract, x in (("dn_offset", dn + 1000), ("reflectance", dn / 1e4)):
        other = deo_swin_tiny(contract=contract).eval()
        other.load_state_dict(encoder.state_dict())
        torch.testing.assert_close(other.pooled(x), expected, rtol=1e-4, atol=1e-5)


def test_missing_bands_are_named():
    with pytest.raises(BandError, match="NIR_NARROW/B8A"):
        deo_swin_tiny(bands=["B02", "B03", "B04", "B08"])
    encoder = deo_swin_tiny(bands=["B02", "B03", "B04", "B08"], missing="mean").eval()
    assert encoder.pooled(torch.rand(1, 4, 64, 64) * DN).shape == (1, 768)


def test_wrong_channel_count():
    with pytest.raises(BandError, match="13 channels"):
        deo_swin_tiny()(torch.rand(1, 13, 64, 64) * DN)


def test_wrong_out_indices():
    with pytest.raises(DEOError, match="out_indices"):
        deo_swin_tiny(out_indices=(0, 4))


def test_checkpointing_changes_nothing():
    plain = deo_swin_tiny(contract="standardized")
    saving = deo_swin_tiny(contract="standardized", grad_checkpointing=True)
    saving.load_state_dict(plain.state_dict())
    x = torch.randn(2, 10, 48, 48)
    for encoder in (plain, saving):
        encoder.pooled(x).square().sum().backward()
    for a, b in zip(plain.parameters(), saving.parameters(), strict=True):
        if a.grad is not None:
            torch.testing.assert_close(a.grad, b.grad)


def test_stochastic_depth_keeps_the_mean():
    from terratorch_deo.models.swin import StochasticDepth

    torch.manual_seed(0)
    layer = StochasticDepth(0.25).train()
    out = layer(torch.zeros(40_000, 1), torch.ones_like)
    assert out.unique().tolist() == [0.0, pytest.approx(4 / 3)]
    assert out.mean().item() == pytest.approx(1, abs=0.02)
    torch.testing.assert_close(layer.eval()(torch.zeros(3, 1), torch.ones_like), torch.ones(3, 1))
