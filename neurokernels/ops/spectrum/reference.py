"""The definition of the room's ops in plain PyTorch, on any device, in the dtype that they compute in."""

from collections.abc import Callable

from torch import Tensor

from neurokernels._core.covariance_reference import centred as centre
from neurokernels._core.eigh_reference import eigh
from neurokernels.ops.spectrum import subspace

#: A symmetric matrix, and whether vectors are wanted, to values, ascending, and vectors in columns.
Solver = Callable[[Tensor, bool], tuple[Tensor, Tensor]]


def spectrum(x: Tensor, k: int, correction: float, factors: bool, solve: Solver = eigh) -> tuple[Tensor, ...]:
    """Top values of the covariance matrix, or of the Gram matrix where that is the smaller one."""
    n, d = x.shape[-2:]
    centred, mean = centre(x.contiguous())  # sums are added in the order of strides, which are nothing to a result
    scatter = (centred.mT @ centred if d <= n else centred @ centred.mT) / (n - correction)
    values, columns = solve(scatter, factors)
    left, right = paired(centred, columns, k) if factors else (x.new_empty(0), x.new_empty(0))
    trace = scatter.diagonal(dim1=-2, dim2=-1).sum(-1)
    return values[..., values.shape[-1] - k :].flip(-1), trace, left, right, mean


def paired(centred: Tensor, columns: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The factors of the top k: (Xc V, V), or (U, Xc' U) where the columns are those of the Gram matrix."""
    top = columns[..., columns.shape[-1] - k :].flip(-1)
    n, d = centred.shape[-2:]
    return (centred @ top, top) if d <= n else (top, centred.mT @ top)


def spectrum_backward(
    x: Tensor, g: Tensor, g_trace: Tensor, left: Tensor, right: Tensor, mean: Tensor, correction: float
) -> Tensor:
    """2 / (N - c) (left diag(g) right' + g_trace Xc), where Xc V diag(g) V' = U diag(g) U' Xc: no gap enters."""
    scale = 2 / (x.shape[-2] - correction)
    centred = x.to(left.dtype) - mean[..., None, :]
    dx = (left * (scale * g)[..., None, :]) @ right.mT + (scale * g_trace)[..., None, None] * centred
    return dx.to(x.dtype)


def spectrum_tangent(
    dx: Tensor, x: Tensor, left: Tensor, right: Tensor, mean: Tensor, correction: float
) -> tuple[Tensor, Tensor]:
    """The tangent of each value is 2 / (N - c) left' dX right, that of the trace 2 / (N - c) <Xc, dX>."""
    dx, centred = dx.to(left.dtype), x.to(left.dtype) - mean[..., None, :]
    scale = 2 / (x.shape[-2] - correction)
    return scale * (left * (dx @ right)).sum(-2), scale * (centred * dx).sum((-2, -1))


def warm(
    x: Tensor, basis: Tensor, notes: Tensor, k: int, correction: float, tolerance: float, steps: int
) -> tuple[Tensor, ...]:
    """The iteration is torch's own products on every backend; its small eigenproblem is the backend's."""
    return subspace.warm(x, basis, notes, k, correction, tolerance, steps, eigh)
