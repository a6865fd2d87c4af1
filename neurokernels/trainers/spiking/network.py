"""The network of Gerum & Schilling 2021: Poisson spikes, dense, LIF, dense, leaky read-out."""

from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neurokernels import nn as nk_nn
from neurokernels.encoders import Events
from neurokernels.trainers.spiking.plain import PlainLIF, PlainReadout


class EventDense(nn.Module):
    """A dense layer on a list of spikes: the sums that `torch.nn.Linear` makes of the dense form, without its zeros.

    At one spike in two thousand places that is a twentieth of the time. Weight ``[inputs, outputs]``, Glorot uniform.
    """

    def __init__(self, inputs: int, outputs: int, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(nn.init.xavier_uniform_(torch.empty(inputs, outputs), generator=generator))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, events: Events) -> Tensor:
        """Currents ``[T, B, outputs]``."""
        sums = F.embedding_bag(events.pixels, self.weight, events.offsets, mode="sum", include_last_offset=True)
        return sums.add_(self.bias).unflatten(0, events.shape[:2])


class SpikingNet(nn.Module):
    """Dense, LIF, dense, leaky read-out."""

    def __init__(
        self, pixels: int, hidden: int, classes: int, dt: float, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        self.dense = EventDense(pixels, hidden, generator)
        self.lif: nn.Module = nk_nn.LIF.gerum2020(hidden, dt=dt, generator=generator)
        self.out = nn.Linear(hidden, classes)
        nn.init.xavier_uniform_(self.out.weight, generator=generator)
        nn.init.zeros_(self.out.bias)
        self.readout: nn.Module = nk_nn.LeakyReadout(classes)

    def forward(self, events: Events) -> Tensor:
        """Class membranes after the last step, ``[B, classes]``."""
        membranes: Tensor = self.readout(self.out(self.lif(self.dense(events))))
        return membranes

    def as_plain(self) -> "SpikingNet":
        """A copy with the same weights whose cells are plain PyTorch loops."""
        copy = deepcopy(self)
        copy.lif, copy.readout = PlainLIF(self.lif.w_leak), PlainReadout(self.readout.w_leak)  # type: ignore[arg-type]
        return copy


def loss_and_hits(membranes: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Mean squared error of the softmax to one-hot labels, and the share of correct answers."""
    target = F.one_hot(labels, membranes.shape[1]).to(membranes.dtype)
    return F.mse_loss(membranes.softmax(1), target), (membranes.argmax(1) == labels).double().mean()
