"""The leaf ops of whitening: forward, backward and tangent, which need neither the samples nor an eigenvalue gap."""

from typing import Any

import torch
from torch import Tensor

from neurokernels._core import backends, native, triton
from neurokernels._core.covariance import compute_dtype, full_precision
from neurokernels._core.library import leaf

METHODS = ("zca", "pca", "cholesky")

backends.register(
    "whiten",
    backends.Backend("cpu", ("cpu",), lambda x: native.reason(), "neurokernels.ops.cca.whitening_cpu"),
    backends.Backend("triton", (), triton.refuses, "neurokernels.ops.cca.whitening_triton"),
    backends.Backend("reference", (), lambda x: None, "neurokernels.ops.cca.whitening_reference"),
)


def is_dual(method: str, n: int, d: int) -> bool:
    """Whether there are N components, and N x N matrices. A triangular factor of one would whiten other features."""
    return method != "cholesky" and n <= d


def _kernel(name: str) -> Any:
    def run(x: Tensor, *arguments: Any) -> Any:
        *given, backend = arguments
        with full_precision(x):
            return getattr(backends.select("whiten", backend, x).kernels(), name)(x, *given)

    return run


def _fake(x: Tensor, method: str, eps: float, factors: bool, statistics: bool, backend: str) -> tuple[Tensor, ...]:
    (*batch, n, d), dtype = x.shape, compute_dtype(x)
    small = n if is_dual(method, n, d) else d
    shapes = {
        "zca": ((small, small), (small,), (small, small)),
        "pca": ((d, small), (small,), (0, 0)),
        "cholesky": ((d, d), (0,), (0, 0)),
    }[method]
    kept = shapes if factors else ((0, 0), (0,), (0, 0))
    rest = ((d,), (d, d) if statistics else (0, 0))
    return tuple(x.new_empty((*batch, *shape), dtype=dtype) for shape in ((n, d), *kept, *rest))


def _dense(like: Tensor) -> Tensor:
    return torch.empty_like(like, memory_format=torch.contiguous_format)


#: Samples ``[..., N, D]`` to y ``[..., N, D]``; the transform, eigenvalues and vectors of the smaller matrix (each of
#: them empty unless asked for by ``factors``, or where the method has none); the mean ``[..., D]`` and the covariance
#: ``[..., D, D]`` (empty unless asked for by ``statistics``). Transforms multiply from the right, but for the dual one
#: of zca ``[..., N, N]``.
whiten_fwd = leaf(
    "whiten_fwd(Tensor x, str method, float eps, bool factors, bool statistics, str backend) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    _kernel("whiten"),
    _fake,
)

#: The gradient of x, in the dtype of y.
whiten_bwd = leaf(
    "whiten_bwd(Tensor g, Tensor y, Tensor t, Tensor values, Tensor vectors, str method, str backend) -> Tensor",
    _kernel("whiten_backward"),
    lambda g, y, *rest: _dense(y),
)

#: The tangent of y from that of x.
whiten_jvp = leaf(
    "whiten_jvp(Tensor dx, Tensor y, Tensor t, Tensor values, Tensor vectors, str method, str backend) -> Tensor",
    _kernel("whiten_tangent"),
    lambda dx, y, *rest: _dense(y),
)
