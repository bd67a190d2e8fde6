"""The input contract: the same pixels in every unit, and wrong declarations refused."""

import pytest
import torch

from terratorch_deo.bands import band_map, default_band_map
from terratorch_deo.errors import BandError, ScalingError
from terratorch_deo.scaling import DN_MEAN, DN_STD, UNIT_OPTICAL_MEAN, UNIT_OPTICAL_STD, InputContract

TEN = default_band_map(10)
THREE = default_band_map(3)


@pytest.fixture
def dn():
    torch.manual_seed(0)
    return torch.randint(1, 6000, (2, 10, 8, 8)).float()


def test_dn_closed_form(dn):
    expected = (dn.double() - torch.tensor(DN_MEAN)[:, None, None]) / torch.tensor(DN_STD)[:, None, None]
    torch.testing.assert_close(InputContract.of("dn").standardize(dn, TEN), expected.float())


def test_units_agree(dn):
    expected = InputContract.of("dn").standardize(dn, TEN)
    for name, x in (("dn_offset", dn + 1000), ("reflectance", dn / 10_000)):
        torch.testing.assert_close(
            InputContract.of(name).standardize(x, TEN), expected, rtol=1e-4, atol=1e-5
        )
    assert torch.equal(InputContract.of("standardized").standardize(expected, TEN), expected)


def test_eight_bit_uses_the_unit_table():
    x = torch.randint(0, 256, (1, 3, 4, 4), dtype=torch.uint8)
    z = InputContract.of("uint8").standardize(x, THREE)
    mean, std = torch.tensor(UNIT_OPTICAL_MEAN), torch.tensor(UNIT_OPTICAL_STD)
    torch.testing.assert_close(z, (x / 255 - mean[:, None, None]) / std[:, None, None])
    scaled = InputContract(unit="uint8", scale=255).standardize(x / 255, THREE)
    torch.testing.assert_close(scaled, z)


def test_maximum_scaling_is_per_image(dn):
    z = InputContract(optical="maximum").standardize(dn, TEN)
    mean, std = torch.tensor(UNIT_OPTICAL_MEAN), torch.tensor(UNIT_OPTICAL_STD)
    for i in range(2):
        unit = dn[i, :3] / dn[i, :3].max()
        torch.testing.assert_close(z[i, :3], (unit - mean[:, None, None]) / std[:, None, None])
    fixed = InputContract(optical="maximum").with_optical_maximum(float(dn[0, :3].max()))
    torch.testing.assert_close(fixed.standardize(dn[:1], TEN), z[:1])


def test_missing_pixels_become_the_mean(dn):
    dn[0, :, 0, 0] = float("nan")
    dn[0, 3, 1, 1] = -9999
    z = InputContract(nodata=-9999).standardize(dn, TEN)
    assert (z[0, :, 0, 0] == 0).all() and z[0, 3, 1, 1] == 0
    assert torch.isfinite(z).all() and (z[1] != 0).all()


def test_missing_band_policies(dn):
    bands = [b for b in ("RED", "GREEN", "BLUE", "RED_EDGE_1", "RED_EDGE_2", "RED_EDGE_3",
                         "NIR_BROAD", "SWIR_1", "SWIR_2")]
    x = dn[:, [0, 1, 2, 3, 4, 5, 6, 8, 9]]
    contract = InputContract.of("dn")
    assert (contract.standardize(x, band_map(bands, "mean"))[:, 7] == 0).all()
    z = contract.standardize(x, band_map(bands, {"NIR_NARROW": "NIR_BROAD"}))
    torch.testing.assert_close(z[:, 7], (dn[:, 6] - DN_MEAN[7]) / DN_STD[7])


def test_doubled_band():
    with pytest.raises(BandError, match="RED more than once"):
        band_map(["B4", "RED", "B03"])


WRONG = {
    "standardised as dn": ("dn", torch.randn(2, 10, 16, 16), "standardised already"),
    "reflectance as dn": ("dn", torch.rand(2, 10, 16, 16) * 0.4, "contract='reflectance'"),
    "8-bit as dn": ("dn", torch.randint(0, 256, (2, 10, 16, 16)), "8-bit"),
    "dn as reflectance": ("reflectance", torch.rand(2, 10, 16, 16) * 3000, "contract='dn'"),
    "dn as 8-bit": ("uint8", torch.rand(2, 3, 16, 16) * 3000, "contract='dn'"),
    "unit rgb as 8-bit": ("uint8", torch.rand(2, 3, 16, 16), "'scale': 255"),
    "dn as standardised": ("standardized", torch.rand(2, 10, 16, 16) * 3000, "contract='dn'"),
    "no offset": ("dn_offset", torch.rand(2, 10, 16, 16) * 900, "no offset"),
    "nan": ("dn", torch.full((2, 10, 16, 16), float("nan")), "holds no data"),
    "constant": ("dn", torch.full((2, 10, 16, 16), 7.0), "constant"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_declarations(case):
    contract, x, message = WRONG[case]
    with pytest.raises(ScalingError, match=message):
        InputContract.of(contract).check(x, default_band_map(x.shape[1]))


def test_right_declarations(dn):
    for contract, x in (
        ("dn", dn), ("dn_offset", dn + 1000), ("reflectance", dn / 1e4),
        ("uint8", torch.randint(0, 256, (1, 3, 16, 16))), ("standardized", torch.randn(1, 10, 9, 9)),
    ):
        InputContract.of(contract).check(x, default_band_map(x.shape[1]))


def test_hash_and_round_trip():
    contract = InputContract.of({"unit": "dn", "offset": -1000, "nodata": 0})
    assert InputContract.of(contract.to_dict()) == contract
    assert contract.hash == InputContract.of(contract.to_dict()).hash
    assert contract.hash != InputContract.of("dn").hash


@pytest.mark.parametrize("bad", ["toa", {"units": "dn"}, {"scale": 0}, {"std": [0] * 10}, 3])
def test_meaningless_contracts(bad):
    with pytest.raises(ScalingError):
        InputContract.of(bad)
