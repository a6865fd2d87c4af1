"""The CUDA backend of the room: eigenproblems that fit a block, and torch's products around them.

Functions have the names and arguments of `neurokernels.ops.spectrum.reference`. Nothing of it needs Triton.
"""

import ctypes

import torch
from torch import Tensor

from neurokernels._core import cuda, eigh_reference
from neurokernels.ops.spectrum import reference, subspace
from neurokernels.ops.spectrum.cuda_limits import fits
from neurokernels.ops.spectrum.leaves import SWEEPS, compute_dtype

#: Warps of a block of the kernels of csrc/cuda/eigh.cu, by the largest matrix that they take.
_PARTS = {8: 1, 16: 1, 32: 1, 64: 4, 128: 8}
_PARTS_OF_DOUBLES = _PARTS | {128: 16}

spectrum_backward, spectrum_tangent = reference.spectrum_backward, reference.spectrum_tangent


class _Eigh(ctypes.Structure):
    _fields_ = (
        ("a", ctypes.c_void_p), ("values", ctypes.c_void_p), ("vectors", ctypes.c_void_p), ("count", ctypes.c_int64),
        ("batch", ctypes.c_int64), ("row", ctypes.c_int64), ("column", ctypes.c_int64), ("size", ctypes.c_int),
        ("sweeps", ctypes.c_int), ("positive", ctypes.c_int), ("unused", ctypes.c_int),
    )  # fmt: skip


def small_eigh(
    a: Tensor, vectors: bool = True, *, sweeps: int = SWEEPS, positive: bool = False
) -> tuple[Tensor, Tensor]:
    """Eigenvalues, ascending, and eigenvectors of symmetric matrices, by a bounded number of Jacobi sweeps.

    Args:
        a: ``[..., D, D]`` with D up to 128; the lower triangle is read.
        vectors: Whether the vectors are wanted; they cost next to nothing.
        sweeps: Most sweeps over all pairs of columns.
        positive: Promises that no eigenvalue is below zero but for rounding. Small eigenvalues of a graded matrix then
            keep more digits.

    Returns:
        Values ``[..., D]`` and vectors ``[..., D, D]`` in columns, ``[0]`` unless wanted; in the dtype that is
        computed in.
    """
    a = a.to(compute_dtype(a))
    *batch, d, _ = a.shape
    count = torch.Size(batch).numel()
    values, columns = a.new_empty(a.shape[:-1]), a.new_empty(a.shape if vectors else (0,))
    if values.numel() == 0:
        return values, columns
    matrices = a.reshape(count, d, d)
    double, size = a.dtype == torch.float64, max(8, 1 << (d - 1).bit_length())
    parts = (_PARTS_OF_DOUBLES if double else _PARTS)[size]
    shared = (2 * parts * size + 2) * a.element_size() if parts > 1 else 0
    blocks = -(-count // max(1, 32 // size))
    arguments = _Eigh(
        cuda.pointer(matrices), cuda.pointer(values), cuda.pointer(columns), count, *matrices.stride(), d, sweeps,
        positive,
    )  # fmt: skip
    name = f"eigh_{'f64' if double else 'f32'}_{size}"
    cuda.launch("eigh", name, (blocks, 1, 1), (32 * parts, 1, 1), arguments, matrices, shared)
    return values, columns


def eigh(a: Tensor, vectors: bool) -> tuple[Tensor, Tensor]:
    """Values and vectors of matrices that fit; see `cuda_limits`."""
    return small_eigh(a, vectors)


def _decomposed(scatter: Tensor, vectors: bool) -> tuple[Tensor, Tensor]:
    """Of a positive matrix; by torch.linalg, which waits for the GPU, where it fits no block."""
    if fits(scatter.shape[-1]):
        return small_eigh(scatter, vectors, positive=True)
    return eigh_reference.eigh(scatter, vectors)


def spectrum(x: Tensor, k: int, correction: float, factors: bool) -> tuple[Tensor, ...]:
    """Top values of the covariance or the Gram matrix."""
    return reference.spectrum(x, k, correction, factors, _decomposed)


def warm(
    x: Tensor, basis: Tensor, notes: Tensor, k: int, correction: float, tolerance: float, steps: int
) -> tuple[Tensor, ...]:
    """The iteration is torch's own products; its small eigenproblem is nearly diagonal and takes few sweeps."""
    return subspace.warm(x, basis, notes, k, correction, tolerance, steps, _decomposed)
