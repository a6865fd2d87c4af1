"""A plain PyTorch loop over ``x.unbind(0)``: what one writes without a library. In float64 the truth of gates."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from benchmarks.peers import LIF, surrogates

PACKAGE = None


def why_not(config: LIF) -> str | None:
    """It computes every configuration."""
    return None


def lif(x: Tensor, config: LIF) -> Tensor:
    """Spikes of the LIF layer."""
    spikes, _ = steps(x.unbind(0), initial(x), config, surrogates.spike(config))
    return torch.stack(spikes)


def initial(x: Tensor) -> Tensor:
    """The membrane at rest: float32, or float64 for float64 input."""
    return x.new_zeros(x.shape[1:], dtype=torch.promote_types(x.dtype, torch.float32))


def steps(
    currents: Iterable[Tensor], v: Tensor, config: LIF, fire: Callable[[Tensor], Tensor]
) -> tuple[list[Tensor], Tensor]:
    """Spikes of every step, like the input, and the membrane after the last."""
    spikes = []
    for current in currents:
        u = config.decay * v + (current if config.gain == 1 else config.gain * current)
        s = fire(u - config.threshold)
        r = s.detach() if config.detach_reset else s
        v = u * (1 - r) if config.reset == "zero" else u - config.threshold * r if config.reset == "subtract" else u
        spikes.append(s.to(current.dtype))
    return spikes, v
