"""Batched views against torchvision's v2 transforms, one sample at a time."""

import pytest
import torch
import torchvision.transforms.v2.functional as tv

from terratorch_deo.bands import BANDS
from terratorch_deo.errors import BandError, DataError, ScalingError
from terratorch_deo.pretrain import views as ours
from terratorch_deo.pretrain.views import DualTeacherViews
from terratorch_deo.scaling import (
    DN_MEAN,
    DN_STD,
    UNIT_OPTICAL_MEAN,
    UNIT_OPTICAL_STD,
    InputContract,
)

SMALL = DualTeacherViews(global_size=48, local_size=24, n_local=4)
SEEDS = [11, 12, 13]


@pytest.fixture
def image():
    torch.manual_seed(0)
    smooth = torch.nn.functional.interpolate(torch.rand(3, 10, 9, 7), (61, 53), mode="bicubic")
    return (smooth * 3000 + 200 * torch.rand(3, 10, 61, 53)).clamp(1)


@pytest.fixture
def colours():
    torch.manual_seed(1)
    return torch.rand(6, 3, 20, 30)


@pytest.mark.parametrize("size", [16, 61, 96])
@pytest.mark.parametrize("crop", [(0, 0, 61, 53), (5, 11, 40, 17), (30, 2, 8, 50)])
@pytest.mark.parametrize("flip", [False, True])
def test_crop_and_resize(image, size, crop, flip):
    top, left, height, width = crop
    box = torch.tensor([top / 61, left / 53, height / 61, width / 53]).expand(1, 3, 4)
    found = ours.crop_and_resize(image / 3200, box, torch.full((1, 3), flip), size)[0]
    expected = tv.resized_crop(
        image / 3200, top, left, height, width, [size, size], tv.InterpolationMode.BICUBIC, True
    )
    expected = tv.horizontal_flip(expected) if flip else expected
    assert (found - expected).abs().max() < 1e-4  # 1 / 255 is allowed


@pytest.mark.parametrize(
    ("operation", "theirs", "factors"),
    [
        (ours.adjust_brightness, tv.adjust_brightness, torch.linspace(0.6, 1.4, 6)),
        (ours.adjust_contrast, tv.adjust_contrast, torch.linspace(0.6, 1.4, 6)),
        (ours.adjust_saturation, tv.adjust_saturation, torch.linspace(0.8, 1.2, 6)),
        (ours.adjust_hue, tv.adjust_hue, torch.linspace(-0.1, 0.1, 6)),
    ],
)
def test_colour(colours, operation, theirs, factors):
    colours[0, :, :5] = 0.3  # gray pixels have no hue
    found = operation(colours, factors)
    for i, factor in enumerate(factors.tolist()):
        torch.testing.assert_close(found[i], theirs(colours[i], factor), rtol=0, atol=2e-6)


def test_gray_and_solarize(colours):
    found = ours.grayscale(colours).expand(-1, 3, -1, -1)
    torch.testing.assert_close(found, tv.rgb_to_grayscale(colours, 3))
    torch.testing.assert_close(ours.solarize(colours), tv.solarize(colours, 0.5))


def test_blur(colours):
    sigma = torch.linspace(0.1, 2, 6)
    found = ours.gaussian_blur(colours, sigma)
    for i, s in enumerate(sigma.tolist()):
        torch.testing.assert_close(
            found[i], tv.gaussian_blur(colours[i], [23, 23], [s, s]), rtol=0, atol=1e-5
        )


def replay(image, p, v, b, size):
    """One view by torchvision's functionals."""
    h, w = image.shape[-2:]
    top, left, height, width = (p.box[v, b] * torch.tensor([h, w, h, w])).round().int().tolist()
    x = tv.resized_crop(
        image[b], top, left, height, width, [size, size], tv.InterpolationMode.BICUBIC, True
    )
    x = tv.horizontal_flip(x) if p.flip[v, b] else x
    rgb = (x[:3] / x[:3].max()).clamp(0, 1)
    if p.jitter[v, b]:
        for operation in p.order[v, b].tolist():
            adjust = (tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation, tv.adjust_hue)
            rgb = adjust[operation](rgb, float(p.factors[v, b, operation]))
    rgb = tv.rgb_to_grayscale(rgb, 3) if p.gray[v, b] else rgb
    if p.blur[v, b] > 0:
        rgb = tv.gaussian_blur(rgb, [23, 23], [float(p.blur[v, b])] * 2)
    rgb = tv.solarize(rgb, 0.5) if p.solarize[v, b] else rgb
    rgb = tv.normalize(rgb, list(UNIT_OPTICAL_MEAN), list(UNIT_OPTICAL_STD))
    rest = tv.normalize(x[3:], list(DN_MEAN[3:]), list(DN_STD[3:]))
    return torch.cat([rgb, rest])


