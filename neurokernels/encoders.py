"""Encoders: images in [0, 1] become spike trains or currents over time, ``[B, ...] -> [T, B, ...]``.

`poisson` spends time on the spikes it makes, not on the ``T * B * pixels`` places where one could be, and
`poisson_events` hands them over as a list, which a layer's weights can be gathered by.
"""

import math
from dataclasses import dataclass

import torch

from neurokernels._core.arrays import accepts_arrays
from neurokernels._core.checks import count, number, type_error, value_error

#: Above this probability a draw for every place is cheaper than jumping from spike to spike.
_DENSE = 0.2


@dataclass(frozen=True)
class Events:
    """Spikes as a list, in the order of time, image and pixel.

    Attributes:
        pixels: ``[E]`` int64, the position of every spike in its flattened image.
        offsets: ``[T * B + 1]`` int64: the spikes of step t in image b are those from ``offsets[t * B + b]`` up to the
            next offset. This is the layout of `torch.nn.functional.embedding_bag` and of CSR matrices.
        shape: ``(T, B, ...)``, the shape of the dense form.
    """

    pixels: torch.Tensor
    offsets: torch.Tensor
    shape: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.pixels)

    def dense(self, dtype: torch.dtype | None = None) -> torch.Tensor:
        """The same spikes as zeros and ones, ``[T, B, ...]``."""
        width = math.prod(self.shape[2:])
        spikes = torch.zeros(math.prod(self.shape), dtype=dtype, device=self.pixels.device)
        rows = torch.arange(len(self.offsets) - 1, device=self.pixels.device)
        spikes[rows.repeat_interleave(self.offsets.diff(), output_size=len(self)) * width + self.pixels] = 1
        return spikes.reshape(self.shape)


