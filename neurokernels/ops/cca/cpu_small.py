"""Small views on the C++ core (csrc/cpu/cca_small.h): one call for a batch of any size, float64 from the covariance on.

The core also has Cholesky factors of many small matrices at once, for any room:

    core().cholesky(dtype, count, n, a, a_batch, a_row, a_column, ridge, factor, inverse, threads, level)

``a`` is the address of ``count`` symmetric matrices of order n <= ``core().cca_limit``, of which the lower triangles
are read, and the strides count elements; ``dtype`` is 0 for float32 and 1 for float64. ``ridge`` is added to the
diagonal (0 for none). ``factor`` and ``inverse`` are addresses of dense ``[count, n, n]``, or 0: L with
a + ridge I = L L', and its inverse, lower triangular, with zeros above. It computes in float64; a matrix that is not
positive definite or not finite becomes NaN, alone. ``level`` is -1 outside of tests.
"""

from torch import Tensor

from neurokernels._core import native
from neurokernels._core.covariance import compute_dtype
from neurokernels._core.covariance_cpu import DTYPES, pair
from neurokernels.ops.cca.leaves import OBJECTIVES, allocate_weights, is_dual

#: nk::cca::Objective.
_OBJECTIVES = {name: code for code, name in enumerate(OBJECTIVES)}

#: One item of more samples is for kernels that share its rows among threads.
_LONG = 1 << 15


#: Singular values take longer than a polar factor made of products (csrc/cpu/dcca.cpp) from here on, measured.
_FEW = 20


def takes(x: Tensor, y: Tensor) -> bool:
    """Whether `correlations` serves the views."""
    return max(x.shape[-1], y.shape[-1]) <= native.core().cca_limit and x.shape[-2] <= _LONG


def takes_gradient(x: Tensor, y: Tensor) -> bool:
    """Whether `dcca_backward` serves the views: it has no dual form."""
    return takes(x, y) and not is_dual(x.shape[-2], x.shape[-1], y.shape[-1])


def takes_objective(x: Tensor, y: Tensor, objective: str = "nuclear") -> bool:
    """Whether `dcca` serves the views, or is the faster one of those that do."""
    return takes_gradient(x, y) and (objective != "nuclear" or min(x.shape[-1], y.shape[-1]) <= _FEW)


def dcca(
    x: Tensor, y: Tensor, r1: float, r2: float, objective: str, k: int, precision: str, factors: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The leaf op ``dcca_fwd``; both precisions are float64 here."""
    weights = allocate_weights(x, y, factors)
    dtype, (*batch, _, d1) = weights.dtype, x.shape
    value = x.new_empty(batch, dtype=dtype)
    mean = x.new_empty((*batch, d1 + y.shape[-1]), dtype=dtype)
    *_held, views = pair(x, y)
    addresses = value.data_ptr(), weights.data_ptr() if factors else 0, mean.data_ptr()
    native.core().dcca_small(
        DTYPES[x.dtype], *views, r1, r2, _OBJECTIVES[objective], k, *addresses, native.threads(), -1
    )
    return value, weights, mean


def dcca_backward(g: Tensor, x: Tensor, y: Tensor, weights: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    """The leaf op ``dcca_bwd``. The mean is taken again, to more digits than ``mean`` has."""
    dx, dy = x.new_empty(x.shape), y.new_empty(y.shape)
    *_held, views = pair(x, y)
    g, weights = g.contiguous(), weights.contiguous()
    native.core().dcca_small_gradient(
        DTYPES[x.dtype], *views, g.data_ptr(), 1, weights.data_ptr(), dx.data_ptr(), dy.data_ptr(), native.threads(), -1
    )
    return dx, dy


def correlations(x: Tensor, y: Tensor, r1: float, r2: float, factors: bool) -> tuple[Tensor, ...]:
    """The leaf op ``correlations_fwd``."""
    (*batch, n, d1), d2 = x.shape, y.shape[-1]
    dtype, m = compute_dtype(x), min(d1, d2)
    shapes = ((*batch, n, m), (*batch, d1, m), (*batch, n, m), (*batch, d2, m)) if factors else ((0,),) * 4
    out = [x.new_empty(shape, dtype=dtype) for shape in ((*batch, m), *shapes)]
    *_held, views = pair(x, y)
    addresses = (t.data_ptr() if factors or not i else 0 for i, t in enumerate(out))
    native.core().correlations_small(DTYPES[x.dtype], *views, r1, r2, *addresses, native.threads(), -1)
    return tuple(out)
