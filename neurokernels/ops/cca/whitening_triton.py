"""Whitening on a GPU: covariance and centring by Triton, what is dense and small by torch.linalg and its products.

torch.linalg.eigh makes the host wait for the device, so that zca and pca are not for CUDA graphs; cholesky is.
"""

from torch import Tensor

from neurokernels._core import eigh_reference
from neurokernels._core.covariance import compute_dtype
from neurokernels._core.covariance_triton import centred, covariance_forward
from neurokernels.ops.cca import whitening_reference
from neurokernels.ops.cca.whitening_reference import Parts, run, triangular

whiten_backward = whitening_reference.whiten_backward
whiten_tangent = whitening_reference.whiten_tangent


def _moments(x: Tensor, covariance: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    xc, mean, _ = centred(x, compute_dtype(x))
    return xc, mean, covariance_forward(x, 1)[0] if covariance else None


PARTS = Parts(_moments, eigh_reference.eigh, triangular)


def whiten(x: Tensor, method: str, eps: float, factors: bool, statistics: bool) -> tuple[Tensor, ...]:
    """The leaf op ``whiten_fwd``."""
    return run(x, method, eps, factors, statistics, PARTS)
