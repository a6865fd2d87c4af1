"""A synthetic population like that of primary visual cortex: neural responses for experiments that have no recording.

Every cell has a pair of Gabor filters in quadrature (Jones & Palmer, "An evaluation of the two-dimensional Gabor filter
model of simple receptive fields in cat striate cortex", 1987). Complex cells answer with their energy (Adelson &
Bergen, "Spatiotemporal energy models for the perception of motion", 1985), simple cells with the square of what is
above zero at one phase (Heeger, "Half-squaring in responses of cat striate cells", 1992). The population normalises
what each cell answers (Carandini & Heeger, "Normalization as a canonical neural computation", 2012). The variance of
spike counts is proportional to their mean.
"""

import math
from dataclasses import dataclass

import torch

from neurokernels._core import checks
from neurokernels.data.neural import Recording

_DEGREES = 2.0  # of visual angle that the shorter side of an image spans: the fovea
_FREQUENCIES = (1.0, 8.0)  # cycles per degree, most foveal cells (De Valois, Albrecht & Thorell, 1982)
_CYCLES = (
    0.3,
    0.6,
)  # that the envelope's standard deviation spans: bandwidths of 2.1 down to 0.9 octaves (same source)
_ASPECT = (1.0, 1.8)  # length over width of the envelope (Jones & Palmer, 1987)
_REACH = 0.4  # degrees from the middle of the image to a receptive field's, at most
_PIXELS = 4  # to a cycle at least: finer gratings are not what their pixels show
_SEMISATURATION = 0.15  # contrast at which the normalisation begins to matter
_SUPPRESSION = (
    10.0  # weight of the population's mean energy against a cell's own: a mask of equal contrast costs a quarter
)
_SPIKES = (5.0, 25.0)  # at the largest answer
_SPONTANEOUS = 0.5  # spikes
_LUMINANCE = (0.299, 0.587, 0.114)  # of red, green and blue (ITU-R BT.601)
_BATCH, _CELLS = 512, 64  # images and cells at a time


@dataclass(frozen=True, eq=False)
class Cells:
    """A population of cells, each a row of every tensor.

    Attributes:
        frequency: Preferred spatial frequency in cycles per degree.
        orientation: Direction across the bars of the preferred grating, in [0, pi), from rightwards to downwards.
        phase: Phase that a simple cell prefers, in [0, 2 pi).
        complex: Whether a cell is complex.
        gain: Spikes at the largest answer.
        even: Filters ``[neurons, H * W]`` that answer the preferred grating of full contrast in cosine phase with 1.
        odd: The same in sine phase; each answers the other's grating with 0.
    """

    frequency: torch.Tensor
    orientation: torch.Tensor
    phase: torch.Tensor
    complex: torch.Tensor
    gain: torch.Tensor
    even: torch.Tensor
    odd: torch.Tensor

    def rates(self, contrast: torch.Tensor) -> torch.Tensor:
        """Expected spikes ``[N, neurons]`` to images ``[N, H * W]`` of contrasts in [-1, 1]."""
        even, odd = contrast @ self.even.T, contrast @ self.odd.T
        energy = even.square() + odd.square()
        simple = (even * self.phase.cos() + odd * self.phase.sin()).relu().square()
        # its own energy bounds a cell's answer by its gain, that of all cells lets one stimulus suppress another
        pool = _SEMISATURATION**2 + energy + _SUPPRESSION * energy.mean(1, keepdim=True)
        return _SPONTANEOUS + self.gain * torch.where(self.complex, energy, simple) / pool


def cells(neurons: int, height: int, width: int, generator: torch.Generator, complex_cells: float = 0.5) -> Cells:
    """Draws a population for images of a size. As many numbers are drawn whatever the size.

    Raises:
        ValueError: The images have too few pixels for the lowest frequency.
    """
    density = min(height, width) / _DEGREES  # pixels per degree
    finest = min(_FREQUENCIES[1], density / _PIXELS)
    if finest < _FREQUENCIES[0]:
        least = math.ceil(_FREQUENCIES[0] * _PIXELS * _DEGREES)
        checks.value_error("gabor_population", "images", f"at least {least} x {least} pixels", f"{height} x {width}")
    u = torch.rand(neurons, 9, generator=generator, dtype=torch.float64)
    frequency = _FREQUENCIES[0] * (finest / _FREQUENCIES[0]) ** u[:, 0]
    orientation = math.pi * u[:, 1]
    across = _between(_CYCLES, u[:, 2]) / frequency
    along = across * _between(_ASPECT, u[:, 3])
    distance, direction = _REACH * u[:, 4].sqrt(), 2 * math.pi * u[:, 5]
    shapes = torch.stack(
        (frequency, orientation, across, along, distance * direction.cos(), distance * direction.sin()), 1
    )
    pairs = torch.cat([_pairs(some, height, width, density) for some in shapes.split(_CELLS)])
    return Cells(
        frequency.float(),
        orientation.float(),
        (2 * math.pi * u[:, 6]).float(),
        u[:, 7] < complex_cells,
        _between(_SPIKES, u[:, 8]).float(),
        *pairs.float().unbind(1),
    )


