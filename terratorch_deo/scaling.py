"""The input contract: what pixel values mean, and how they become what the encoder was trained on.

Sentinel-2 digital numbers (DN) are reflectance x 10,000. Products of processing baseline 04.00 and
later (January 2022 on) carry an offset: reflectance = (DN - 1000) / 10,000.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from terratorch_deo.bands import BandMap
from terratorch_deo.errors import ScalingError

Unit = Literal["dn", "reflectance", "uint8", "standardized"]
OpticalScaling = Literal["fixed", "maximum"]

# Paper's statistics of raw Sentinel-2 digital numbers, in the order of BANDS.
DN_MEAN = (
    1136.26026392,
    1120.77120066,
    1184.3824625,
    1263.73947144,
    1645.40315151,
    1846.87040806,
    1762.59530783,
    1972.62420416,
    1732.16362238,
    1247.91870117,
)
DN_STD = (
    965.23119807,
    712.12507725,
    650.2842772,
    948.9819932,
    1108.06650639,
    1258.36394548,
    1233.1492281,
    1364.38688993,
    1310.36996126,
    1087.6020813,
)
# Statistics of optical channels scaled to [0, 1] by the crop's maximum, red, green, blue.
UNIT_OPTICAL_MEAN = (0.4182007312774658, 0.4214799106121063, 0.3991275727748871)
UNIT_OPTICAL_STD = (0.28774282336235046, 0.27541765570640564, 0.2764017581939697)

REFLECTANCE_TO_DN = 10_000.0
BASELINE_0400_OFFSET = -1000.0

_SAMPLED_VALUES = 200_000  # values looked at by `InputContract.check`


@dataclass(frozen=True)
class InputContract:
    """What the values of an input are.

    A value becomes a digital number (or an 8-bit number) as ``value * scale + offset``, then is
    standardised with the statistics. ``unit`` says what the input is declared as and so what
    `check` accepts.

    Args:
        unit: ``"dn"`` (reflectance x 10,000), ``"reflectance"`` (0-1), ``"uint8"`` (0-255, optical
            channels only) or ``"standardized"`` (mean 0, standard deviation 1; left alone).
        scale: Multiplier to digital numbers (``dn``, ``reflectance``) or to 0-255 (``uint8``).
            Defaults to 10,000 for reflectance and 1 otherwise; 255 serves RGB divided by 255.
        offset: Added after scaling, in digital numbers; -1000 for processing baseline >= 04.00.
        optical: How red, green and blue are scaled. ``"fixed"``: digital numbers with their own
            statistics, 8-bit divided by 255; the same for every image. ``"maximum"``: divided by
            the image's own maximum over the three, clamped to [0, 1]: what pretraining feeds.
        optical_maximum: With ``optical="maximum"``, this maximum (in digital or 8-bit numbers) for
            every image, so that the tiles of one scene are scaled alike.
        nodata: Value of the input that marks pixels without data. They, NaN and infinity become the
            mean (0 after standardising). ``None``: only NaN and infinity.
        mean: Means of the ten bands in digital numbers.
        std: Standard deviations of the ten bands in digital numbers.
        unit_optical_mean: Means of red, green, blue scaled to [0, 1].
        unit_optical_std: Standard deviations of red, green, blue scaled to [0, 1].

    Raises:
        ScalingError: A field has no meaning (unknown unit, scale <= 0, std <= 0, wrong length).

    Examples:
        >>> InputContract.of("dn_offset").offset
        -1000.0
    """

    unit: Unit = "dn"
    scale: float | None = None
    offset: float = 0.0
    optical: OpticalScaling = "fixed"
    optical_maximum: float | None = None
    nodata: float | None = None
    mean: tuple[float, ...] = DN_MEAN
    std: tuple[float, ...] = DN_STD
    unit_optical_mean: tuple[float, ...] = UNIT_OPTICAL_MEAN
    unit_optical_std: tuple[float, ...] = UNIT_OPTICAL_STD

    def __post_init__(self) -> None:
        if self.unit not in get_args(Unit):
            raise ScalingError(
                f"unit={self.unit!r} is unknown. Choose one of {', '.join(get_args(Unit))}."
            )
        if self.optical not in get_args(OpticalScaling):
            raise ScalingError(
                f"optical={self.optical!r} is unknown. "
                f"Choose one of {', '.join(get_args(OpticalScaling))}."
            )
        if self.scale is None:
            default = REFLECTANCE_TO_DN if self.unit == "reflectance" else 1.0
            object.__setattr__(self, "scale", default)
        if not self.scale or self.scale <= 0:
            raise ScalingError(f"scale={self.scale} must be > 0.")
        if self.optical_maximum is not None and self.optical_maximum <= 0:
            raise ScalingError(f"optical_maximum={self.optical_maximum} must be > 0.")
        lengths = {"mean": 10, "std": 10, "unit_optical_mean": 3, "unit_optical_std": 3}
        for name, length in lengths.items():
            values = tuple(float(v) for v in getattr(self, name))
            object.__setattr__(self, name, values)
            if len(values) != length:
                raise ScalingError(f"{name} has {len(values)} values, expected {length}.")
            if name.endswith("std") and min(values) <= 0:
                raise ScalingError(f"{name} must be positive, got {values}.")

    @classmethod
    def of(cls, contract: "InputContract | Mapping[str, Any] | str") -> "InputContract":
        """Contract from an object, a mapping of its fields, or a short name.

        Args:
            contract: An `InputContract`, a mapping, or ``"dn"``, ``"dn_offset"``,
                ``"reflectance"``, ``"uint8"``, ``"standardized"``.

        Returns:
            The contract.

        Raises:
            ScalingError: An unknown name or field.
        """
        if isinstance(contract, InputContract):
            return contract
        if isinstance(contract, str):
            if contract == "dn_offset":
                return cls(unit="dn", offset=BASELINE_0400_OFFSET)
            if contract not in get_args(Unit):
                raise ScalingError(
                    f"contract={contract!r} is unknown. Choose one of dn, dn_offset, reflectance, "
                    "uint8, standardized, or give an InputContract or a mapping of its fields."
                )
            return cls(unit=contract)  # type: ignore[arg-type]
        if isinstance(contract, Mapping):
            known = {f.name for f in fields(cls)}
            unknown = sorted(set(contract) - known)
            if unknown:
                raise ScalingError(
                    f"contract has unknown fields {', '.join(unknown)}. "
                    f"Known: {', '.join(sorted(known))}."
                )
            return cls(**contract)
        raise ScalingError(
            f"contract is a {type(contract).__name__}; give a name, a mapping or an InputContract."
        )

    def to_dict(self) -> dict[str, Any]:
        """Fields as plain Python values, fit for JSON, YAML and checkpoints."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @property
    def hash(self) -> str:
        """First 12 hexadecimal digits of the SHA-256 of the fields."""
        text = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def with_optical_maximum(self, maximum: float) -> "InputContract":
        """The same contract with one optical maximum for all images of a scene."""
        return replace(self, optical="maximum", optical_maximum=float(maximum))

    # ------------------------------------------------------------------ values -> standardised

    def valid(self, x: Tensor) -> Tensor:
        """Where a value is data.

        Args:
            x: Input, any shape.

        Returns:
            Boolean tensor of ``x``'s shape: finite and not nodata.
        """
        mask = torch.isfinite(x)
        return mask if self.nodata is None else mask & (x != self.nodata)

    def standardize(self, x: Tensor, bands: BandMap) -> Tensor:
        """Select, order, scale and standardise channels for a patch embedding.

        Args:
            x: Input, (B, C, H, W), any dtype, values as declared.
            bands: Which channel is which.

        Returns:
            (B, 10, H, W) or (B, 3, H, W), floating point; pixels without data are 0.

        Raises:
            ScalingError: ``unit="uint8"`` with bands beyond red, green, blue.
        """
        if self.unit == "uint8" and bands.path != "optical":
            raise ScalingError(
                "contract unit='uint8' covers the optical path only (bands RED, GREEN, BLUE); the "
                "ten Sentinel-2 bands need 'dn', 'dn_offset', 'reflectance' or 'standardized'."
            )
        x = x if x.is_floating_point() else x.float()
        if not bands.is_identity:
            x = x[:, [max(i, 0) for i in bands.index]]
        mask = self.valid(x)
        if -1 in bands.index:
            given = torch.tensor([i >= 0 for i in bands.index], device=x.device)
            mask = mask & given[:, None, None]
        x = torch.where(mask, x, 0)
        if self.unit == "standardized":
            return x
        if self.scale != 1 or self.offset:
            x = x * self.scale + self.offset  # type: ignore[operator]
        if self.optical == "fixed" and self.unit != "uint8":
            z = self._affine(x, self.mean[: x.shape[1]], self.std[: x.shape[1]])
        else:
            optical = self._to_unit(x[:, :3], mask[:, :3])
            z = self._affine(optical, self.unit_optical_mean, self.unit_optical_std)
            if x.shape[1] > 3:
                rest = self._affine(x[:, 3:], self.mean[3:], self.std[3:])
                z = torch.cat([z, rest], dim=1)
        return torch.where(mask, z, 0)

    def _to_unit(self, optical: Tensor, mask: Tensor) -> Tensor:
        if self.optical == "fixed":
            return optical / 255.0
        if self.optical_maximum is not None:
            return (optical / self.optical_maximum).clamp(0, 1)
        maximum = torch.where(mask, optical, 0).amax(dim=(1, 2, 3), keepdim=True)
        return (optical / maximum.clamp_min(1e-6)).clamp(0, 1)

    @staticmethod
    def _affine(x: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
        m = torch.tensor(mean, dtype=x.dtype, device=x.device)[:, None, None]
        s = torch.tensor(std, dtype=x.dtype, device=x.device)[:, None, None]
        return (x - m) / s

    # ------------------------------------------------------------------ checks

    def check(self, x: Tensor, bands: BandMap, *, name: str = "the first batch") -> None:
        """Refuse values that cannot be what this contract declares.

        Args:
            x: Input, (B, C, H, W), as it would be given to `standardize`.
            bands: Which channel is which; channels that are not used are not looked at.
            name: What to call the input in the message (a file, "the first batch").

        Raises:
            ScalingError: All values are NaN or nodata, all are equal, or their size contradicts
                the declared unit. The message names the likely cause and the cure.
        """
        used = sorted({i for i in bands.index if i >= 0})
        x = x.detach()[:, used]
        values = x[self.valid(x)].double()
        if not values.numel():
            raise ScalingError(
                f"{name} holds no data: every value is NaN, infinite or nodata "
                f"(nodata={self.nodata}). Check the file's nodata tag and the region read."
            )
        values = values[:: max(1, values.numel() // _SAMPLED_VALUES)]
        low, median, high = (float(v) for v in torch.quantile(values, values.new_tensor([0, 0.5, 1])))
        if low == high and values.numel() > 1:
            raise ScalingError(
                f"{name} is constant: every value is {low:g}. If this marks missing data, declare "
                f"it: contract={{'unit': '{self.unit}', 'nodata': {low:g}}}."
            )
        problem = self._contradiction(low, median, high)
        if problem is not None:
            raise ScalingError(
                f"{name} has values {low:.4g} to {high:.4g}, median {median:.4g}; {problem}"
            )

    def _contradiction(self, low: float, median: float, high: float) -> str | None:
        """What the values look like and what to pass instead, or None if they fit."""
        if self.unit == "standardized":
            if median > 20 or high > 200:
                return (
                    "unit='standardized' expects values near 0. "
                    "For digital numbers pass contract='dn'."
                )
            return None
        # Judge in the scale of the unit itself: DN, reflectance or 8-bit.
        to_unit = self.scale / (REFLECTANCE_TO_DN if self.unit == "reflectance" else 1.0)  # type: ignore[operator]
        low, median, high = low * to_unit, median * to_unit, high * to_unit
        standardized = low < -0.25 and high < 30 and abs(median) < 5
        if self.unit == "reflectance":
            if standardized:
                return "they look standardised already. Pass contract='standardized'."
            if median > 3:
                guess = "uint8" if high <= 255 else "dn"
                return f"unit='reflectance' expects 0 to about 1. Pass contract='{guess}'."
            return None
        if self.unit == "uint8":
            if low < 0 and standardized:
                return "they look standardised already. Pass contract='standardized'."
            if high > 255 or low < 0:
                return "unit='uint8' expects 0 to 255. For digital numbers pass contract='dn'."
            if high <= 1.5:
                return (
                    "unit='uint8' expects 0 to 255. For RGB divided by 255 pass "
                    "contract={'unit': 'uint8', 'scale': 255}."
                )
            return None
        if standardized:
            return "they look standardised already. Pass contract='standardized'."
        if high < 20:
            return "unit='dn' expects about 100 to 6000. Pass contract='reflectance'."
        if high <= 255 and low >= 0:
            return (
                "unit='dn' expects about 100 to 6000; they look like 8-bit. "
                "Pass contract='uint8' (optical bands only)."
            )
        if self.offset < 0 and median + self.offset < -100:
            return (
                f"with offset={self.offset:g} more than half would be negative reflectance. They "
                "carry no offset (or are nodata: declare nodata=). Pass contract='dn'."
            )
        return None