@accepts_arrays
def poisson(
    images: torch.Tensor,
    steps: int,
    *,
    rate: float = 1.0,
    generator: torch.Generator | None = None,
    dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """Independent spikes: at every step a pixel spikes with probability ``pixel * rate``.

    The draws are exact, not a small-rate approximation: jumps between candidate places follow the geometric
    distribution of the brightest pixel, and a candidate is kept with the probability of its own. What is drawn depends
    on the generator alone.

    Args:
        images: ``[B, ...]`` in [0, 1], of a floating point type. Its range is checked, so a GPU waits once.
        steps: How many time steps, T >= 0.
        rate: Spikes per step of a white pixel, in [0, 1]. Gerum & Schilling's networks use 0.005.
        generator: Source of randomness on the images' device; None takes the global one.
        dtype: Type of the spikes; None takes that of the images.

    Returns:
        Zeros and ones, ``[T, B, ...]``, without a gradient.

    Raises:
        TypeError: Images of integers, or something that is not a tensor.
        ValueError: A pixel outside [0, 1] or NaN, a negative number of steps, a rate outside [0, 1].

    Source: Gerum & Schilling, Neural Computation 33(10), 2021.
    """
    events = _draw("poisson", images, steps, rate, generator)
    return events.dense(images.dtype if dtype is None else dtype)


def poisson_events(
    images: torch.Tensor, steps: int, *, rate: float = 1.0, generator: torch.Generator | None = None
) -> Events:
    """The spikes of `poisson` as a list, the very same ones from the same generator state. Arguments as there."""
    return _draw("poisson_events", images, steps, rate, generator)


@accepts_arrays
def latency(images: torch.Tensor, steps: int, *, dtype: torch.dtype | None = None) -> torch.Tensor:
    """Time to first spike: every pixel spikes once, the brighter the earlier, linearly; black pixels never do.

    A pixel of brightness p > 0 spikes at step ``floor((1 - p) * steps)``: white at step 0, the faintest at the last
    step.

    Args:
        images: ``[B, ...]`` in [0, 1], of a floating point type. Its range is checked, so a GPU waits once.
        steps: How many time steps, T >= 0.
        dtype: Type of the spikes; None takes that of the images.

    Returns:
        Zeros and ones, ``[T, B, ...]``, without a gradient.

    Raises:
        TypeError: Images of integers, or something that is not a tensor.
        ValueError: A pixel outside [0, 1] or NaN, a negative number of steps.
    """
    steps = _checked("latency", images, steps)
    spikes = torch.zeros(steps, *images.shape, dtype=images.dtype if dtype is None else dtype, device=images.device)
    if steps:
        with torch.no_grad():
            first = ((1 - images.double()) * steps).long().clamp_(max=steps - 1)
            spikes.scatter_(0, first.unsqueeze(0), (images > 0).to(spikes.dtype).unsqueeze(0))
    return spikes


@accepts_arrays
def intensity(images: torch.Tensor, steps: int) -> torch.Tensor:
    """Constant current: the image itself at every step, as a view that takes no memory and passes gradients.

    Args:
        images: ``[B, ...]`` of a floating point type, of any range: a current may be negative.
        steps: How many time steps, T >= 0.

    Returns:
        ``[T, B, ...]``, the images expanded over time.

    Raises:
        TypeError: Images of integers, or something that is not a tensor.
        ValueError: A negative number of steps.
    """
    _floating("intensity", images)
    return images.unsqueeze(0).expand(count("intensity", "steps", steps), *images.shape)


def _floating(name: str, images: torch.Tensor) -> None:
    if not isinstance(images, torch.Tensor):
        type_error(name, "images", "a tensor", type(images).__name__)
    if not images.is_floating_point():
        type_error(
            name,
            "images",
            "floating point in [0, 1]",
            f"{images.dtype}; divide by the largest value, as in images / 255",
        )
    if images.ndim == 0:
        value_error(name, "images", "[B, ...] with at least 1 dimension", "shape ()")


def _checked(name: str, images: torch.Tensor, steps: int) -> int:
    _floating(name, images)
    if images.numel():
        low, high = (float(bound) for bound in images.detach().aminmax())
        if not (low >= 0 and high <= 1):  # written so that NaN, which aminmax hands on, is refused too
            value_error(
                name, "images", "in [0, 1]", f"values from {low:g} to {high:g}; divide by the largest possible value"
            )
    return count(name, "steps", steps)


@torch.no_grad()
def _draw(name: str, images: torch.Tensor, steps: int, rate: float, generator: torch.Generator | None) -> Events:
    steps = _checked(name, images, steps)
    rate = number(name, "rate", rate, 0.0, 1.0)
    if generator is not None and generator.device.type != images.device.type:
        value_error(name, "generator", f"on {images.device.type} as the images are", f"one on {generator.device.type}")
    flat = images.reshape(len(images), math.prod(images.shape[1:]))
    image, pixel = flat.nonzero(as_tuple=True)  # black pixels are no places at all: most of a handwritten digit
    at = _places(flat[image, pixel].double() * rate, steps, generator)
    step, active = at.div(max(len(image), 1), rounding_mode="floor"), at % max(len(image), 1)
    rows = torch.bincount(step * len(images) + image[active], minlength=steps * len(images))
    return Events(pixel[active], torch.nn.functional.pad(rows.cumsum(0), (1, 0)), (steps, *images.shape))


def _places(probability: torch.Tensor, steps: int, generator: torch.Generator | None) -> torch.Tensor:
    """Where spikes are in a ``[steps, K]`` grid whose column k has ``probability[k]``: ascending flat positions."""
    columns, device = len(probability), probability.device
    top = float(probability.max()) if columns and steps else 0.0
    if top == 0:
        return torch.empty(0, dtype=torch.int64, device=device)

    def uniform(
        n: int,
    ) -> torch.Tensor:  # float64: in float32 a probability of 2e-5 is off by 0.3 %
        return torch.rand(n, dtype=torch.float64, device=device, generator=generator)

    if top > _DENSE:
        drawn = [(uniform(columns) < probability).nonzero().flatten() + step * columns for step in range(steps)]
        return torch.cat(drawn)
    size = steps * columns
    chunk = (
        int(size * top + 6 * math.sqrt(size * top)) + 16
    )  # one round is enough all but once in a thousand million calls
    found, last = [], -1
    while last < size:
        gaps = torch.log1p(-uniform(chunk)).div_(math.log1p(-top)).clamp_(max=size).long()
        found.append(gaps.add_(1).cumsum_(0).add_(last))
        last = int(found[-1][-1])
    candidates = torch.cat(found)
    candidates = candidates[candidates < size]
    return candidates[uniform(len(candidates)) * top < probability[candidates % columns]]
