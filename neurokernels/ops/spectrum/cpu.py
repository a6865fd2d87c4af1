"""The room on the compiled core; what is large goes to LAPACK and BLAS through torch."""

import torch
from torch import Tensor

from neurokernels._core import native
from neurokernels._core.covariance import centred
from neurokernels._core.covariance_cpu import covariance_forward
from neurokernels._core.eigh_cpu import eigh
from neurokernels.ops.spectrum import reference
from neurokernels.ops.spectrum.leaves import compute_dtype

warm = reference.warm  # LAPACK is faster than a core of many lanes for its one matrix
spectrum_tangent = reference.spectrum_tangent


def spectrum(x: Tensor, k: int, correction: float, factors: bool) -> tuple[Tensor, ...]:
    """Top values of the covariance matrix, or of the Gram matrix where that is the smaller one."""
    n, d = x.shape[-2:]
    compute = compute_dtype(x)
    xc = x
    if d <= n:
        scatter, mean = covariance_forward(x, correction)
        if factors:
            xc = centred(x, compute)[0]
    else:
        xc, mean, _ = centred(x, compute)
        scatter = (xc @ xc.mT) / (n - correction)
    values, columns = eigh(scatter, factors)
    left, right = reference.paired(xc, columns, k) if factors else (mean.new_empty(0), mean.new_empty(0))
    trace = scatter.diagonal(dim1=-2, dim2=-1).sum(-1)
    return values[..., values.shape[-1] - k :].flip(-1), trace, left, right, mean


def spectrum_backward(
    x: Tensor, g: Tensor, g_trace: Tensor, left: Tensor, right: Tensor, mean: Tensor, correction: float
) -> Tensor:
    """The centring is written once; the product of the factors is added to it in place."""
    if x.ndim != 2 or x.dtype != left.dtype:
        return reference.spectrum_backward(x, g, g_trace, left, right, mean, correction)
    scale = 2 / (x.shape[0] - correction)
    dx = x.new_empty(x.shape)
    native.fresh(dx)
    torch.sub(x, mean, out=dx)
    return dx.addmm_(left * (scale * g), right.mT, beta=scale * float(g_trace))
