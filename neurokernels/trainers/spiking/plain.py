"""The same cells as plain PyTorch loops, in their fastest form: what the fused ops are compared with.

``unbind`` instead of ``x[t]`` (whose backward adds T full-size gradients), and one call of the spike function after the
loop instead of one per step.
"""

from typing import Any

import torch
from torch import Tensor, nn


class _Spike(torch.autograd.Function):
    """A step whose derivative is one everywhere: the ``flat`` surrogate of Gerum & Schilling 2021."""

    @staticmethod
    def forward(ctx: Any, membrane: Tensor) -> Tensor:
        return (membrane >= 1).to(membrane.dtype)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g


class PlainLIF(nn.Module):
    """The floor variant of `neurokernels.nn.LIF.gerum2020`, ``[T, B, N]`` to the same, starting from its leaks."""

    def __init__(self, w_leak: Tensor) -> None:
        super().__init__()
        self.w_leak = nn.Parameter(w_leak.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """Spikes, shaped like x."""
        decay, carried, membranes = 1 - self.w_leak, torch.zeros_like(x[0]), []
        for current in x.unbind(0):
            membranes.append(torch.relu(decay * carried + current))
            carried = membranes[-1].masked_fill(membranes[-1] > 1, 0)
        return _Spike.apply(torch.stack(membranes))


class PlainReadout(nn.Module):
    """`neurokernels.nn.LeakyReadout` as a loop, ``[T, B, N]`` to ``[B, N]``, starting from its leaks."""

    def __init__(self, w_leak: Tensor) -> None:
        super().__init__()
        self.w_leak = nn.Parameter(w_leak.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """The membrane after the last step."""
        decay, carried = 1 - self.w_leak, torch.zeros_like(x[0])
        for current in x.unbind(0):
            carried = torch.relu(decay * carried + current)
        return carried
