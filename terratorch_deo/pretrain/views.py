"""Views: crop once per view, heavy augmentation on the optical channels (method 2 and 6).

A whole batch of views is made at once, on the device of the batch. Crop, flip and antialiased
bicubic resize are linear and separable, so one matrix per axis and view does all three; Gaussian
blur is a banded matrix the same way; colour operations take one parameter per view.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from terratorch_deo.bands import BANDS
from terratorch_deo.errors import BandError, DataError, ScalingError
from terratorch_deo.scaling import UNIT_OPTICAL_MEAN, UNIT_OPTICAL_STD, InputContract

BLUR_KERNEL = 23
SOLARIZE_THRESHOLD = 0.5
_TRIES = 10  # draws of a crop before the centre is taken, as in torchvision
_GRAY = (0.2989, 0.587, 0.114)  # ITU-R 601-2 luma, as in torchvision
_BICUBIC = -0.5  # cubic coefficient of antialiased resizing in torch and PIL


class Views(NamedTuple):
    """Standardised views of B images; G global of side S, L local of side s.

    Attributes:
        global_multispectral: (G, B, 10, S, S).
        global_optical: (G, B, 3, S, S).
        local_multispectral: (L, B, 10, s, s).
        local_optical: (L, B, 3, s, s).
    """

    global_multispectral: Tensor
    global_optical: Tensor
    local_multispectral: Tensor
    local_optical: Tensor


class ViewParameters(NamedTuple):
    """What was drawn for V views of B images; every tensor starts with (V, B).

    Attributes:
        box: Top, left, height, width of the crop as shares of the image, (V, B, 4).
        flip: Horizontal flip.
        jitter: Whether colours are jittered.
        order: Order of brightness 0, contrast 1, saturation 2, hue 3, (V, B, 4).
        factors: Their factors; hue as a shift in turns, (V, B, 4).
        gray: Whether colours become gray.
        blur: Standard deviation of the blur in pixels; 0: none.
        solarize: Whether bright values are inverted.
        fixed: Whether the optical channels are scaled by a fixed value instead of their maximum.
    """

    box: Tensor
    flip: Tensor
    jitter: Tensor
    order: Tensor
    factors: Tensor
    gray: Tensor
    blur: Tensor
    solarize: Tensor
    fixed: Tensor

    def to(self, device: torch.device) -> "ViewParameters":
        """The same on a device."""
        return ViewParameters(*(p.to(device, non_blocking=True) for p in self))


# ------------------------------------------------------------------ geometry


def resize_matrix(
    start: Tensor, size: Tensor, out_size: int, in_size: int, flip: Tensor | None = None
) -> Tensor:
    """Matrix that crops, resizes (bicubic, antialiased) and flips one axis.

    Args:
        start: First pixel of the crop, (N,); fractions are allowed.
        size: Pixels of the crop, (N,).
        out_size: Pixels of the result.
        in_size: Pixels of the image.
        flip: Whether the result is reversed, (N,), bool.

    Returns:
        (N, out_size, in_size), float32; rows sum to 1.
    """
    start, size = start.float()[:, None, None], size.float()[:, None, None]
    scale = size / out_size
    target = torch.arange(out_size, device=start.device) + 0.5
    centre = start + target[:, None] * scale
    source = torch.arange(in_size, device=start.device) + 0.5
    x = ((source - centre) / scale.clamp_min(1)).abs()
    a = _BICUBIC
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((x - 5) * x + 8) * x * a - 4 * a
    weight = torch.where(x < 1, near, torch.where(x < 2, far, 0))
    weight = weight * ((source > start) & (source < start + size))
    weight = weight / weight.sum(-1, keepdim=True)
    if flip is not None:
        weight = torch.where(flip[:, None, None], weight.flip(1), weight)
    return weight


def crop_and_resize(image: Tensor, box: Tensor, flip: Tensor, out_size: int) -> Tensor:
    """All views of a batch by two batched matrix products.

    Args:
        image: (B, C, H, W), floating point.
        box: Crops as shares of the image, (V, B, 4).
        flip: (V, B), bool.
        out_size: Side of a view, pixels.

    Returns:
        (V, B, C, out_size, out_size), float32.
    """
    b, c, h, w = image.shape
    v = len(box)
    top, left, height, width = (box * box.new_tensor([h, w, h, w])).flatten(0, 1).unbind(-1)
    rows = resize_matrix(top, height, out_size, h).unflatten(0, (v, b))
    columns = resize_matrix(left, width, out_size, w, flip.flatten()).unflatten(0, (v, b))
    # (B, V*S, H) @ (B, H, C*W): every view of an image in one product
    x = rows.transpose(0, 1).reshape(b, v * out_size, h) @ image.float().transpose(1, 2).reshape(
        b, h, c * w
    )
    x = x.view(b, v, out_size * c, w) @ columns.permute(1, 0, 3, 2)
    return x.view(b, v, out_size, c, out_size).permute(1, 0, 3, 2, 4)


# ------------------------------------------------------------------ colour, all on (N, 3, H, W)


def _per_sample(x: Tensor) -> Tensor:
    return x.view(-1, 1, 1, 1)


def grayscale(x: Tensor) -> Tensor:
    """Luma of red, green, blue, (N, 1, H, W)."""
    r, g, b = x.unbind(1)
    return (r * _GRAY[0] + g * _GRAY[1] + b * _GRAY[2]).unsqueeze(1)


def _blend(x: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    f = _per_sample(factor)
    return (f * x + (1 - f) * other).clamp(0, 1)


def adjust_brightness(x: Tensor, factor: Tensor) -> Tensor:
    """Multiply by ``factor`` (N,), clamp to [0, 1]."""
    return (x * _per_sample(factor)).clamp(0, 1)


def adjust_contrast(x: Tensor, factor: Tensor) -> Tensor:
    """Blend with the mean luma of each image."""
    return _blend(x, grayscale(x).mean((1, 2, 3), keepdim=True), factor)


def adjust_saturation(x: Tensor, factor: Tensor) -> Tensor:
    """Blend with the luma of each pixel."""
    return _blend(x, grayscale(x), factor)


def adjust_hue(x: Tensor, shift: Tensor) -> Tensor:
    """Turn the hue by ``shift`` (N,), in turns."""
    r, g, b = x.unbind(1)
    value, low = x.amax(1), x.amin(1)
    spread = value - low
    flat = spread == 0
    divisor = torch.where(flat, 1, spread)
    saturation = spread / torch.where(flat, 1, value)
    hue = torch.where(
        value == r,
        (g - b) / divisor,
        torch.where(value == g, 2 + (b - r) / divisor, 4 + (r - g) / divisor),
    )
    hue = hue + 6 * shift.view(-1, 1, 1)
    chroma = value * saturation
    channels = []
    for offset in (5, 3, 1):
        k = (hue + offset).remainder(6)
        channels.append(value - chroma * torch.minimum(k, 4 - k).clamp(0, 1))
    return torch.stack(channels, 1)


def solarize(x: Tensor) -> Tensor:
    """Invert values of at least 0.5."""
    return torch.where(x >= SOLARIZE_THRESHOLD, 1 - x, x)


def blur_matrix(sigma: Tensor, size: int, kernel: int = BLUR_KERNEL) -> Tensor:
    """Gaussian blur of one axis with mirrored borders as a banded matrix.

    Args:
        sigma: Standard deviations in pixels, (N,), > 0.
        size: Pixels of the axis, more than half the kernel.
        kernel: Taps, odd.

    Returns:
        (N, size, size).
    """
    half = kernel // 2
    tap = torch.arange(-half, half + 1, device=sigma.device)
    weight = torch.exp(-0.5 * (tap / sigma[:, None]) ** 2)
    weight = weight / weight.sum(1, keepdim=True)
    source = (torch.arange(size, device=sigma.device)[:, None] + tap).abs()
    source = torch.where(source >= size, 2 * (size - 1) - source, source)
    matrix = torch.zeros(len(sigma), size, size, device=sigma.device)
    shape = (len(sigma), size, kernel)
    return matrix.scatter_add_(2, source.expand(shape), weight[:, None].expand(shape))


def gaussian_blur(x: Tensor, sigma: Tensor) -> Tensor:
    """Blur (N, C, H, W) with one standard deviation per image."""
    rows, columns = (blur_matrix(sigma, n)[:, None] for n in x.shape[-2:])
    return rows @ x @ columns.mT


_JITTER = (adjust_brightness, adjust_contrast, adjust_saturation, adjust_hue)


def augment_optical(x: Tensor, p: ViewParameters) -> Tensor:
    """Jitter, grayscale, blur, solarize as drawn.

    Args:
        x: Optical channels in [0, 1], (N, 3, S, S), N = V B.
        p: Parameters of the V x B views.

    Returns:
        The same shape, in [0, 1].
    """
    order, factors = p.order.flatten(0, 1), p.factors.flatten(0, 1)
    jitter, sigma = p.jitter.flatten(), p.blur.flatten()
    x = x.clone()
    for place in range(len(_JITTER)):
        for operation, adjust in enumerate(_JITTER):
            chosen = (jitter & (order[:, place] == operation)).nonzero()[:, 0]
            if len(chosen):
                x[chosen] = adjust(x[chosen], factors[chosen, operation])
    chosen = p.gray.flatten().nonzero()[:, 0]
    if len(chosen):
        x[chosen] = grayscale(x[chosen]).expand(-1, 3, -1, -1)
    chosen = (sigma > 0).nonzero()[:, 0]
    if len(chosen):
        x[chosen] = gaussian_blur(x[chosen], sigma[chosen])
    chosen = p.solarize.flatten().nonzero()[:, 0]
    if len(chosen):
        x[chosen] = solarize(x[chosen])
    return x


# ------------------------------------------------------------------ the whole


@dataclass(frozen=True)
class DualTeacherViews:
    """Global and local, multispectral and optical views of a batch (3.2).

    Attributes:
        global_size: Side of a global view, pixels.
        local_size: Side of a local view, pixels.
        n_global: Global views.
        n_local: Local views.
        global_scale: Area share of a global crop, drawn uniformly.
        local_scale: Area share of a local crop.
        ratio: Width over height of a crop, drawn uniformly in the logarithm.
        flip: Probability of a horizontal flip.
        heavy: Whether the optical channels are augmented.
        jitter: Probability of colour jitter.
        jitter_strength: Brightness, contrast, saturation (factors 1 +- s) and hue (turns).
        gray: Probability of grayscale.
        blur: Probability of blur for the first global, second global and local views.
        blur_sigma: Range of its standard deviation, pixels.
        solarize: Probability for the first global, second global and local views.
        optical_fixed_probability: Share of views whose optical channels are divided by a fixed
            value (255 for 8-bit, ``fixed_dn_maximum`` for digital numbers) instead of the crop's
            own maximum, so that an encoder sees both. The paper has 0.
        fixed_dn_maximum: Digital number that becomes 1 then; 3000 is the usual true-colour stretch.
    """

    global_size: int = 224
    local_size: int = 96
    n_global: int = 2
    n_local: int = 10
    global_scale: tuple[float, float] = (0.4, 1.0)
    local_scale: tuple[float, float] = (0.05, 0.4)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    heavy: bool = True
    jitter: float = 0.8
    jitter_strength: tuple[float, float, float, float] = (0.4, 0.4, 0.2, 0.1)
    gray: float = 0.2
    blur: tuple[float, float, float] = (1.0, 0.1, 0.5)
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    solarize: tuple[float, float, float] = (0.0, 0.2, 0.0)
    optical_fixed_probability: float = 0.0
    fixed_dn_maximum: float = 3000.0

    def __call__(
        self,
        image: Tensor,
        optical: Tensor | None = None,
        *,
        contract: InputContract | None = None,
        seeds: Sequence[int] | None = None,
    ) -> Views:
        """Standardised views.

        Args:
            image: Ten bands in DEO's order, (B, 10, H, W), values as ``contract`` declares. Pixels
                without data become the band's mean before resizing.
            optical: Co-located high-resolution red, green, blue, (B, 3, h, w), 0-255; it replaces
                the optical channels and is cut with the same relative crops.
            contract: What the values of ``image`` are; None: digital numbers.
            seeds: One seed per image, so that its views do not depend on the batch; None: drawn
                from torch's generator.

        Returns:
            The views, float32.

        Raises:
            BandError: Not ten bands, or ``optical`` not three.
            DataError: ``optical`` or ``seeds`` of another batch size.
            ScalingError: A contract without digital numbers.
        """
        contract = contract or InputContract()
        if image.ndim != 4 or image.shape[1] != len(BANDS):
            raise BandError(
                f"image has shape {tuple(image.shape)}, expected (B, 10, H, W) with bands "
                f"{', '.join(BANDS)}."
            )
        if contract.unit not in ("dn", "reflectance"):
            raise ScalingError(
                f"views need digital numbers or reflectance, not unit={contract.unit!r}: the "
                "optical channels are scaled by each crop's maximum before augmentation."
            )
        b = len(image)
        if optical is not None and (optical.ndim != 4 or optical.shape[1] != 3):
            raise BandError(f"optical has shape {tuple(optical.shape)}, expected (B, 3, h, w).")
        if optical is not None and len(optical) != b:
            raise DataError(f"optical has {len(optical)} images, image has {b}.")
        if seeds is None:
            seeds = torch.randint(2**62, (b,)).tolist()
        if len(seeds) != b:
            raise DataError(f"{len(seeds)} seeds for {b} images.")
        image = self._digital_numbers(image, contract)
        groups = self.draw(seeds, image.shape[-2], image.shape[-1])
        views: list[Tensor] = []
        for parameters, size in zip(groups, (self.global_size, self.local_size), strict=True):
            views += self.render(image, optical, parameters.to(image.device), size)
        return Views(*views)

    @staticmethod
    def _digital_numbers(image: Tensor, contract: InputContract) -> Tensor:
        valid = contract.valid(image)
        mean = torch.tensor(contract.mean, device=image.device)[:, None, None]
        dn = image.float()
        if contract.scale != 1 or contract.offset:
            dn = dn * contract.scale + contract.offset  # type: ignore[operator]
        return torch.where(valid, dn, mean)

    def draw(self, seeds: Sequence[int], height: int, width: int) -> list[ViewParameters]:
        """Draw the parameters of the global and of the local views.

        Args:
            seeds: One per image.
            height: Rows of the images.
            width: Columns of the images.

        Returns:
            Parameters of the global and of the local views.
        """
        n = self.n_global + self.n_local
        numbers = 2 * _TRIES + 18
        u = torch.stack(
            [torch.rand(n, numbers, generator=torch.Generator().manual_seed(s)) for s in seeds], 1
        )
        kind = [0] + [1] * (self.n_global - 1)
        return [
            self._parameters(u[: self.n_global], kind, self.global_scale, height, width),
            self._parameters(u[self.n_global :], [2] * self.n_local, self.local_scale, height, width),
        ]

    def _parameters(
        self, u: Tensor, kind: list[int], scale: tuple[float, float], height: int, width: int
    ) -> ViewParameters:
        crop, u = u[..., : 2 * _TRIES + 2], u[..., 2 * _TRIES + 2 :]
        blur = torch.tensor([self.blur[k] for k in kind])[:, None]
        invert = torch.tensor([self.solarize[k] for k in kind])[:, None]
        low, high = self.blur_sigma
        strength = torch.tensor(self.jitter_strength)
        shift = (2 * u[..., 2:6] - 1) * strength
        factors = shift + torch.tensor([1.0, 1.0, 1.0, 0.0])
        heavy = torch.tensor(self.heavy)
        return ViewParameters(
            box=_draw_boxes(crop, scale, self.ratio, height, width),
            flip=u[..., 0] < self.flip,
            jitter=heavy & (u[..., 1] < self.jitter),
            order=u[..., 6:10].argsort(-1),
            factors=factors,
            gray=heavy & (u[..., 10] < self.gray),
            blur=torch.where(heavy & (u[..., 11] < blur), low + (high - low) * u[..., 12], 0),
            solarize=heavy & (u[..., 13] < invert),
            fixed=u[..., 14] < self.optical_fixed_probability,
        )

    def render(
        self, image: Tensor, optical: Tensor | None, p: ViewParameters, size: int
    ) -> tuple[Tensor, Tensor]:
        """Views with given parameters.

        Args:
            image: Digital numbers, (B, 10, H, W), without gaps.
            optical: High-resolution red, green, blue, (B, 3, h, w), 0-255, or None.
            p: Parameters, (V, B, ...).
            size: Side of a view, pixels.

        Returns:
            Multispectral (V, B, 10, size, size) and optical (V, B, 3, size, size), standardised.
        """
        v, b = p.flip.shape
        if not v:
            empty = image.new_empty(0, b, 10, size, size, dtype=torch.float32)
            return empty, empty[:, :, :3]
        if optical is None:
            cut = crop_and_resize(image, p.box, p.flip, size)
            rgb, rest, fixed = cut[:, :, :3], cut[:, :, 3:], self.fixed_dn_maximum
        else:
            rgb = crop_and_resize(optical.float().nan_to_num(), p.box, p.flip, size)
            rest, fixed = crop_and_resize(image[:, 3:], p.box, p.flip, size), 255.0
        rgb = rgb.reshape(v * b, 3, size, size)
        maximum = torch.where(p.fixed.flatten(), fixed, rgb.amax((1, 2, 3)).clamp_min(1e-6))
        rgb = augment_optical((rgb / _per_sample(maximum)).clamp_(0, 1), p)
        mean, std = torch.tensor(UNIT_OPTICAL_MEAN), torch.tensor(UNIT_OPTICAL_STD)
        rgb = _standardize(rgb, mean, std).view(v, b, 3, size, size)
        contract = InputContract()
        rest = _standardize(rest, torch.tensor(contract.mean[3:]), torch.tensor(contract.std[3:]))
        return torch.cat([rgb, rest], dim=2), rgb


def _standardize(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    mean, std = (t.to(x.device)[:, None, None] for t in (mean, std))
    return (x - mean) / std


def _draw_boxes(
    u: Tensor, scale: tuple[float, float], ratio: tuple[float, float], height: int, width: int
) -> Tensor:
    """Crops as torchvision draws them: the first of ten tries that fits, else the centre.

    Args:
        u: Uniform numbers, (..., 2 * tries + 2).
        scale: Range of the area share.
        ratio: Range of width over height.
        height: Rows of the image.
        width: Columns of the image.

    Returns:
        Top, left, height, width as shares of the image, (..., 4).
    """
    area = height * width * (scale[0] + (scale[1] - scale[0]) * u[..., :_TRIES])
    low, high = torch.tensor(ratio).log()
    aspect = torch.exp(low + (high - low) * u[..., _TRIES : 2 * _TRIES])
    w, h = (area * aspect).sqrt().round(), (area / aspect).sqrt().round()
    fits = (w >= 1) & (w <= width) & (h >= 1) & (h <= height)
    first = fits.int().argmax(-1, keepdim=True)
    own = width / height
    centre_w = width if own <= ratio[1] else round(height * ratio[1])
    centre_h = height if own >= ratio[0] else round(width / ratio[0])
    none = ~fits.any(-1)
    h = torch.where(none, centre_h, h.gather(-1, first)[..., 0])
    w = torch.where(none, centre_w, w.gather(-1, first)[..., 0])
    top = torch.where(none, (height - h) // 2, (u[..., -2] * (height - h + 1)).floor())
    left = torch.where(none, (width - w) // 2, (u[..., -1] * (width - w + 1)).floor())
    return torch.stack([top / height, left / width, h / height, w / width], -1)
