"""Which populations the CUDA kernels take, and how much shared memory a rollout needs. Imports nothing of CuPy."""

from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from neurokernels._core import cuda, tuned
from neurokernels.ops.evolution.network import COMMANDS, INPUTS

#: Hidden units of one layer that are multiplied as matrices.
MOST_DENSE = 32

#: Walls lie in shared memory up to so many bytes for a warp's mazes.
_MOST_WALLS = 20 << 10

#: Shared memory of a block on a compute capability of 9.0; what a GPU reserves of it is none of the kernel's.
_SHARED = 227 << 10


class Memory(NamedTuple):
    """Bytes of shared memory: of a block's lists, of each warp, of a maze's walls (0 if they stay where they are)."""

    lists: int
    warp: int
    walls: int


def memory(units: int, layers: int, edges: int, cells: int, span: int, lists: bool, most: int) -> Memory:
    """What a block needs; the layout of csrc/cuda/rollout_list.cuh.

    Args:
        units: Hidden units of all layers.
        layers: Hidden layers.
        edges: Connections there can be.
        cells: Cells of a maze.
        span: Mazes of a warp.
        lists: Whether the kernel may list connections.
        most: Bytes that a block can have.
    """
    rows = 32 * 4 * (len(INPUTS) + 2 * units) if lists else 0
    records = 16 * units + 8 * edges + 4 * (2 * units + len(COMMANDS) + layers + 4) if lists else 0
    records = -(-records // 16) * 16
    stride = 4 * (-(-cells // 4) | 1)  # an odd number of banks: lanes at the same cell do not meet
    walls = 32 * stride  # of a warp with fewer mazes too: a multiple of 16
    if span * stride > _MOST_WALLS or records + rows + walls > most:
        stride = walls = 0
    return Memory(records, rows + walls, stride)


@cache
def _available(device: int) -> int:
    properties: Any = torch.cuda.get_device_properties(device)  # whose stub lacks this
    return int(properties.shared_memory_per_block_optin)


def available(x: Tensor) -> int:
    """Bytes of shared memory that a block on a tensor's device can have."""
    return _available(x.get_device()) if x.is_cuda else _SHARED


def refuses(x: Tensor) -> str | None:
    """Why CUDA cannot run a call on a `probe`, or on the weights of a population that fits; None if it can."""
    reason = cuda.refuses(x)
    if reason or x.ndim != 3:
        return reason
    _, edges, units = x.shape
    need, most = memory(units, units, edges, 0, 32, True, 0), available(x)
    if need.lists + need.warp > most:
        return (
            f"agents have {units} hidden units and up to {edges} connections, {need.lists + need.warp} bytes in shared "
            f"memory, and a block has {most}"
        )
    return None


def yields(x: Tensor) -> str | None:
    """Why ``auto`` passes over CUDA for a `probe`, by the committed table; or None."""
    if x.ndim != 3 or tuned.choice("maze_rollout", x, x.shape[-1])["backend"] == "cuda":
        return None
    return f"Triton is thought faster for {x.shape[-1]} hidden units"
