"""The leaf ops of dissimilarity matrices: distances with their gradient, and patterns whitened by a precision."""

import torch
from torch import Tensor

from neurokernels._core import backends, checks, native, triton
from neurokernels._core.covariance import compute_dtype, full_precision
from neurokernels._core.library import leaf

#: In the order of nk::rdm::Metric (csrc/cpu/rdm.h). Mahalanobis is sqeuclidean of whitened patterns.
METRICS = ("correlation", "cosine", "euclidean", "sqeuclidean", "crossnobis", "poisson")

backends.register(
    "rdm",
    backends.Backend("cpu", ("cpu",), lambda x: native.reason(), "neurokernels.ops.rsa.cpu"),
    backends.Backend("triton", (), triton.refuses, "neurokernels.ops.rsa.triton"),
    backends.Backend("reference", (), lambda x: None, "neurokernels.ops.rsa.reference"),
)


def allocate(x: Tensor, metric: str, condensed: bool) -> Tensor:
    """The empty dissimilarities."""
    *batch, n, _ = x.shape
    if metric == "crossnobis":
        batch.pop()
    return x.new_empty((*batch, n * (n - 1) // 2) if condensed else (*batch, n, n), dtype=compute_dtype(x))


def _forward(x: Tensor, metric: str, condensed: bool, backend: str) -> Tensor:
    with full_precision(x):
        return backends.select("rdm", backend, x).kernels().rdm(x, metric, condensed)


def _backward(g: Tensor, x: Tensor, d: Tensor, metric: str, condensed: bool, backend: str) -> Tensor:
    with full_precision(x):
        return backends.select("rdm", backend, x).kernels().rdm_backward(g, x, d, metric, condensed)


#: Patterns ``[..., N, D]``, or ``[..., folds, N, D]`` for crossnobis, to dissimilarities ``[..., N(N-1)/2]`` or
#: ``[..., N, N]``.
rdm_fwd = leaf("rdm_fwd(Tensor x, str metric, bool condensed, str backend) -> Tensor", _forward,
               lambda x, metric, condensed, backend: allocate(x, metric, condensed))  # fmt: skip

#: The gradient of x from that of the dissimilarities ``d``, which are read for euclidean alone.
rdm_bwd = leaf(
    "rdm_bwd(Tensor g, Tensor x, Tensor d, str metric, bool condensed, str backend) -> Tensor",
    _backward,
    lambda g, x, *rest: x.new_empty(x.shape),
)

# Whitening ----------------------------------------------------------------------------------------------------------


def centred(x: Tensor) -> Tensor:
    """Patterns less the mean of what is finite: no difference of patterns changes, and digits of an offset are kept."""
    x = x.to(compute_dtype(x)).contiguous()  # sums are added in the order of strides, which are nothing to a result
    return x - torch.where(x.isfinite(), x, 0.0).mean(-2, keepdim=True)


def _whiten(x: Tensor, precision: Tensor) -> tuple[Tensor, Tensor]:
    with full_precision(x):
        p = precision.to(compute_dtype(x)).contiguous()
        factor, info = torch.linalg.cholesky_ex((p + p.mT) / 2)
        if info.any():
            what = "positive definite: add to its diagonal, or shrink the covariance that it inverts"
            checks.value_error("rdm", "precision", what, "a matrix that has no Cholesky factor")
        factor = factor.contiguous()
        return (centred(x) @ factor).contiguous(), factor


def _whiten_backward(g: Tensor, x: Tensor, factor: Tensor) -> tuple[Tensor, Tensor]:
    with full_precision(x):
        dx = x.new_empty(x.shape).copy_(g.contiguous() @ factor.mT)
        # Distances know z = x L through z z' alone, so that the gradient of L L' is half of x' (dL/dz) L^-1.
        inner = centred(x).mT @ g.contiguous()
        total = inner.sum_to_size(*(1,) * (inner.ndim - factor.ndim), *factor.shape[:-2], *inner.shape[-2:])
        dp = torch.linalg.solve_triangular(factor, total.reshape(factor.shape), upper=False, left=False)
        return dx, (dp + dp.mT).div_(4).contiguous()


#: Patterns and a precision ``[..., D, D]`` of as many dimensions, which broadcasts against them, to patterns times its
#: Cholesky factor, and that factor. The precision's symmetric part is meant.
whiten_fwd = leaf(
    "rdm_whiten_fwd(Tensor x, Tensor precision) -> (Tensor, Tensor)",
    _whiten,
    lambda x, p: (x.new_empty(x.shape, dtype=compute_dtype(x)), p.new_empty(p.shape, dtype=compute_dtype(x))),
)

#: The gradients of patterns and precision, of a function that turning all whitened patterns leaves as it is.
whiten_bwd = leaf(
    "rdm_whiten_bwd(Tensor g, Tensor x, Tensor factor) -> (Tensor, Tensor)",
    _whiten_backward,
    lambda g, x, factor: (x.new_empty(x.shape), factor.new_empty(factor.shape)),
)


def whiten_tangent(dx: Tensor | None, dp: Tensor | None, x: Tensor, factor: Tensor) -> Tensor:
    """A tangent of the whitened patterns that is the right one for their inner products."""
    with full_precision(x):
        out = factor.new_zeros(x.shape)
        if dx is not None:
            out = out + dx.to(factor.dtype) @ factor
        if dp is not None:
            dp = dp.to(factor.dtype)
            half = torch.linalg.solve_triangular(factor, (dp + dp.mT) / 4, upper=False)  # L^-1 dP / 2
            out = out + centred(x) @ half.mT
        return out
