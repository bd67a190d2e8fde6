"""Procedural, georeferenced, labelled ten-band scenes with a second date.

Land cover follows simple geometry (parcels, a river, forest patches, street grids) and plausible
bottom-of-atmosphere spectra with texture, illumination and noise. Bands that Sentinel-2 records at
20 m are averaged to 20 m. Good for demos and tests; no substitute for data.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from terratorch_deo.bands import BANDS

Float = NDArray[np.float32]
CLASSES = ("field", "forest", "water", "built-up")
CHANGES = ("unchanged", "changed")

RESOLUTION_M = 10.0
CRS = "EPSG:32633"
_ORIGIN = (500_000.0, 5_200_000.0)

# Digital numbers (reflectance x 10,000) in the order of BANDS.
_SPECTRA = {
    "crop": (480, 780, 430, 1180, 2900, 3500, 3700, 3900, 2000, 1100),
    "soil": (1700, 1300, 900, 2000, 2200, 2400, 2500, 2700, 3300, 2700),
    "forest": (250, 440, 270, 700, 2000, 2500, 2700, 2850, 1300, 600),
    "water": (220, 380, 470, 190, 130, 130, 110, 95, 65, 45),
    "roof": (2100, 1800, 1600, 2250, 2400, 2450, 2550, 2600, 2700, 2450),
    "street": (1150, 1100, 1050, 1250, 1350, 1400, 1450, 1500, 1750, 1600),
}
_TWENTY_METRES = [BANDS.index(b) for b in BANDS if "EDGE" in b or "SWIR" in b or b == "NIR_NARROW"]


class Scene(NamedTuple):
    """One place on two dates.

    Attributes:
        image: First date, (10, H, W), uint16 digital numbers, bands in DEO's order.
        later: Second date, the same.
        label: Land cover of the first date, (H, W), uint8, index into `CLASSES`.
        change: (H, W), uint8; 1 where forest was cleared or fields were built over.
        origin: Easting and northing of the upper left corner, metres in `CRS`.
    """

    image: NDArray[np.uint16]
    later: NDArray[np.uint16]
    label: NDArray[np.uint8]
    change: NDArray[np.uint8]
    origin: tuple[float, float]


def _smooth(rng: np.random.Generator, size: int, scale_px: float) -> Float:
    """Gaussian random field, zero mean, unit variance, correlated over ``scale_px``."""
    spectrum = np.fft.rfft2(rng.standard_normal((size, size)))
    fy, fx = np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None]
    field = np.fft.irfft2(spectrum * np.exp(-2 * (np.pi * scale_px) ** 2 * (fx**2 + fy**2)), (size,) * 2)
    return ((field - field.mean()) / field.std()).astype(np.float32)


def _grid(size: int, angle: float) -> tuple[Float, Float]:
    y, x = np.mgrid[:size, :size].astype(np.float32)
    c, s = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return x * c + y * s, y * c - x * s


def _parcels(rng: np.random.Generator, size: int) -> NDArray[np.int64]:
    """Rotated rectangular parcels of varying width, as indices from 0."""
    u, v = _grid(size, rng.uniform(0, np.pi))
    strip = np.floor(u / rng.uniform(18, 36)).astype(np.int64)
    length = rng.uniform(25, 60, 4096)
    shift = rng.uniform(0, 60, 4096)
    cell = np.floor((v + shift[strip % 4096]) / length[strip % 4096]).astype(np.int64)
    return np.unique(strip * 10_007 + cell, return_inverse=True)[1].reshape(size, size)


def make_scene(seed: int, size_px: int = 256) -> Scene:
    """Draw a scene.

    Args:
        seed: Same seed, same scene.
        size_px: Side in pixels of 10 m, >= 32.

    Returns:
        The scene; those of consecutive seeds lie side by side.
    """
    rng = np.random.default_rng(seed)
    parcel = _parcels(rng, size_px)
    label = np.zeros((size_px, size_px), np.uint8)
    label[_smooth(rng, size_px, 14) > rng.uniform(0.2, 0.7)] = 1
    town = _smooth(rng, size_px, 20) > rng.uniform(0.7, 1.1)
    label[town] = 3
    u, v = _grid(size_px, rng.uniform(0, np.pi))
    middle = rng.uniform(0.25, 0.75) * (v.max() + v.min())
    river = np.abs(v - middle - 14 * np.sin(u / rng.uniform(18, 40))) < rng.uniform(3, 8)
    label[river | (_smooth(rng, size_px, 16) > 1.5)] = 2

    n = int(parcel.max()) + 1
    green = rng.beta(0.7, 0.7, n).astype(np.float32)
    later_green = np.where(rng.random(n) < 0.4, 1 - green, green).astype(np.float32)
    cleared = (label == 1) & (_smooth(rng, size_px, 9) > 1.2)
    built = (label == 0) & (_smooth(rng, size_px, 9) > 1.3)
    later_label = np.where(built, 3, np.where(cleared, 0, label))

    street = _grid(size_px, rng.uniform(0, np.pi))
    pitch = rng.uniform(6, 10)
    roads = ((street[0] % pitch) < 2) | ((street[1] % (1.4 * pitch)) < 2)
    roof_tone = 1 + 0.25 * rng.standard_normal((size_px, size_px)).astype(np.float32)
    rows = 1 + 0.04 * np.sin(_grid(size_px, rng.uniform(0, np.pi))[0] * 2.1)
    canopy = 1 + 0.12 * _smooth(rng, size_px, 1.2)
    texture = (rows, canopy, roads, roof_tone)
    bare = np.where(cleared, np.float32(0.1), later_green[parcel])
    return Scene(
        _render(rng, label, green[parcel], texture),
        _render(rng, later_label, bare, texture),
        label,
        (cleared | built).astype(np.uint8),
        (_ORIGIN[0] + (seed % 1000) * size_px * RESOLUTION_M, _ORIGIN[1]),
    )


def _render(
    rng: np.random.Generator,
    label: NDArray[np.uint8],
    green: Float,
    texture: tuple[Float, Float, NDArray[np.bool_], Float],
) -> NDArray[np.uint16]:
    """Spectra, texture, illumination, 20 m averaging and sensor noise."""
    rows, canopy, roads, roof_tone = texture
    s = {k: np.array(v, np.float32)[:, None, None] for k, v in _SPECTRA.items()}
    field = (green * s["crop"] + (1 - green) * s["soil"]) * rows
    town = np.where(roads, s["street"], s["roof"] * roof_tone)
    cover = [field, s["forest"] * canopy, s["water"] * np.ones_like(green), town]
    image = np.choose(label[None].repeat(len(BANDS), 0), cover)
    size = label.shape[0]
    gain = rng.uniform(0.88, 1.12) * (1 + 0.05 * _smooth(rng, size, 40))
    haze = rng.uniform(0, 120) * np.array([0.7, 0.85, 1, *([0.4] * 4), 0.3, 0.1, 0.05], np.float32)
    image = image * gain + haze[:, None, None]
    even = size - size % 2
    coarse = image[_TWENTY_METRES, :even, :even]
    coarse = coarse.reshape(len(_TWENTY_METRES), even // 2, 2, even // 2, 2).mean((2, 4))
    image[_TWENTY_METRES, :even, :even] = coarse.repeat(2, 1).repeat(2, 2)
    noise = rng.standard_normal(image.shape).astype(np.float32)
    return np.clip(image + noise * (12 + 0.01 * image), 1, 65535).round().astype(np.uint16)


def write_scenes(folder: str | Path, seeds: range | list[int], size_px: int = 256) -> list[Path]:
    """Write scenes as ``scene_<seed>_{image,later,label,change}.tif``.

    Args:
        folder: Where to; created if absent.
        seeds: One scene each.
        size_px: Side in pixels.

    Returns:
        Paths of the first-date images.
    """
    import rasterio
    from rasterio.transform import from_origin

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    images = []
    for seed in seeds:
        scene = make_scene(seed, size_px)
        transform = from_origin(*scene.origin, RESOLUTION_M, RESOLUTION_M)
        for name in ("image", "later", "label", "change"):
            array = np.atleast_3d(getattr(scene, name).T).T  # a single band as (1, H, W)
            path = folder / f"scene_{seed:03d}_{name}.tif"
            with rasterio.open(
                path,
                "w",
                driver="GTiff",
                width=size_px,
                height=size_px,
                count=len(array),
                dtype=array.dtype,
                crs=CRS,
                transform=transform,
                compress="deflate",
            ) as file:
                file.write(array)
                file.descriptions = BANDS if len(array) == len(BANDS) else (name,)
            if name == "image":
                images.append(path)
    return images
