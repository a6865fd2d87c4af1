"""The leaf ops of canonical correlation: the DCCA objective and the correlations one by one, with their backwards."""

from typing import Any

from torch import Tensor

from neurokernels._core import backends, native, triton
from neurokernels._core.covariance import compute_dtype, full_precision
from neurokernels._core.library import leaf
from neurokernels.ops.cca import cuda_limits

OBJECTIVES = ("nuclear", "topk", "fro2")
PRECISIONS = ("high", "fast")

#: One table for the room: every backend serves the objective and the correlations alike.
backends.register(
    "dcca",
    backends.Backend("cpu", ("cpu",), lambda x: native.reason(), "neurokernels.ops.cca.cpu"),
    backends.Backend("cuda", (), cuda_limits.refuses, "neurokernels.ops.cca.cuda", cuda_limits.yields),
    backends.Backend("triton", (), triton.refuses, "neurokernels.ops.cca.triton"),
    backends.Backend("reference", (), lambda x: None, "neurokernels.ops.cca.reference"),
)


def is_dual(n: int, d1: int, d2: int) -> bool:
    """Whether N x N matrices take the place of covariances: where there are no more samples than units in one view."""
    return n <= max(d1, d2)


def _kernel(name: str, first: int) -> Any:
    """Runs a function of a backend that takes both views, side by side from argument ``first`` on."""

    def run(*arguments: Any) -> Any:
        *given, backend = arguments
        x, y = given[first : first + 2]
        wider = x if x.shape[-1] >= y.shape[-1] else y  # one row of the table takes some widths only
        with full_precision(x):
            return getattr(backends.select("dcca", backend, wider).kernels(), name)(*given)

    return run


def allocate_weights(x: Tensor, y: Tensor, factors: bool) -> Tensor:
    """The empty weights of the backward pass."""
    (*batch, n, d1), d2 = x.shape, y.shape[-1]
    if not factors:
        shape: tuple[int, ...] = (0,)
    elif is_dual(n, d1, d2):
        shape = (*batch, 2, n, n)
    else:
        shape = (*batch, d1 + d2, d1 + d2)
    return x.new_empty(shape, dtype=compute_dtype(x))


def _dcca_fake(x: Tensor, y: Tensor, r1: float, r2: float, objective: str, k: int, precision: str, factors: bool,
               backend: str) -> tuple[Tensor, ...]:  # fmt: skip
    batch, compute = x.shape[:-2], compute_dtype(x)
    return (
        x.new_empty(batch, dtype=compute),
        allocate_weights(x, y, factors),
        x.new_empty((*batch, x.shape[-1] + y.shape[-1]), dtype=compute),
    )


def _gradients_fake(g: Tensor, x: Tensor, y: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), y.new_empty(y.shape)


def _correlations_fake(x: Tensor, y: Tensor, r1: float, r2: float, factors: bool, backend: str) -> tuple[Tensor, ...]:
    (*batch, n, d1), d2 = x.shape, y.shape[-1]
    m = min(d1, d2)
    columns = ((*batch, n, m), (*batch, d1, m), (*batch, n, m), (*batch, d2, m)) if factors else ((0,),) * 4
    return tuple(x.new_empty(shape, dtype=compute_dtype(x)) for shape in ((*batch, m), *columns))


#: Samples of two views to the objective ``[...]``, the weights of the backward pass (``[0]`` unless asked for) and the
#: mean ``[..., D1 + D2]``. Primal weights ``[..., D1 + D2, D1 + D2]`` are symmetric and ``[dX dY] = [Xc Yc] weights``;
#: dual ones ``[..., 2, N, N]`` and ``dX = weights[0] Xc``, ``dY = weights[1] Yc``: `is_dual` says which. ``k`` is 0
#: unless the objective is topk.
dcca_fwd = leaf(
    "dcca_fwd(Tensor x, Tensor y, float r1, float r2, str objective, SymInt k, str precision, bool factors, "
    "str backend) -> (Tensor, Tensor, Tensor)",
    _kernel("dcca", 0),
    _dcca_fake,
)

#: The gradients of x and y from that of the objective, in the dtype of x and y.
dcca_bwd = leaf(
    "dcca_bwd(Tensor g, Tensor x, Tensor y, Tensor weights, Tensor mean, str backend) -> (Tensor, Tensor)",
    _kernel("dcca_backward", 1),
    _gradients_fake,
)

#: Samples of two views to their correlations ``[..., m]``, descending, m = min(D1, D2), and factors of the derivative
#: (``[0]`` unless asked for): ``ex[..., N, m]``, ``ax[..., D1, m]``, ``ey[..., N, m]``, ``by[..., D2, m]``. That of the
#: i-th correlation is the outer product of the i-th columns of ex and ax for x, of ey and by for y.
correlations_fwd = leaf(
    "correlations_fwd(Tensor x, Tensor y, float r1, float r2, bool factors, str backend) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    _kernel("correlations", 0),
    _correlations_fake,
)

#: The gradients of x and y from those of the correlations, in the dtype of the factors.
correlations_bwd = leaf(
    "correlations_bwd(Tensor g, Tensor ex, Tensor ax, Tensor ey, Tensor by, str backend) -> (Tensor, Tensor)",
    _kernel("correlations_backward", 1),
    lambda g, ex, ax, ey, by, backend: (
        ex.new_empty((*ex.shape[:-1], ax.shape[-2])),
        ey.new_empty((*ey.shape[:-1], by.shape[-2])),
    ),
)
