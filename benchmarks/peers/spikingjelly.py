"""SpikingJelly: its multi-step function, which takes its fused operator where the surrogate is one of its seven."""

from collections.abc import Callable
from functools import cache

from spikingjelly.activation_based import functional, surrogate
from torch import Tensor

from benchmarks.peers import LIF, surrogates, unbind

PACKAGE = "spikingjelly"
_OWN = {
    "atan": surrogate.ATan,
    "boxcar": surrogate.Rect,
    "sigmoid": surrogate.Sigmoid,
    "piecewise_quadratic": surrogate.PiecewiseQuadratic,
    "piecewise_exp": surrogate.PiecewiseExp,
    "erf": surrogate.Erf,
}


def why_not(config: LIF) -> str | None:
    """It resets always, and scales its input by 1 or by 1 - decay."""
    if config.reset == "none":
        return "it has no neuron that spikes and does not reset"
    if config.gain not in (1, 1 - config.decay):
        return f"it scales its input by 1 or by 1 - decay, not by {config.gain:g}"
    return None


def lif(x: Tensor, config: LIF) -> Tensor:
    """Spikes of the LIF layer."""
    tau, scaled = 1 / (1 - config.decay), config.gain != 1
    reset = 0.0 if config.reset == "zero" else None
    return functional.lif_multi_step(
        x, unbind.initial(x), tau, scaled, config.threshold, reset, _surrogate(config), config.detach_reset
    )[0].to(x.dtype)


@cache
def _surrogate(config: LIF) -> Callable[[Tensor], Tensor]:
    own = _OWN.get(config.surrogate)
    return own(config.alpha) if own else surrogates.spike(config)
