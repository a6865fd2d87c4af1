"""snnTorch: ``Leaky`` over ``x.unbind(0)``, three times as fast as its tutorials' ``x[t]`` when gradients are taken."""

from functools import cache

import snntorch
import torch
from snntorch import surrogate
from torch import Tensor, nn

from benchmarks.peers import LIF, surrogates, unbind

PACKAGE = "snntorch"
_OWN = {"atan": surrogate.atan, "sigmoid": surrogate.sigmoid, "fast_sigmoid": surrogate.fast_sigmoid}


def why_not(config: LIF) -> str | None:
    """It scales no input, and the two kinds of reset come with one kind of gradient each."""
    if config.gain != 1:
        return "it has no gain"
    if config.reset == "zero" and not config.detach_reset:
        return "its reset to zero is detached"
    if config.reset == "subtract" and config.detach_reset:
        return "its subtraction at the step of the spike is not detached"
    return None


def lif(x: Tensor, config: LIF) -> Tensor:
    """Spikes of the LIF layer; with ``reset="subtract"`` only while every membrane stays below twice the threshold."""
    membrane = unbind.initial(x)
    layer, spikes = _layer(config, membrane.dtype), []
    for current in x.unbind(0):
        s, membrane = layer(current, membrane)
        spikes.append(s)
    return torch.stack(spikes).to(x.dtype)


@cache
def _layer(config: LIF, dtype: torch.dtype) -> nn.Module:
    threshold = surrogates.just_below(config.threshold, dtype)  # it spikes above its threshold, not at it
    if config.surrogate in _OWN:
        fire = _OWN[config.surrogate](config.alpha)
    elif config.surrogate == "constant" and config.alpha == 1:
        fire = surrogate.straight_through_estimator()
    else:
        slope, below = surrogates.derivative(config), config.threshold - threshold
        fire = surrogate.custom_surrogate(lambda y, g, spikes: g * slope(y - below))
    return snntorch.Leaky(
        config.decay,
        threshold=threshold,
        spike_grad=fire,
        reset_mechanism=config.reset,
        # Its delayed reset multiplies before the next step, which comes to the same, but subtracts after the decay.
        reset_delay=config.reset == "zero",
    )
