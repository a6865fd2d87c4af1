"""`compare_rdms`: eight comparators, of which the four that have a derivative are differentiable."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from neurokernels._core import backends, checks
from neurokernels._core.arrays import accepts_arrays
from neurokernels._core.autograd import eager, forward_mode, leading, transformed
from neurokernels._core.products import product
from neurokernels.ops.rsa.inference_leaves import (
    METHODS,
    SMOOTH,
    TAUS,
    conditions,
    rdm_concordance,
    rdm_features,
)
from neurokernels.ops.rsa.inference_reference import adjoint, linear
from neurokernels.ops.rsa.whitened import filled, whitened

NAN_POLICIES = ("propagate", "omit")

# Derivatives --------------------------------------------------------------------------------------------------------


class _Features(Function):
    """``(x, method, backend)`` to features of unit norm and their norms, differentiable as often as one likes."""

    @staticmethod
    def forward(x: Any, method: Any, backend: Any) -> Any:
        return rdm_features(x, method, backend)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        x, ctx.method, _ = inputs
        ctx.dtype, ctx.pairs = x.dtype, x.shape[-1]
        if ctx.method in SMOOTH:
            ctx.save_for_backward(*output)
        else:
            ctx.mark_non_differentiable(*output)

    @staticmethod
    def backward(ctx: Any, g: Tensor, g_norm: Tensor) -> tuple[Tensor, None, None]:
        u, norm = (t[..., None] if t.ndim < g.ndim else t for t in ctx.saved_tensors)
        along = (u * g).sum(-1, keepdim=True)
        return adjoint((g - u * along) / norm + u * g_norm[..., None], ctx.method, ctx.pairs).to(ctx.dtype), None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], x: Tensor, *rest: Any) -> Any:
        return _Features.apply(x.movedim(in_dims[0], 0), *rest), (0, 0)


class _FeaturesEager(_Features):
    """The same with forward-mode derivatives, which Dynamo does not trace."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        _Features.setup_context(ctx, inputs, output)
        if forward_mode() and ctx.method in SMOOTH:
            ctx.save_for_forward(*output)

    @staticmethod
    def jvp(ctx: Any, dx: Tensor, *_: Any) -> tuple[Tensor, Tensor] | tuple[None, None]:
        if ctx.method not in SMOOTH:
            return None, None
        u, norm = ctx.saved_tensors
        df = linear(dx.to(u.dtype), ctx.method)
        along = (u * df).sum(-1)
        return (df - u * along[..., None]) / norm[..., None], along

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], x: Tensor, *rest: Any) -> Any:
        return _FeaturesEager.apply(x.movedim(in_dims[0], 0), *rest), (0, 0)


class _Concordance(Function):
    """``(a, b, method, backend)`` to Kendall's tau, which has no derivative."""

    @staticmethod
    def forward(a: Any, b: Any, method: Any, backend: Any) -> Any:
        return rdm_concordance(a, b, method, backend)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.mark_non_differentiable(output)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], a: Tensor, b: Tensor, *rest: Any) -> Any:
        return _Concordance.apply(*leading((a, b), in_dims[:2], info.batch_size), *rest), 0


_run = eager(_FeaturesEager)

# The op -------------------------------------------------------------------------------------------------------------


def features(x: Tensor, method: str) -> Tensor:
    """Features of unit norm ``[..., R, F]``, whose inner products are the comparator."""
    if torch.compiler.is_compiling():
        return _Features.apply(x, method, backends.INHERIT)[0]
    if transformed():
        return _FeaturesEager.apply(x, method, backends.requested())[0]
    if forward_mode() or (x.requires_grad and torch.is_grad_enabled()):
        return _run(x, method, backends.requested())[0]
    return rdm_features(x, method, backends.requested())[0]


def check_rdms(op: str, name: str, x: Tensor) -> int:
    """Refuses what are not condensed RDMs; the number of their conditions."""
    checks.floating(op, name, x)
    if x.ndim < 2:
        what = f"[..., {name}, pairs] with at least 2 dimensions"
        checks.value_error(op, name, what, f"shape {tuple(x.shape)}; one RDM is {name}[None]")
    n = conditions(x.shape[-1])
    if n == 0:
        what = "condensed RDMs of N (N - 1) / 2 pairs of N >= 2 conditions"
        checks.value_error(op, name, what, f"{x.shape[-1]} pairs in shape {tuple(x.shape)}")
    return n


def check_two(op: str, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, int]:
    """Both sets of RDMs with the same leading dimensions and in one dtype, and the number of conditions."""
    n = check_rdms(op, "a", a)
    check_rdms(op, "b", b)
    if b.device != a.device:
        checks.value_error(op, "b", f"on {a.device} as a is", f"a tensor on {b.device}; move it with .to('{a.device}')")
    if a.shape[-1] != b.shape[-1]:
        what = f"of the {a.shape[-1]} pairs of a"
        checks.value_error(op, "b", what, f"{b.shape[-1]} pairs in shape {tuple(b.shape)}")
    if a.shape[:-2] != b.shape[:-2]:
        try:
            batch = torch.broadcast_shapes(a.shape[:-2], b.shape[:-2])
        except RuntimeError:
            what = f"of leading dimensions that broadcast with those of a, {tuple(a.shape)}"
            checks.value_error(op, "b", what, f"shape {tuple(b.shape)}")
        a, b = a.expand(*batch, *a.shape[-2:]), b.expand(*batch, *b.shape[-2:])
    if a.dtype != b.dtype:
        wide = torch.promote_types(a.dtype, b.dtype)
        a, b = a.to(wide), b.to(wide)
    return a, b, n


