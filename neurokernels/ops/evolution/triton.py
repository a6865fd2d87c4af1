"""The room on Triton: launches of `triton_kernels`."""

from functools import cache

import torch
from torch import Tensor

from neurokernels._core import tuned
from neurokernels._core.triton import on_device
from neurokernels.ops.evolution import fixed
from neurokernels.ops.evolution.leaves import allocate
from neurokernels.ops.evolution.network import COMMANDS, INPUTS, Network
from neurokernels.ops.evolution.philox import Stream, threshold
from neurokernels.ops.evolution.reference import lineage
from neurokernels.ops.evolution.triton_kernels import Mazes, State, offspring_kernel, rollout_kernel
from neurokernels.ops.evolution.triton_limits import MOST_UNITS

_EDGES = 1024  # connections of a program of the offspring kernel


def _power(size: int, low: int, high: int) -> int:
    """The least power of two that is not below ``size``, between two bounds."""
    return min(max(1 << max(size - 1, 0).bit_length(), low), high)


@cache
def _wiring(network: Network, device: torch.device) -> tuple[Tensor, Tensor, tuple[int, ...]]:
    """Where each connection lies in the dense matrices, laid end to end; the layer of each unit; and their sizes."""
    inputs, units = len(network.inputs), network.width
    source, target = network.ends()
    row = torch.tensor(network.inputs)[source.clamp(max=inputs - 1)]
    sizes = (units * len(INPUTS), units * units, len(COMMANDS) * units)
    from_input = (target - inputs) * len(INPUTS) + row
    from_hidden = sizes[0] + (target - inputs) * units + source - inputs
    # Outputs are numbered behind the hidden units, and their matrix lies behind that of the hidden units.
    place = torch.where(source < inputs, from_input, from_hidden)
    layer = torch.repeat_interleave(torch.arange(len(network.hidden)), torch.tensor(network.hidden))
    return place.to(device), layer.int().to(device), sizes


def _dense(weights: Tensor, mask: Tensor, network: Network) -> tuple[list[Tensor], Tensor]:
    """Weights ``[P, U, 8]``, ``[P, U, U]`` and ``[P, 3, U]``, flat, zero where nothing is; the layer of each unit."""
    place, layer, sizes = _wiring(network, weights.device)
    dense = weights.new_zeros(len(weights), sum(sizes))
    dense[:, place] = torch.where(mask, weights, torch.zeros((), dtype=weights.dtype, device=weights.device))
    return [part.contiguous() for part in dense.split(sizes, 1)], layer


def rollout(
    weights: Tensor, mask: Tensor, walls: Tensor, places: Tensor, state: list[Tensor], network: Network, steps: int,
    forget: bool, keep: bool,
) -> tuple[Tensor, ...]:  # fmt: skip
    """See `reference.rollout`."""
    exact, agents, (mazes, height, width) = weights.dtype == torch.int8, len(weights), walls.shape
    goals, *kept = allocate(weights, walls, network, keep)
    matrices, layer = _dense(weights, mask, network)
    knots = torch.tensor(fixed.KNOTS, dtype=torch.int32, device=walls.device)
    least = 32 if exact else 16  # of the inner sizes of a product
    layers, units = len(network.hidden), _power(network.width, least, MOST_UNITS)
    config = tuned.choice("maze_rollout_triton", weights, units)
    most = config["mazes"] // (1 if layers == 1 or exact else 2)  # with more layers, more is kept at a time
    block = _power(mazes, 16, most)
    around = (walls | walls << 4).contiguous()
    none = [None] * 4
    before, after = State(*(state or none)), State(*(kept if keep else none))
    with on_device(weights):
        rollout_kernel[(agents, -(-mazes // block))](
            inputs_ptr=matrices[0], hidden_ptr=matrices[1], outputs_ptr=matrices[2], layer_ptr=layer, knots=knots,
            goals_ptr=goals, mazes=Mazes(around, places.contiguous(), mazes, height * width, width), before=before,
            after=after, units=network.width, steps=steps, FORGET=forget, ACTIVATION=network.activation, EXACT=exact,
            LAYERS=layers, UNITS=units, INPUTS=least, OUTPUTS=16, MAZES=block,
            num_warps=config["warps"], enable_fp_fusion=True,  # Triton's own default depends on its version
        )  # fmt: skip
    return goals, *kept


def offspring(
    weights: Tensor, mask: Tensor, parents: Tensor, generation: int, seed: int, mutation: float, severance: float,
    limit: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """See `reference.offspring`."""
    agents, edges = weights.shape
    fresh, exists = torch.empty_like(weights), torch.empty_like(mask)
    with on_device(weights):
        offspring_kernel[(agents, -(-edges // _EDGES))](
            weights_ptr=weights.contiguous(), mask_ptr=mask.contiguous().view(torch.int8),
            family_ptr=lineage(parents, agents, generation, seed), new_weights_ptr=fresh,
            new_mask_ptr=exists.view(torch.int8), edges=edges, kept=len(parents), generation=generation, seed=seed,
            severance=threshold(severance), mutation=mutation, limit=limit, MUTATION=int(Stream.MUTATION),
            SEVERANCE=int(Stream.SEVERANCE), EDGES=_EDGES, num_warps=4,
            enable_fp_fusion=False,  # a child is the same bits everywhere
        )  # fmt: skip
    return fresh, exists
