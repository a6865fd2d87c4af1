"""`canonical_correlations` and `dcca_loss`: checks, and derivatives without an eigenvalue gap."""

import math
import warnings
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from neurokernels._core import backends, checks
from neurokernels._core.arrays import accepts_arrays
from neurokernels._core.autograd import FirstOrderOnly, eager, forward_mode, leading, transformed
from neurokernels._core.covariance import full_precision
from neurokernels.ops.cca.leaves import (
    OBJECTIVES,
    PRECISIONS,
    correlations_bwd,
    correlations_fwd,
    dcca_bwd,
    dcca_fwd,
    is_dual,
)

_REFUSAL = "dcca: second-order derivatives are not supported: they have the gaps between correlations in a denominator"

# The objective ------------------------------------------------------------------------------------------------------


class _Loss(Function):
    """``(x, y, r1, r2, objective, k, precision, backend)`` to minus the objective, weights and mean."""

    @staticmethod
    def forward(x: Any, y: Any, r1: Any, r2: Any, objective: Any, k: Any, precision: Any, backend: Any) -> Any:
        value, weights, mean = dcca_fwd(x, y, r1, r2, objective, k, precision, True, backend)
        return value.neg(), weights, mean

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        x, y, ctx.backend = inputs[0], inputs[1], inputs[-1]
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, y, *output[1:])

    @staticmethod
    def backward(ctx: Any, g: Tensor | None, *_: Any) -> tuple[Any, ...]:
        if g is None:
            return (None,) * 8
        apply = _LossBackward.apply if torch.is_grad_enabled() else dcca_bwd
        return *apply(g.neg(), *ctx.saved_tensors, ctx.backend), *(None,) * 6

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], x: Tensor, y: Tensor, *rest: Any) -> Any:
        return _Loss.apply(*leading((x, y), in_dims[:2], info.batch_size), *rest), (0, 0, 0)


class _LossEager(_Loss):
    """The same with forward-mode derivatives, which Dynamo does not trace."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        _Loss.setup_context(ctx, inputs, output)
        if forward_mode():
            ctx.save_for_forward(*inputs[:2], *output[1:])

    @staticmethod
    def jvp(ctx: Any, dx: Tensor | None, dy: Tensor | None, *_: Any) -> tuple[Any, ...]:
        x, y, *rest = ctx.saved_tensors
        dx, dy = (torch.zeros_like(v) if t is None else t for t, v in ((dx, x), (dy, y)))
        return _LossTangent.apply(dx, dy, x, y, *rest, ctx.backend).neg(), None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], x: Tensor, y: Tensor, *rest: Any) -> Any:
        return _LossEager.apply(*leading((x, y), in_dims[:2], info.batch_size), *rest), (0, 0, 0)


class _LossBackward(FirstOrderOnly):
    refusal = _REFUSAL

    @staticmethod
    def forward(*inputs: Any) -> Any:
        return dcca_bwd(*inputs)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> Any:
        return _LossBackward.apply(*leading(inputs[:5], in_dims[:5], info.batch_size), inputs[5]), (0, 0)


class _LossTangent(FirstOrderOnly):
    """The tangent of the objective: there is one number per item, so that its gradient is all there is to know."""

    refusal = _REFUSAL

    @staticmethod
    def forward(dx: Any, dy: Any, x: Any, y: Any, weights: Any, mean: Any, backend: Any) -> Any:
        gx, gy = dcca_bwd(mean.new_ones(x.shape[:-2]), x, y, weights, mean, backend)
        return (gx * dx).sum((-2, -1), dtype=mean.dtype) + (gy * dy).sum((-2, -1), dtype=mean.dtype)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> Any:
        return _LossTangent.apply(*leading(inputs[:6], in_dims[:6], info.batch_size), inputs[6]), 0


# The correlations ---------------------------------------------------------------------------------------------------


class _Correlations(Function):
    """``(x, y, r1, r2, backend)`` to the correlations and the four factors of their derivative."""

    @staticmethod
    def forward(x: Any, y: Any, r1: Any, r2: Any, backend: Any) -> Any:
        return correlations_fwd(x, y, r1, r2, True, backend)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.backend = inputs[-1]
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs[:2], *output[1:])

    @staticmethod
    def backward(ctx: Any, g: Tensor | None, *_: Any) -> tuple[Any, ...]:
        if g is None:
            return (None,) * 5
        apply: Any = _CorrelationsBackward.apply if torch.is_grad_enabled() else _correlations_gradient
        return *apply(*ctx.saved_tensors, g, ctx.backend), None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], x: Tensor, y: Tensor, *rest: Any) -> Any:
        return _Correlations.apply(*leading((x, y), in_dims[:2], info.batch_size), *rest), (0,) * 5


class _CorrelationsEager(_Correlations):
    """The same with forward-mode derivatives, which Dynamo does not trace."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        _Correlations.setup_context(ctx, inputs, output)
        if forward_mode():
            ctx.save_for_forward(*inputs[:2], *output[1:])

    @staticmethod
    def jvp(ctx: Any, dx: Tensor | None, dy: Tensor | None, *_: Any) -> tuple[Any, ...]:
        x, y, *factors = ctx.saved_tensors
        dx, dy = (torch.zeros_like(v) if t is None else t for t, v in ((dx, x), (dy, y)))
        return _CorrelationsTangent.apply(dx, dy, x, y, *factors), None, None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], x: Tensor, y: Tensor, *rest: Any) -> Any:
        return _CorrelationsEager.apply(*leading((x, y), in_dims[:2], info.batch_size), *rest), (0,) * 5


