"""The ten bands in order, their aliases, and how a user's channels map onto them."""

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Literal, NamedTuple

from terratorch_deo.errors import BandError

OPTICAL_BANDS = ("RED", "GREEN", "BLUE")
"""Channel order of the optical patch embedding."""

BANDS = (
    *OPTICAL_BANDS,
    "RED_EDGE_1",
    "RED_EDGE_2",
    "RED_EDGE_3",
    "NIR_BROAD",
    "NIR_NARROW",
    "SWIR_1",
    "SWIR_2",
)
"""Channel order of the multispectral patch embedding (TerraTorch's names)."""

SENTINEL2 = {
    "COASTAL_AEROSOL": "B01",
    "BLUE": "B02",
    "GREEN": "B03",
    "RED": "B04",
    "RED_EDGE_1": "B05",
    "RED_EDGE_2": "B06",
    "RED_EDGE_3": "B07",
    "NIR_BROAD": "B08",
    "NIR_NARROW": "B8A",
    "WATER_VAPOR": "B09",
    "CIRRUS": "B10",
    "SWIR_1": "B11",
    "SWIR_2": "B12",
}
"""TerraTorch band name -> Sentinel-2 band."""

L1C_BANDS = tuple(SENTINEL2)
"""The thirteen Sentinel-2 L1C bands in sensor order."""

_ALIASES = {
    **{name: name for name in SENTINEL2},
    **{code: name for name, code in SENTINEL2.items()},
    **{code.replace("B0", "B"): name for name, code in SENTINEL2.items()},
    "R": "RED",
    "G": "GREEN",
    "B": "BLUE",
    "NIR": "NIR_BROAD",
    "SWIR1": "SWIR_1",
    "SWIR2": "SWIR_2",
    "SWIR16": "SWIR_1",
    "SWIR22": "SWIR_2",
    "REDEDGE1": "RED_EDGE_1",
    "REDEDGE2": "RED_EDGE_2",
    "REDEDGE3": "RED_EDGE_3",
    "NIR08": "NIR_NARROW",
    "COASTAL": "COASTAL_AEROSOL",
}

Missing = Literal["mean"] | Mapping[str, str] | None
"""Policy for absent bands: ``"mean"``, or absent band -> given band or ``"mean"``."""


class BandMap(NamedTuple):
    """How the channels of an input become the channels of a patch embedding.

    Attributes:
        path: Patch embedding that the input goes through.
        index: For each channel of that embedding the channel of the input, -1 = fill with the mean.
        n_channels: Number of channels that the input must have.
    """

    path: Literal["multispectral", "optical"]
    index: tuple[int, ...]
    n_channels: int

    @property
    def is_identity(self) -> bool:
        """Whether the input already has the embedding's channels in order."""
        return self.index == tuple(range(self.n_channels))


def canonical(name: str | Enum) -> str:
    """TerraTorch's name of a band.

    Args:
        name: A TerraTorch name (``RED_EDGE_1``), a Sentinel-2 band (``B05``, ``B5``, ``b8a``),
            a STAC common name (``nir08``, ``swir16``) or a TerraTorch band enum.

    Returns:
        The canonical name; names of other sensors come back in upper case, unchanged.

    Examples:
        >>> canonical("B8A"), canonical("b4"), canonical("swir16")
        ('NIR_NARROW', 'RED', 'SWIR_1')
    """
    text = str(name.value if isinstance(name, Enum) else name).strip().upper()
    text = text.replace("-", "_").replace(" ", "_")
    return _ALIASES.get(text, text)


def _listing() -> str:
    return ", ".join(f"{band}/{SENTINEL2[band]}" for band in BANDS)


def band_map(bands: Sequence[str | Enum], missing: Missing = None) -> BandMap:
    """Map named channels onto the multispectral or the optical patch embedding.

    Exactly red, green and blue (in any order) go the optical way unless ``missing`` is given; all
    ten bands, in any order and among others, go the multispectral way.

    Args:
        bands: Names of the input's channels, in order.
        missing: What stands in for absent bands. ``"mean"``: the band's mean, zero after
            standardising. A mapping: absent band -> name of a given band, or ``"mean"``.

    Returns:
        The mapping.

    Raises:
        BandError: A name occurs twice, or bands are missing and ``missing`` does not cover them.

    Examples:
        >>> band_map(["B02", "B03", "B04"])
        BandMap(path='optical', index=(2, 1, 0), n_channels=3)
    """
    names = [canonical(band) for band in bands]
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        raise BandError(
            f"bands names {', '.join(doubled)} more than once (given: {', '.join(map(str, bands))}). "
            "Name each channel of the input once."
        )
    if missing is None and set(names) == set(OPTICAL_BANDS):
        return BandMap("optical", tuple(names.index(b) for b in OPTICAL_BANDS), len(names))

    fill: dict[str, str]
    if missing is None:
        fill = {}
    elif missing == "mean":
        fill = dict.fromkeys(BANDS, "mean")
    elif isinstance(missing, Mapping):
        fill = {
            canonical(band): source if source == "mean" else canonical(source)
            for band, source in missing.items()
        }
    else:
        raise BandError(
            f"missing={missing!r} is not a policy. Give 'mean' or a mapping "
            "{absent band: given band or 'mean'}."
        )
    index, absent = [], []
    for band in BANDS:
        source = band if band in names else fill.get(band, band)
        if source == "mean":
            index.append(-1)
        elif source in names:
            index.append(names.index(source))
        else:
            absent.append(band)
    if absent:
        raise BandError(
            f"{len(absent)} of the ten bands are missing: "
            f"{', '.join(f'{b}/{SENTINEL2[b]}' for b in absent)} (given: {', '.join(names)}). "
            f"The multispectral path needs {_listing()}; the optical path exactly RED, GREEN, BLUE. "
            "Give all bands, name only the three optical ones, or state a policy: missing='mean' or "
            f"missing={{'{absent[0]}': 'NAME_OF_A_GIVEN_BAND'}}."
        )
    return BandMap("multispectral", tuple(index), len(names))


def default_band_map(n_channels: int) -> BandMap:
    """Band map of an input whose bands were not named: ten or three channels in DEO's order.

    Args:
        n_channels: Channels of the input.

    Returns:
        The identity map of the multispectral (10) or the optical (3) path.

    Raises:
        BandError: Any other number of channels.
    """
    if n_channels == len(BANDS):
        return BandMap("multispectral", tuple(range(len(BANDS))), len(BANDS))
    if n_channels == len(OPTICAL_BANDS):
        return BandMap("optical", tuple(range(len(OPTICAL_BANDS))), len(OPTICAL_BANDS))
    raise BandError(
        f"the input has {n_channels} channels and bands= was not given. Ten channels are taken as "
        f"{_listing()}, three as RED, GREEN, BLUE; for any other input name its channels in order: "
        "bands=['B02', 'B03', ...]."
    )
