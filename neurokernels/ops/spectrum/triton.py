"""The Triton backend of the room: eigenproblems that fit a program, and what surrounds them.

Functions have the names and arguments of `neurokernels.ops.spectrum.reference`.
"""

import torch
from torch import Tensor

from neurokernels._core import eigh_reference
from neurokernels._core.covariance_triton import centred, covariance_forward, rank_update
from neurokernels._core.triton import on_device
from neurokernels.ops.spectrum import reference, subspace
from neurokernels.ops.spectrum.leaves import SWEEPS, compute_dtype
from neurokernels.ops.spectrum.triton_jacobi import eigh_kernel
from neurokernels.ops.spectrum.triton_limits import fits

#: Up to so many vectors the gradient of a spectrum is bound by memory, and one pass is what counts.
FEW = 64

spectrum_tangent = reference.spectrum_tangent


def _warps(size: int, dtype: torch.dtype) -> int:
    """A lane holds up to 32 elements of each of its columns; half of them in float64, where several warps share."""
    return 1 if size <= 32 else 4 if size == 64 and dtype == torch.float32 else 16


def small_eigh(
    a: Tensor, vectors: bool = True, *, sweeps: int = SWEEPS, positive: bool = False
) -> tuple[Tensor, Tensor]:
    """Eigenvalues, ascending, and eigenvectors of symmetric matrices, by a bounded number of Jacobi sweeps.

    Args:
        a: ``[..., D, D]`` with D up to 128, or 64 in float64; the lower triangle is read.
        vectors: Whether the vectors are wanted; they cost next to nothing.
        sweeps: Most sweeps over all pairs of columns. A matrix that is nearly diagonal needs 3 or 4. Vectors are
            orthogonal, and each value that of its vector, as far as the sweeps went.
        positive: Promises that no eigenvalue is below zero but for rounding. Small eigenvalues of a graded matrix then
            keep more digits.

    Returns:
        Values ``[..., D]`` and vectors ``[..., D, D]`` in columns, ``[0]`` unless wanted; in the dtype that is
        computed in.
    """
    *batch, d, _ = a.shape
    dtype, count = compute_dtype(a), torch.Size(batch).numel()
    values = a.new_empty(a.shape[:-1], dtype=dtype)
    columns = a.new_empty(a.shape if vectors else (0,), dtype=dtype)
    if values.numel() == 0:
        return values, columns
    matrices, size = a.reshape(count, d, d), max(2, 1 << (d - 1).bit_length())
    with on_device(a):
        eigh_kernel[(-(-count // max(1, 32 // size)),)](
            a=matrices, values_ptr=values, vectors_ptr=columns if vectors else None, count=count, size=d,
            batch=matrices.stride(0), row=matrices.stride(1), column=matrices.stride(2), sweeps=sweeps,
            eps=torch.finfo(dtype).eps, POSITIVE=positive, SIZE=size, GROUPS=max(1, size // 32),
            num_warps=_warps(size, dtype), enable_fp_fusion=True,  # Triton's own default depends on its version
        )  # fmt: skip
    return values, columns


def eigh(a: Tensor, vectors: bool) -> tuple[Tensor, Tensor]:
    """Values and vectors of matrices that fit; see `triton_limits`."""
    return small_eigh(a, vectors)


def _decomposed(scatter: Tensor, vectors: bool) -> tuple[Tensor, Tensor]:
    """Of a positive matrix; by torch.linalg, which waits for the GPU, where it fits no program."""
    if fits(scatter.shape[-1], scatter.dtype):
        return small_eigh(scatter, vectors, positive=True)
    return eigh_reference.eigh(scatter, vectors)


def spectrum(x: Tensor, k: int, correction: float, factors: bool) -> tuple[Tensor, ...]:
    """Top values of the covariance or the Gram matrix."""
    n, d = x.shape[-2:]
    if d <= n:
        scatter, mean = covariance_forward(x, correction)
        rows = x.to(mean.dtype) - mean[..., None, :] if factors else x
    else:
        rows, mean, _ = centred(x, compute_dtype(x))
        scatter = (rows @ rows.mT) / (n - correction)
    values, columns = _decomposed(scatter, factors)
    left, right = reference.paired(rows, columns, k) if factors else (columns, columns.clone())
    return values[..., values.shape[-1] - k :].flip(-1), scatter.diagonal(dim1=-2, dim2=-1).sum(-1), left, right, mean


def spectrum_backward(
    x: Tensor, g: Tensor, g_trace: Tensor, left: Tensor, right: Tensor, mean: Tensor, correction: float
) -> Tensor:
    """2 / (N - c) (left diag(g) right' + g_trace Xc), in one pass over x."""
    if g.shape[-1] > FEW:
        return reference.spectrum_backward(x, g, g_trace, left, right, mean, correction)
    scale = 2 / (x.shape[-2] - correction)
    return rank_update(left, scale * g, right, x, mean, scale * g_trace)


def warm(
    x: Tensor, basis: Tensor, notes: Tensor, k: int, correction: float, tolerance: float, steps: int
) -> tuple[Tensor, ...]:
    """The iteration is torch's own products; its small eigenproblem is nearly diagonal and takes few sweeps."""
    return subspace.warm(x, basis, notes, k, correction, tolerance, steps, _decomposed)