def _between(bounds: tuple[float, float], u: torch.Tensor) -> torch.Tensor:
    return bounds[0] + (bounds[1] - bounds[0]) * u


def _pairs(shapes: torch.Tensor, height: int, width: int, density: float) -> torch.Tensor:
    """Quadrature pairs ``[neurons, 2, H * W]`` of Gabor filters that do not see uniform light."""
    frequency, orientation, across, along, right, down = shapes[..., None, None].unbind(1)
    x = (torch.arange(width, dtype=torch.float64) - (width - 1) / 2) / density - right
    y = ((torch.arange(height, dtype=torch.float64) - (height - 1) / 2) / density).unsqueeze(1) - down
    u, v = x * orientation.cos() + y * orientation.sin(), y * orientation.cos() - x * orientation.sin()
    distance = ((u / across).square() + (v / along).square()).flatten(1).unsqueeze(1)
    # zero from five standard deviations on: denormal numbers in the tail would make the filtering many times slower
    envelope = (-distance / 2).exp().where(distance < 25, 0)
    angle = (2 * math.pi * frequency * u).flatten(1)
    gratings = torch.stack((angle.cos(), angle.sin()), 1)
    light = (envelope * gratings).sum(-1, keepdim=True) / envelope.sum(-1, keepdim=True)
    filters = envelope * (gratings - light)
    # not only scaled: pixels and the image's edge would leave the pair a little out of quadrature
    return torch.linalg.inv(filters @ gratings.mT) @ filters


def gabor_population(
    images: torch.Tensor,
    neurons: int = 200,
    *,
    seed: int = 0,
    repeats: int = 10,
    noise: float = 1.0,
    complex_cells: float = 0.5,
    size: int | None = None,
) -> Recording:
    """Responses of a synthetic population like that of primary visual cortex. Needs no data but the images.

    An image spans two degrees around the fovea. Preferred frequencies, bandwidths, aspect ratios and positions are
    drawn from the ranges that the sources give; frequencies end where a cycle has four pixels. See the module for the
    model and its sources. One seed gives the same cells for all images of one size, and the same bits for the same
    images on the same machine.

    Args:
        images: ``[N, 3, H, W]`` or ``[N, 1, H, W]``, uint8, at least 8 x 8 pixels.
        neurons: Cells in the population.
        seed: Which cells, and which noise.
        repeats: How often every image is shown.
        noise: Variance of a spike count over its mean (Fano factor); 1 is Poisson. Other values draw Poisson counts in
            units of ``noise`` spikes. 0 gives the expected counts, without repeats.
        complex_cells: Share of complex cells; the others are simple.
        size: Side in pixels to which the images are resized first, antialiased; None leaves them as they are.

    Returns:
        A recording with the images as the population saw them.

    Raises:
        TypeError: ``images`` is not a uint8 tensor.
        ValueError: ``images`` have another shape or are too small, or a number is out of its range.
    """
    op = "gabor_population"
    if not isinstance(images, torch.Tensor) or images.dtype != torch.uint8:
        got = images.dtype if isinstance(images, torch.Tensor) else type(images).__name__
        checks.type_error(op, "images", "a uint8 tensor", got)
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        checks.value_error(op, "images", "[N, 3, H, W] or [N, 1, H, W]", list(images.shape))
    checks.count(op, "neurons", neurons, 1)
    checks.count(op, "repeats", repeats, 1)
    noise = checks.number(op, "noise", noise, 0)
    share = checks.number(op, "complex_cells", complex_cells, 0, 1)
    images = images.cpu()
    if size is not None:
        side = checks.count(op, "size", size, 1)
        images = torch.nn.functional.interpolate(images, (side, side), mode="bicubic", antialias=True)
    generator = torch.Generator().manual_seed(seed)
    height, width = images.shape[2:]
    population = cells(neurons, height, width, generator, share)
    expected = torch.cat([population.rates(_contrast(some)) for some in images.split(_BATCH)])
    if noise == 0:
        return Recording("gabor", images, expected)
    counts = torch.poisson((expected / noise).unsqueeze(-1).expand(-1, -1, repeats), generator) * noise
    return Recording("gabor", images, counts.mean(-1), counts)


def _contrast(images: torch.Tensor) -> torch.Tensor:
    """Contrasts ``[N, H * W]`` in [-1, 1] around middle grey."""
    grey = images.float()
    if images.shape[1] == 3:
        grey = torch.einsum("nchw,c->nhw", grey, torch.tensor(_LUMINANCE))
    return grey.flatten(1) / 127.5 - 1