def test_whole_views(image):
    found = SMALL(image, seeds=SEEDS)
    groups = SMALL.draw(SEEDS, 61, 53)
    for p, ms, optical, size in (
        (groups[0], found.global_multispectral, found.global_optical, 48),
        (groups[1], found.local_multispectral, found.local_optical, 24),
    ):
        for v in range(len(ms)):
            for b in range(3):
                expected = replay(image, p, v, b, size)
                torch.testing.assert_close(ms[v, b], expected, rtol=0, atol=2e-3)
                assert torch.equal(optical[v, b], ms[v, b, :3])


def test_views_do_not_depend_on_the_batch(image):
    whole = SMALL(image, seeds=SEEDS)
    alone = SMALL(image[1:2], seeds=SEEDS[1:2])
    for a, b in zip(whole, alone, strict=True):
        torch.testing.assert_close(a[:, 1:2], b, rtol=1e-4, atol=1e-5)
    again = SMALL(image, seeds=SEEDS)
    assert all(torch.equal(a, b) for a, b in zip(whole, again, strict=True))
    other = SMALL(image, seeds=[1, 2, 3])
    assert not torch.equal(whole[0], other[0])


def test_drawn_parameters_follow_the_recipe():
    large, small = DualTeacherViews().draw(range(400), 264, 264)
    assert (large.blur[0] > 0).all() and not large.solarize[0].any()
    assert (large.blur[1] > 0).float().mean().item() == pytest.approx(0.1, abs=0.05)
    assert large.solarize[1].float().mean().item() == pytest.approx(0.2, abs=0.06)
    assert (small.blur > 0).float().mean().item() == pytest.approx(0.5, abs=0.03)
    assert not small.solarize.any() and not small.fixed.any()
    for p, low, high in ((large, 0.4, 1.0), (small, 0.05, 0.4)):
        area = p.box[..., 2] * p.box[..., 3]
        assert area.min() > low * 0.95 and area.max() < min(high * 1.05, 1.0 + 1e-6)
        assert p.jitter.float().mean().item() == pytest.approx(0.8, abs=0.04)
        assert p.gray.float().mean().item() == pytest.approx(0.2, abs=0.04)
        assert (p.box[..., :2] >= 0).all()
        assert (p.box[..., 0] + p.box[..., 2] <= 1 + 1e-6).all()
    ratio = large.box[..., 3] / large.box[..., 2]
    assert 0.73 < ratio.min() < 0.8 and 1.25 < ratio.max() < 1.36
    assert large.factors[..., :2].min() < 0.65 and large.factors[..., 3].abs().max() <= 0.1


def test_high_resolution_optical_is_cut_alike(image):
    """An optical image that is the same picture, larger, gives nearly the same view."""
    plain = DualTeacherViews(global_size=32, local_size=16, n_local=2, heavy=False)
    ramp = torch.linspace(0, 1, 64)
    picture = torch.stack([ramp[None].expand(64, 64), ramp[:, None].expand(64, 64)] + [ramp.outer(ramp)])
    image = torch.full((1, 10, 64, 64), 900.0)
    image[:, :3] = picture * 2000
    large = torch.nn.functional.interpolate(picture[None], scale_factor=3, mode="bilinear") * 255
    a = plain(image, seeds=[4]).global_optical
    b = plain(image, large, seeds=[4]).global_optical
    assert (a - b).abs().max() < 0.1
    rest = plain(image, large, seeds=[4]).global_multispectral[:, :, 3:]
    torch.testing.assert_close(rest, plain(image, seeds=[4]).global_multispectral[:, :, 3:])


def test_contract_and_gaps(image):
    expected = SMALL(image, seeds=SEEDS)
    for contract, x in (("dn_offset", image + 1000), ("reflectance", image / 1e4)):
        found = SMALL(x, contract=InputContract.of(contract), seeds=SEEDS)
        torch.testing.assert_close(found[0], expected[0], rtol=1e-3, atol=1e-3)
    image[0, :, :30] = float("nan")
    assert all(torch.isfinite(v).all() for v in SMALL(image, seeds=SEEDS))


def test_fixed_optical_scaling(image):
    fixed = DualTeacherViews(
        global_size=16, n_local=0, heavy=False, optical_fixed_probability=1.0, fixed_dn_maximum=4000
    )
    half = fixed(image * 0.5, seeds=SEEDS).global_optical
    full = fixed(image, seeds=SEEDS).global_optical
    mean, std = torch.tensor(UNIT_OPTICAL_MEAN), torch.tensor(UNIT_OPTICAL_STD)
    unit = [z * std[:, None, None] + mean[:, None, None] for z in (half, full)]
    torch.testing.assert_close(unit[0] * 2, unit[1], rtol=1e-4, atol=1e-4)


def test_bad_input(image):
    with pytest.raises(BandError, match=BANDS[-1]):
        SMALL(image[:, :9])
    with pytest.raises(ScalingError, match="digital numbers"):
        SMALL(image, contract=InputContract.of("standardized"))
    with pytest.raises(DataError, match="2 images, image has 3"):
        SMALL(image, torch.rand(2, 3, 80, 80))
    with pytest.raises(BandError, match="optical has shape"):
        SMALL(image, torch.rand(3, 4, 80, 80))
    with pytest.raises(DataError, match="2 seeds"):
        SMALL(image, seeds=[1, 2])
