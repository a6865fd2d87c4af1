"""Whitening on the compiled core; what is large goes to LAPACK and BLAS through torch."""

import torch
from torch import Tensor

from neurokernels._core import native
from neurokernels._core.covariance import compute_dtype
from neurokernels._core.covariance_cpu import centred, covariance_forward
from neurokernels._core.eigh_cpu import eigh
from neurokernels.ops.cca import whitening_reference
from neurokernels.ops.cca.whitening_reference import Parts, run

whiten_backward = whitening_reference.whiten_backward  # three products of matrices
whiten_tangent = whitening_reference.whiten_tangent


def _moments(x: Tensor, covariance: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    xc, mean, _ = centred(x, compute_dtype(x))
    return xc, mean, covariance_forward(x, 1)[0] if covariance else None


def triangular(c: Tensor) -> Tensor:
    """L^-T of L L': one matrix per lane of the core (see `neurokernels.ops.cca.cpu_small`), large ones by LAPACK."""
    core, n = native.core(), c.shape[-1]
    if n > core.cca_limit:
        return whitening_reference.triangular(c)
    inverse = c.new_empty(c.shape)
    if c.numel():
        matrices = c.contiguous()
        core.cholesky(
            int(c.dtype == torch.float64), c.shape[:-2].numel(), n, matrices.data_ptr(), n * n, n, 1, 0.0,
            0, inverse.data_ptr(), native.threads(), -1,
        )  # fmt: skip
    return inverse.mT.contiguous()


PARTS = Parts(_moments, eigh, triangular)


def whiten(x: Tensor, method: str, eps: float, factors: bool, statistics: bool) -> tuple[Tensor, ...]:
    """The leaf op ``whiten_fwd``."""
    return run(x, method, eps, factors, statistics, PARTS)
