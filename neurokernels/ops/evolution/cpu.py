"""The room on the compiled core."""

from functools import cache

import torch
from torch import Tensor

from neurokernels._core import native
from neurokernels.ops.evolution import fixed
from neurokernels.ops.evolution.leaves import allocate
from neurokernels.ops.evolution.network import ACTIVATIONS, Network
from neurokernels.ops.evolution.philox import threshold


@cache
def _wiring(network: Network) -> tuple[Tensor, Tensor, Tensor]:
    """Where hidden layers end, where each target's connections begin, and the rows that they read: int32.

    Rows are all inputs there can be, then the hidden units.
    """
    counts = torch.tensor([len(b.sources) for b in network.blocks for _ in b.targets])
    first = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
    return network.layer_ends(), first.int(), network.rows()


def rollout(
    weights: Tensor, mask: Tensor, walls: Tensor, places: Tensor, state: list[Tensor], network: Network, steps: int,
    forget: bool, keep: bool, level: int = -1,
) -> tuple[Tensor, ...]:  # fmt: skip
    """See `reference.rollout`; ``level`` is an instruction set, the best one by default."""
    exact, agents = weights.dtype == torch.int8, len(weights)
    goals, *kept = allocate(weights, walls, network, keep)
    # Integers in float32 are exact: one kernel serves both modes, and needs the weights as they are multiplied.
    weights, mask, walls, places, *state = (t.contiguous() for t in (weights.float(), mask, walls, places, *state))
    ends, first, rows = _wiring(network)
    knots = torch.tensor(fixed.KNOTS, dtype=torch.int32)
    native.core().rollout(
        agents, weights.data_ptr(), mask.data_ptr(), network.width, len(network.hidden), ends.data_ptr(),
        first.data_ptr(), rows.data_ptr(), ACTIVATIONS.index(network.activation), *walls.shape, walls.data_ptr(),
        *(place.data_ptr() for place in places), steps, forget, knots.data_ptr() if exact else 0,
        [s.data_ptr() for s in state] or [0] * 4, [k.data_ptr() if keep else 0 for k in kept], goals.data_ptr(),
        native.threads(), level,
    )  # fmt: skip
    return goals, *kept


def offspring(
    weights: Tensor, mask: Tensor, parents: Tensor, generation: int, seed: int, mutation: float, severance: float,
    limit: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """See `reference.offspring`."""
    weights, mask, parents = weights.contiguous(), mask.contiguous(), parents.contiguous()
    fresh, exists = torch.empty_like(weights), torch.empty_like(mask)
    native.core().offspring(
        *weights.shape, len(parents), weights.data_ptr(), mask.data_ptr(), parents.data_ptr(), generation,
        seed, threshold(severance), mutation, limit, fresh.data_ptr(), exists.data_ptr(), native.threads(),
    )  # fmt: skip
    return fresh, exists
