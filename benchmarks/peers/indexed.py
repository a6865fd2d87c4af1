"""The plain loop with ``x[t]``, for the record: its backward pass writes the whole gradient once for every step."""

import torch
from torch import Tensor

from benchmarks.peers import LIF, surrogates, unbind

PACKAGE = None
why_not = unbind.why_not


def lif(x: Tensor, config: LIF) -> Tensor:
    """Spikes of the LIF layer."""
    currents = (x[t] for t in range(x.shape[0]))
    spikes, _ = unbind.steps(currents, unbind.initial(x), config, surrogates.spike(config))
    return torch.stack(spikes)
