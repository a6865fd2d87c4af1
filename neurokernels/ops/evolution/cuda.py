"""The room on CUDA: launches of csrc/cuda/rollout.cu."""

import ctypes
from functools import cache
from itertools import pairwise

import torch
from torch import Tensor

from neurokernels._core import tuned
from neurokernels._core.cuda import launch, pointer
from neurokernels.ops.evolution import fixed
from neurokernels.ops.evolution.cuda_limits import MOST_DENSE, available, memory
from neurokernels.ops.evolution.leaves import allocate
from neurokernels.ops.evolution.network import ACTIVATIONS, INPUTS, Network
from neurokernels.ops.evolution.philox import threshold

_Pointer, _Int = ctypes.c_void_p, ctypes.c_int32
_WARPS = 4  # of a block at most


class Rollout(ctypes.Structure):
    """The struct of the rollout kernels, in csrc/cuda/rollout_walk.cuh."""

    _fields_ = (
        ("weights", _Pointer), ("mask", _Pointer), ("wiring", _Pointer), ("layer_ends", _Pointer), ("walls", _Pointer),
        ("places", _Pointer), ("before", _Pointer * 4), ("after", _Pointer * 4), ("goals", _Pointer), ("mazes", _Int),
        ("cells", _Int), ("width", _Int), ("units", _Int), ("layers", _Int), ("edges", _Int), ("steps", _Int),
        ("activation", _Int), ("forget", _Int), ("recurrent", _Int), ("columns", ctypes.c_uint32), ("sources", _Int),
        ("chunks", _Int), ("span", _Int), ("list_cost", _Int), ("walls_stride", _Int), ("warp_bytes", _Int),
        ("list_bytes", _Int), ("table", ctypes.c_uint32 * 32),
    )  # fmt: skip


class Brood(ctypes.Structure):
    """The struct of the offspring kernel."""

    _fields_ = (
        ("weights", _Pointer), ("mask", _Pointer), ("parents", _Pointer), ("new_weights", _Pointer),
        ("new_mask", _Pointer), ("agents", ctypes.c_int64), ("seed", ctypes.c_uint64), ("severance", ctypes.c_uint64),
        ("edges", _Int), ("kept", _Int), ("generation", ctypes.c_uint32), ("mutation", ctypes.c_float),
        ("limit", ctypes.c_float),
    )  # fmt: skip


@cache
def _table() -> ctypes.Array[ctypes.c_uint32]:
    """The segments of the integer tanh: what one begins with, rounding included, and in ten bits how it rises."""
    segments = (fixed.SEGMENT * (low + 32) << 10 | (high - low) for low, high in pairwise(fixed.KNOTS))
    return (ctypes.c_uint32 * 32)(*segments)


@cache
def _wiring(network: Network, device: torch.device) -> tuple[Tensor, Tensor]:
    """The row that each connection reads, with its target where it is the target's last; where layers end. int32."""
    target = network.ends()[1]
    last = torch.ones_like(target, dtype=torch.bool)
    last[:-1] = target[1:] != target[:-1]
    wiring = network.rows() + torch.where(last, target - len(network.inputs) + 1, 0) * 2**16
    return wiring.int().to(device), network.layer_ends().to(device)


@cache
def _columns(network: Network) -> int:
    """The column of each input in the row of a unit of the first layer, four bits each, 15 for none."""
    columns = (network.inputs.index(i) if i in network.inputs else 15 for i in range(len(INPUTS)))
    return sum(column << 4 * i for i, column in enumerate(columns))


def _tiles(network: Network) -> int:
    """Tiles of eight units for the kernels that multiply matrices; 0 for those that list connections."""
    # Zero times an infinite unit is NaN, and rectified units may become infinite.
    dense = len(network.hidden) == 1 and network.width <= MOST_DENSE and network.activation != "relu"
    return -(-network.width // 8) if dense else 0


def rollout(
    weights: Tensor, mask: Tensor, walls: Tensor, places: Tensor, state: list[Tensor], network: Network, steps: int,
    forget: bool, keep: bool,
) -> tuple[Tensor, ...]:  # fmt: skip
    """See `reference.rollout`."""
    exact, agents, (mazes, height, width) = weights.dtype == torch.int8, len(weights), walls.shape
    goals, *kept = allocate(weights, walls, network, keep)
    weights, mask, walls, places, *state = (t.contiguous() for t in (weights, mask, walls, places, *state))
    tiles, config = _tiles(network), tuned.choice("maze_rollout", weights, network.width)
    # Few warps are better spread: with half as many mazes each, a step takes less time.
    span = 16 if mazes <= 16 or (tiles and agents * -(-mazes // 32) < config["few"]) else 32
    cost = config["list_cost"] if tiles else 0
    most, lists = available(weights), not tiles or cost > 0
    need = memory(network.width, len(network.hidden), network.edges, height * width, span, lists, most)
    warps = min(_WARPS, -(-mazes // span), (most - need.lists) // max(need.warp, 1))
    chunks = -(-mazes // (span * warps))
    wiring, ends = _wiring(network, weights.device)
    arguments = Rollout(
        weights=pointer(weights), mask=pointer(mask), wiring=pointer(wiring), layer_ends=pointer(ends),
        walls=pointer(walls), places=pointer(places), before=tuple(map(pointer, state)),
        after=tuple(map(pointer, kept)), goals=pointer(goals), mazes=mazes, cells=height * width, width=width,
        units=network.width, layers=len(network.hidden), edges=network.edges, steps=steps, forget=forget,
        recurrent=network.recurrent, activation=ACTIVATIONS.index(network.activation),
        columns=_columns(network), sources=len(network.blocks[0].sources), chunks=chunks, span=span, list_cost=cost,
        walls_stride=need.walls, warp_bytes=need.warp, list_bytes=need.lists, table=_table(),
    )  # fmt: skip
    name = f"rollout_{'exact' if exact else 'float'}{f'_{8 * tiles}' if tiles else ''}"
    grid, block, shared = (agents * chunks, 1, 1), (32 * warps, 1, 1), need.lists + warps * need.warp
    launch("rollout", name, grid, block, arguments, weights, shared)
    return goals, *kept


def offspring(
    weights: Tensor, mask: Tensor, parents: Tensor, generation: int, seed: int, mutation: float, severance: float,
    limit: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """See `reference.offspring`."""
    weights, mask, parents = weights.contiguous(), mask.contiguous(), parents.to(weights.device).contiguous()
    fresh, exists, (agents, edges) = torch.empty_like(weights), torch.empty_like(mask), weights.shape
    arguments = Brood(
        pointer(weights), pointer(mask), pointer(parents), pointer(fresh), pointer(exists), agents, seed,
        threshold(severance), edges, len(parents), generation, mutation, limit,
    )  # fmt: skip
    blocks = -(-agents * -(-edges // 4) // 256)
    launch("rollout", "offspring", (blocks, 1, 1), (256, 1, 1), arguments, weights)
    return fresh, exists
