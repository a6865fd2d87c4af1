"""What the neurons of a network do while they look at one image."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from neurokernels.encoders import Events
from neurokernels.ops.lif import LIFState
from neurokernels.trainers.spiking.network import SpikingNet


@dataclass
class Traces:
    """Time courses of one image.

    Attributes:
        spikes: ``[T, hidden]``, of the LIF neurons.
        membranes: ``[T, hidden]``, what they carry after every step.
        classes: ``[T, classes]``, membranes of the read-out.
    """

    spikes: NDArray[np.float32]
    membranes: NDArray[np.float32]
    classes: NDArray[np.float32]


@torch.no_grad()
def watch(net: SpikingNet, events: Events) -> Traces:
    """Runs a network whose LIF layer is a `neurokernels.nn.LIF` step by step, handing its state on.

    Args:
        net: The network.
        events: Spikes of one image, ``[T, 1, pixels]``.
    """
    state: LIFState | None = None
    spikes, membranes = [], []
    for current in net.dense(events).split(1):
        spike, membrane, state = net.lif.run(current, v0=state)  # type: ignore[operator]
        spikes.append(spike[0, 0])
        membranes.append(membrane[0])
    fired = torch.stack(spikes)
    classes = net.readout.trace(net.out(fired.unsqueeze(1)))  # type: ignore[operator]
    return Traces(*(found.cpu().numpy() for found in (fired, torch.stack(membranes), classes[:, 0])))
