"""Norse: its step without synaptic currents over ``x.unbind(0)``; its own sequence module indexes ``x[t]``.

The step picks its surrogate by name from a closed list and ignores widths: the surrogate here is put in its place.
"""

from unittest.mock import patch

import torch
from norse.torch.functional import lif_box, reset
from torch import Tensor

from benchmarks.peers import LIF, surrogates, unbind

PACKAGE = "norse"


def why_not(config: LIF) -> str | None:
    """It resets always."""
    return "it has no neuron that spikes and does not reset" if config.reset == "none" else None


def lif(x: Tensor, config: LIF) -> Tensor:
    """Spikes of the LIF layer."""
    rest = unbind.initial(x)
    state = lif_box.LIFBoxFeedForwardState(v=rest)
    to_value = reset.reset_value if config.reset == "zero" else reset.reset_subtract
    parameters = lif_box.LIFBoxParameters(
        tau_mem_inv=1 - config.decay,
        v_leak=0.0,
        v_th=config.threshold,
        v_reset=0.0,
        reset_method=(lambda z, *others: to_value(z.detach(), *others)) if config.detach_reset else to_value,
    )
    fire, spikes = surrogates.spike(config), []
    scale = config.gain / (1 - config.decay)  # it scales its input by 1 - decay
    currents = x if scale == 1 else x.to(rest.dtype) * scale
    with patch.object(lif_box, "threshold", lambda y, method, alpha: fire(y)):
        for current in currents.unbind(0):
            s, state = lif_box.lif_box_feed_forward_step(current, state, parameters, dt=1.0)
            spikes.append(s)
    return torch.stack(spikes).to(x.dtype)