def _correlations_gradient(x: Any, y: Any, ex: Any, ax: Any, ey: Any, by: Any, g: Any, backend: Any) -> Any:
    dx, dy = correlations_bwd(g, ex, ax, ey, by, backend)
    return dx.to(x.dtype), dy.to(y.dtype)


class _CorrelationsBackward(FirstOrderOnly):
    """Takes both views so that whoever differentiates it is told: the factors hide that they depend on them."""

    refusal = _REFUSAL

    @staticmethod
    def forward(*inputs: Any) -> Any:
        return _correlations_gradient(*inputs)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> Any:
        return _CorrelationsBackward.apply(*leading(inputs[:7], in_dims[:7], info.batch_size), inputs[7]), (0, 0)


class _CorrelationsTangent(FirstOrderOnly):
    refusal = _REFUSAL

    @staticmethod
    def forward(dx: Any, dy: Any, x: Any, y: Any, ex: Any, ax: Any, ey: Any, by: Any) -> Any:
        with full_precision(x):
            return ((dx.to(ax.dtype) @ ax) * ex).sum(-2) + ((dy.to(by.dtype) @ by) * ey).sum(-2)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> Any:
        return _CorrelationsTangent.apply(*leading(inputs, in_dims, info.batch_size)), 0


_run, _run_correlations = eager(_LossEager), eager(_CorrelationsEager)

# The ops ------------------------------------------------------------------------------------------------------------

#: Up to this regulariser, for units of a variance about one, the correlation of more units than samples is saturated.
_TINY = 1e-5
_warned = False


def _warn_once(op: str, n: int, d: int, reg: float) -> None:
    """Says once per process that a correlation means nothing: from shapes and numbers alone, without a look at data."""
    global _warned
    if not _warned:
        _warned = True
        warnings.warn(
            f"{op}: with N = {n} samples of D = {d} units and reg = {reg:g} the sum of correlations is close to "
            f"N - 1 = {n - 1} whatever the data; more samples, fewer units or a larger reg make it mean something",
            stacklevel=5,
        )


def _regularisers(op: str, reg: Any) -> tuple[float, float]:
    pair = reg if isinstance(reg, tuple | list) else (reg, reg)
    if len(pair) != 2:
        checks.value_error(op, "reg", "a number, or a pair of them for x and y", f"{len(pair)} of them")
    for r in pair:
        if not 0 < checks.number(op, "reg", r) < math.inf:
            checks.value_error(
                op, "reg", "finite and > 0: without it the covariance of dead or dependent units has no inverse", r
            )
    return float(pair[0]), float(pair[1])


def _checked(op: str, x: Tensor, y: Tensor, reg: Any) -> tuple[Tensor, Tensor, float, float]:
    """Both views in one dtype, and the regularisers."""
    checks.floating(op, "x", x)
    checks.floating(op, "y", y)
    for name, view in (("x", x), ("y", y)):
        if view.ndim < 2:
            checks.value_error(op, name, "[..., N, D] with at least 2 dimensions", f"shape {tuple(view.shape)}")
    checks.same_device(op, "y", y, x.device)
    if x.shape[:-1] != y.shape[:-1]:
        what = "[..., N, D2] with the samples of x, and its leading dimensions"
        checks.value_error(op, "y", what, f"shape {tuple(y.shape)} for x of shape {tuple(x.shape)}")
    n, d1, d2 = *x.shape[-2:], y.shape[-1]
    if n < 2:
        checks.value_error(op, "x", "of at least 2 samples: one has no variance", f"N = {n} in shape {tuple(x.shape)}")
    for name, d, view in (("x", d1, x), ("y", d2, y)):
        if d < 1:
            checks.value_error(op, name, "of at least 1 unit", f"D = {d} in shape {tuple(view.shape)}")
    r1, r2 = _regularisers(op, reg)
    if not torch.compiler.is_compiling() and is_dual(n, d1, d2) and min(r1, r2) <= _TINY:
        _warn_once(op, n, max(d1, d2), min(r1, r2))
    if x.dtype != y.dtype:
        wide = torch.promote_types(x.dtype, y.dtype)
        x, y = x.to(wide), y.to(wide)
    return x, y, r1, r2


def _plain(x: Tensor, y: Tensor) -> bool:
    """Whether nobody asks for a derivative."""
    return not (forward_mode() or (torch.is_grad_enabled() and (x.requires_grad or y.requires_grad)))


