"""The room on the compiled core; what needs singular values goes to LAPACK through torch, in float64.

Small views are `cpu_small`. Wide ones take csrc/cpu/dcca.cpp: joint covariance, inverse Cholesky factors, and the polar
factor by products alone. It says where its digits do not suffice. Such items are done again, float32 ones in float64
first, and then by singular values.
"""

import torch
from torch import Tensor

from neurokernels._core import native
from neurokernels._core.covariance import compute_dtype
from neurokernels._core.covariance_cpu import DTYPES, centred, centred_pair, pair
from neurokernels.ops.cca import cpu_small, reference
from neurokernels.ops.cca.leaves import PRECISIONS, allocate_weights, is_dual

correlations_backward = reference.correlations_backward

#: nk::dcca::Objective.
_OBJECTIVES = {"nuclear": 0, "fro2": 1}


def dcca(
    x: Tensor, y: Tensor, r1: float, r2: float, objective: str, k: int, precision: str, factors: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The leaf op ``dcca_fwd``."""
    if cpu_small.takes_objective(x, y, objective):
        return cpu_small.dcca(x, y, r1, r2, objective, k, precision, factors)
    if objective not in _OBJECTIVES or is_dual(x.shape[-2], x.shape[-1], y.shape[-1]) or x.shape[:-2].numel() == 0:
        return reference.dcca(x, y, r1, r2, objective, k, precision, factors)
    value, weights, mean, failed = _wide(x, y, r1, r2, objective, precision, factors)
    if failed.any():
        _again(x, y, r1, r2, objective, failed, (value, weights, mean) if factors else (value, mean))
    return value, weights, mean


def correlations(x: Tensor, y: Tensor, r1: float, r2: float, factors: bool) -> tuple[Tensor, ...]:
    """The leaf op ``correlations_fwd``."""
    return (cpu_small if cpu_small.takes(x, y) else reference).correlations(x, y, r1, r2, factors)


def _wide(
    x: Tensor, y: Tensor, r1: float, r2: float, objective: str, precision: str, factors: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Value, weights and mean, and which items they are nothing for."""
    batch, d, compute = x.shape[:-2], x.shape[-1] + y.shape[-1], compute_dtype(x)
    value, failed = x.new_empty(batch, dtype=compute), x.new_empty(batch, dtype=torch.uint8)
    mean, weights = x.new_empty((*batch, d), dtype=compute), allocate_weights(x, y, factors)
    native.fresh(weights)
    *_held, given = pair(x, y)
    native.core().dcca(
        DTYPES[x.dtype], *given, r1, r2, _OBJECTIVES[objective], PRECISIONS.index(precision), value.data_ptr(),
        weights.data_ptr() if factors else 0, mean.data_ptr(), failed.data_ptr(), native.threads(),
    )  # fmt: skip
    return value, weights, mean, failed


def _again(
    x: Tensor, y: Tensor, r1: float, r2: float, objective: str, failed: Tensor, outputs: tuple[Tensor, ...]
) -> None:
    """Does items again with more digits, in place."""
    factors, chosen = len(outputs) == 3, failed.bool()
    x, y = x[chosen], y[chosen]
    if x.dtype == torch.float64:
        found = reference.dcca(x, y, r1, r2, objective, 0, "high", factors)
    else:
        found = dcca(x.double(), y.double(), r1, r2, objective, 0, "high", factors)
    for out, new in zip(outputs, found if factors else found[::2], strict=True):
        out[chosen] = new.to(out.dtype)


def dcca_backward(g: Tensor, x: Tensor, y: Tensor, weights: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    """The leaf op ``dcca_bwd``. The mean is taken again, to more digits than ``mean`` has."""
    if x.numel() == 0:
        return x.new_empty(x.shape), y.new_empty(y.shape)
    if cpu_small.takes_gradient(x, y):
        return cpu_small.dcca_backward(g, x, y, weights, mean)
    d1, d2 = x.shape[-1], y.shape[-1]
    if is_dual(x.shape[-2], d1, d2):
        factors = [(weights[..., i, :, :], centred(v, mean.dtype)[0]) for i, v in enumerate((x, y))]
    else:
        both = centred_pair(x, y)
        factors = [(both, weights[..., :d1]), (both, weights[..., d1:])]
    dx, dy = (_product(g, a, b, like) for (a, b), like in zip(factors, (x, y), strict=True))
    return dx, dy


def _product(g: Tensor, a: Tensor, b: Tensor, like: Tensor) -> Tensor:
    """``g a b``, dense and in the dtype of ``like``."""
    if a.ndim == 2 and like.dtype == a.dtype:
        out = like.new_empty(like.shape)
        native.fresh(out)
        return torch.addmm(out, a, b, beta=0, alpha=float(g), out=out)
    return ((a @ b).mul_(g[..., None, None])).to(like.dtype)