@accepts_arrays
def compare_rdms(
    a: Tensor, b: Tensor, *, method: str = "pearson", sigma_k: Tensor | None = None, nan_policy: str = "propagate"
) -> Tensor:
    """How similar every RDM of one set is to every RDM of another, by one of eight comparators.

    ``pearson``, ``cosine``, ``whitened_cosine`` and ``whitened_pearson`` are differentiable, as often as one likes. The
    others depend on ranks alone: a gradient would be zero wherever there is one, and what they return has none.

    Args:
        a: RDMs ``[..., A, pairs]``, condensed: pairs i < j row by row, as `rdm` and SciPy's ``squareform`` have them;
            float32, float64, bfloat16 or float16 (half precision computes in float32).
        b: RDMs ``[..., B, pairs]`` of the same conditions. Leading dimensions broadcast.
        method: In brackets the name that rsatoolbox has for it. ``"pearson"`` [corr]: the correlation; ``"cosine"``;
            ``"spearman"``: the correlation of mid-ranks; ``"rho_a"``: what Spearman's is expected to be if ties are
            broken at random; ``"kendall"``: tau-b; ``"tau_a"``: Kendall's tau without a correction for ties, which does
            not prefer models that predict some; ``"whitened_cosine"`` [cosine_cov] and ``"whitened_pearson"``
            [corr_cov]: with the inverse of the covariance that dissimilarities have because pairs share
            conditions (Diedrichsen et al. 2020), at the cost of a few passes over the pairs.
        sigma_k: For the whitened ones, the covariance of the conditions' estimates ``[N, N]``, or their variances
            ``[N]``; independent and alike if None.
        nan_policy: ``"propagate"``: an RDM with a NaN compares as NaN; ``"omit"``: pairs that are NaN in any RDM of a
            or of b are left out of all comparisons of that item, as rsatoolbox does. That looks at the data, and so
            cannot be compiled into one graph.

    Returns:
        ``[..., A, B]``, float32, or float64 if a or b is. NaN where an RDM has nothing to compare: no variance
        (pearson, spearman, kendall, whitened_pearson) or no length (cosine, whitened_cosine).

    Raises:
        TypeError: a or b is not floating point.
        ValueError: A shape or a value is wrong, or the last dimension is no number of pairs.
        BackendError: The backend that was asked for cannot run this call.
    """
    op = "compare_rdms"
    a, b, n = check_two(op, a, b)
    checks.choice(op, "method", method, METHODS)
    checks.choice(op, "nan_policy", nan_policy, NAN_POLICIES)
    if sigma_k is not None:
        sigma_k = _checked_sigma(op, sigma_k, n, a, method)
    if nan_policy == "omit":
        return _omitting(a, b, method, sigma_k)
    return similarities(a, b, method, sigma_k)


def similarities(a: Tensor, b: Tensor, method: str, sigma_k: Tensor | None = None) -> Tensor:
    """`compare_rdms` without its checks."""
    if method in TAUS:
        compiling = torch.compiler.is_compiling()
        return _Concordance.apply(a, b, method, backends.INHERIT if compiling else backends.requested())
    if sigma_k is not None:
        a, b, method = whitened(a, sigma_k, method), whitened(b, sigma_k, method), "cosine"
    return product(features(a, method), features(b, method).mT)


def _checked_sigma(op: str, sigma_k: Any, n: int, a: Tensor, method: str) -> Tensor:
    """The covariance of conditions ``[N, N]`` in the dtype of the RDMs."""
    checks.floating(op, "sigma_k", sigma_k)
    if not method.startswith("whitened"):
        checks.value_error(op, "sigma_k", "None unless the method is whitened", f"a tensor for method={method!r}")
    if sigma_k.shape not in ((n,), (n, n)):
        what = f"[N, N] or [N] with N = {n} conditions"
        checks.value_error(op, "sigma_k", what, f"shape {tuple(sigma_k.shape)}")
    checks.same_device(op, "sigma_k", sigma_k, a.device)
    sigma_k = sigma_k.to(torch.promote_types(a.dtype, torch.float32))
    return sigma_k if sigma_k.ndim == 2 else torch.diag(sigma_k)


def _omitting(a: Tensor, b: Tensor, method: str, sigma_k: Tensor | None) -> Tensor:
    """Item by item, since each has pairs of its own that nobody measured."""
    batch = a.shape[:-2]
    found = []
    for x, y in zip(a.reshape(-1, *a.shape[-2:]), b.reshape(-1, *b.shape[-2:]), strict=True):
        seen = ~(x.isnan().any(-2) | y.isnan().any(-2))
        if seen.all():
            found.append(similarities(x, y, method, sigma_k))
        elif method.startswith("whitened"):
            x, y = (filled(v, seen, sigma_k, method) for v in (x, y))
            found.append(similarities(x, y, "whitened_cosine", sigma_k))
        else:
            found.append(similarities(x[:, seen], y[:, seen], method))
    if not found:
        return similarities(a, b, method, sigma_k)
    return torch.stack(found).reshape(*batch, *found[0].shape)