@accepts_arrays
def dcca_loss(
    x: Tensor,
    y: Tensor,
    *,
    reg: Any = 1e-4,
    objective: str = "nuclear",
    k: int | None = None,
    precision: str = "high",
) -> Tensor:
    """Deep canonical correlation analysis: minus the correlation of two views of the same samples, to be minimised.

    The canonical correlations are the singular values of ``S11^-1/2 S12 S22^-1/2``, where ``S11`` and ``S22`` are the
    covariances with ``reg`` on their diagonals, divided by N - 1. The gradient is made of the polar factor of that
    matrix: no eigendecomposition, no eigenvalue gap, exactly 0 for dead units. Where there are no more samples than
    units, N x N matrices are used instead.

    Args:
        x: One view ``[..., N, D1]``; float32, float64, bfloat16 or float16 (half precision computes in float32).
            Leading dimensions are independent items.
        y: The other view ``[..., N, D2]``. Views of different dtypes are promoted to one.
        reg: What is added to the variances, > 0: a number, or a pair for x and y. It is absolute, in units of variance.
        objective: ``"nuclear"``: the sum of all correlations (Andrew et al. 2013); ``"topk"``: of the k largest;
            ``"fro2"``: the sum of their squares. Published implementations differ in which of these they compute.
        k: How many correlations ``"topk"`` counts, and only that.
        precision: ``"high"``: float32 throughout, gradients to about 1e-5 of the largest entry; ``"fast"``: fewer
            digits where that saves time, values to 1e-3, gradients to 1e-2. float64 input is always exact.

    Returns:
        ``[...]``, float32, or float64 for float64 input. An item with a NaN or an infinity is NaN, alone.

    Raises:
        TypeError: A view is not floating point, or an argument has the wrong type.
        ValueError: A shape or a value is wrong.
        BackendError: The backend that was asked for cannot run this call.
    """
    op = "dcca_loss"
    x, y, r1, r2 = _checked(op, x, y, reg)
    checks.choice(op, "objective", objective, OBJECTIVES)
    checks.choice(op, "precision", precision, PRECISIONS)
    if (k is not None) != (objective == "topk"):
        checks.value_error(op, "k", "given for objective='topk' and for that alone", f"k={k} for {objective!r}")
    most = min(x.shape[-1], y.shape[-1])
    k = 0 if k is None else checks.count(op, "k", k, 1)
    if k > most:
        checks.value_error(op, "k", f"at most min(D1, D2) = {most}", k)
    if torch.compiler.is_compiling():
        if torch.is_grad_enabled():  # nothing else says there whether a gradient will be asked for
            return _Loss.apply(x, y, r1, r2, objective, k, precision, backends.INHERIT)[0]
        return dcca_fwd(x, y, r1, r2, objective, k, precision, False, backends.INHERIT)[0].neg()
    if transformed():
        return _LossEager.apply(x, y, r1, r2, objective, k, precision, backends.requested())[0]
    if _plain(x, y):
        return dcca_fwd(x, y, r1, r2, objective, k, precision, False, backends.requested())[0].neg_()
    return _run(x, y, r1, r2, objective, k, precision, backends.requested())[0]


@accepts_arrays
def canonical_correlations(x: Tensor, y: Tensor, *, reg: Any = 1e-4) -> Tensor:
    """The canonical correlations of two views of the same samples, descending.

    Each one is differentiable where it differs from its neighbours; a sum of all of them, or of any that do not split
    a tie, is differentiable everywhere. A correlation of zero has gradient 0. For a sum, `dcca_loss` is cheaper.

    Args:
        x: One view ``[..., N, D1]``; float32, float64, bfloat16 or float16 (half precision computes in float32).
            Leading dimensions are independent items.
        y: The other view ``[..., N, D2]``. Views of different dtypes are promoted to one.
        reg: What is added to the variances, > 0: a number, or a pair for x and y. It is absolute, in units of variance.

    Returns:
        ``[..., min(D1, D2)]`` in [0, 1), float32, or float64 for float64 input. An item with a NaN or an infinity is
        NaN, alone.

    Raises:
        TypeError: A view is not floating point, or ``reg`` has the wrong type.
        ValueError: A shape or a value is wrong.
        BackendError: The backend that was asked for cannot run this call.
    """
    x, y, r1, r2 = _checked("canonical_correlations", x, y, reg)
    if torch.compiler.is_compiling():
        if torch.is_grad_enabled():
            return _Correlations.apply(x, y, r1, r2, backends.INHERIT)[0]
        return correlations_fwd(x, y, r1, r2, False, backends.INHERIT)[0]
    if transformed():
        return _CorrelationsEager.apply(x, y, r1, r2, backends.requested())[0]
    if _plain(x, y):
        return correlations_fwd(x, y, r1, r2, False, backends.requested())[0]
    return _run_correlations(x, y, r1, r2, backends.requested())[0]
