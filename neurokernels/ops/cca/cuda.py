"""The CUDA backend of the room: functions with the names and arguments of `neurokernels.ops.cca.reference`.

Up to `SMALL` units in each view, and with more samples than units, every objective is one launch, and its gradient is
another one: csrc/cuda/cca.cu. Nothing of this waits for the GPU, so that CUDA graphs can
hold it. All else is the reference on the GPU; ``auto`` leaves wide views to Triton.
"""

import ctypes
from functools import cache

from torch import Tensor

from neurokernels._core.covariance import compute_dtype
from neurokernels._core.covariance_cpu import DTYPES
from neurokernels._core.cuda import launch, pointer
from neurokernels.ops.cca import reference
from neurokernels.ops.cca.cuda_limits import SMALL
from neurokernels.ops.cca.leaves import OBJECTIVES, allocate_weights, is_dual
from neurokernels.ops.cca.triton_schedule import POLAR_EXPRESS

correlations = reference.correlations
correlations_backward = reference.correlations_backward

_Pointer, _Int, _Long, _Double = ctypes.c_void_p, ctypes.c_int32, ctypes.c_int64, ctypes.c_double
_Steps = (_Double * 3) * len(POLAR_EXPRESS)

# Of csrc/cuda/cca.cu: threads of a block, matrices in shared memory, and those that lie below the samples; the doubles
# of a list of columns, and of the sums of warps.
_THREADS, _MATRICES, _BELOW, _LIST, _SUMS = 256, 10, 5, 64, 8
_SLAB = _THREADS // 32 * 8


class View(ctypes.Structure):
    """Samples ``[items, N, D]``; strides in elements."""

    _fields_ = (("data", _Pointer), ("item", _Long), ("row", _Long), ("column", _Long))


class Forward(ctypes.Structure):
    """The struct of the forward kernels."""

    _fields_ = (
        ("x", View), ("y", View), ("value", _Pointer), ("weights", _Pointer), ("mean", _Pointer), ("r1", _Double),
        ("r2", _Double), ("steps", _Steps), ("n", _Int), ("d1", _Int), ("d2", _Int), ("tiles", _Int),
        ("rows", _Int), ("objective", _Int), ("k", _Int), ("dtype", _Int),
    )  # fmt: skip


class Backward(ctypes.Structure):
    """The struct of the backward kernels."""

    _fields_ = (
        ("x", View), ("y", View), ("g", _Pointer), ("weights", _Pointer), ("dx", _Pointer), ("dy", _Pointer),
        ("n", _Int), ("d1", _Int), ("d2", _Int), ("blocks", _Int), ("dtype", _Int),
    )  # fmt: skip


@cache
def _steps() -> ctypes.Array[ctypes.Array[ctypes.c_double]]:
    return _Steps(*((_Double * 3)(*step) for step in POLAR_EXPRESS))


def _flat(x: Tensor) -> Tensor:
    return x if x.ndim == 3 else x.reshape(x.shape[:-2].numel(), *x.shape[-2:])


def _view(flat: Tensor) -> View:
    return View(pointer(flat), *flat.stride())


def _serves(x: Tensor, y: Tensor) -> bool:
    n, d1, d2 = x.shape[-2], x.shape[-1], y.shape[-1]
    return max(d1, d2) <= SMALL and not is_dual(n, d1, d2)


def _rows(tiles: int) -> int:
    """Samples in shared memory at a time: all of the paper's."""
    return 128 if tiles <= 2 else 64


@cache
def _forward_shared(tiles: int) -> int:
    """Bytes of shared memory of a forward block: samples lie over the last of the matrices."""
    matrix = 8 * tiles * (8 * tiles + 4)
    over = max((_MATRICES - _BELOW) * matrix, _rows(tiles) * (16 * tiles + 4))
    return 8 * (2 * _LIST + _SUMS + _BELOW * matrix + over)


@cache
def _backward_shared(joint: int) -> int:
    columns = -(-joint // 8) * 8
    return 8 * (_LIST + _THREADS + (columns + _SLAB) * (columns + 4))


def dcca(
    x: Tensor, y: Tensor, r1: float, r2: float, objective: str, k: int, precision: str, factors: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The leaf op ``dcca_fwd``; both precisions are float64 here."""
    if not _serves(x, y):
        return reference.dcca(x, y, r1, r2, objective, k, precision, factors)
    n, d1, d2, compute = x.shape[-2], x.shape[-1], y.shape[-1], compute_dtype(x)
    value, weights = x.new_empty(x.shape[:-2], dtype=compute), allocate_weights(x, y, factors)
    mean = x.new_empty((*x.shape[:-2], d1 + d2), dtype=compute)
    tiles, xs, ys = -(-max(d1, d2) // 8), _flat(x), _flat(y)
    arguments = Forward(
        _view(xs), _view(ys), pointer(value), pointer(weights), pointer(mean), r1, r2, _steps(), n, d1, d2, tiles,
        _rows(tiles), OBJECTIVES.index(objective), k, DTYPES[x.dtype],
    )  # fmt: skip
    launch("cca", "dcca_forward", (len(xs), 1, 1), (_THREADS, 1, 1), arguments, x, _forward_shared(tiles))
    return value, weights, mean


def dcca_backward(g: Tensor, x: Tensor, y: Tensor, weights: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    """The leaf op ``dcca_bwd``. The mean is taken again, to more digits than ``mean`` has."""
    if not _serves(x, y):
        return reference.dcca_backward(g, x, y, weights, mean)
    n, d1, d2 = x.shape[-2], x.shape[-1], y.shape[-1]
    dx, dy = x.new_empty(x.shape), y.new_empty(y.shape)
    xs, ys, g, weights = _flat(x), _flat(y), g.to(mean.dtype).contiguous(), weights.contiguous()
    blocks = -(-n // _SLAB)
    arguments = Backward(
        _view(xs), _view(ys), pointer(g), pointer(weights), pointer(dx), pointer(dy), n, d1, d2, blocks,
        DTYPES[x.dtype],
    )  # fmt: skip
    grid = (len(xs) * blocks, 1, 1)
    launch("cca", "dcca_backward", grid, (_THREADS, 1, 1), arguments, x, _backward_shared(d1 + d2))
    return dx, dy
