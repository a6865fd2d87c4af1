"""`whiten`: samples without correlation and of unit variance, in three rotations, with an exact derivative."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from neurokernels._core import backends, checks
from neurokernels._core.arrays import accepts_arrays
from neurokernels._core.autograd import FirstOrderOnly, eager, forward_mode, leading, transformed
from neurokernels.ops.cca.whitening_leaves import METHODS, whiten_bwd, whiten_fwd, whiten_jvp

_REFUSAL = (
    "whiten: second-order derivatives are not supported: they have gaps between eigenvalues; for what is well apart, "
    "neurokernels.eigh of neurokernels.covariance has them"
)


class _Whiten(Function):
    """``(x, method, eps, statistics, backend)`` to y, its factors, mean and covariance."""

    @staticmethod
    def forward(x: Any, method: Any, eps: Any, statistics: Any, backend: Any) -> Any:
        return whiten_fwd(x, method, eps, True, statistics, backend)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        x, ctx.method, *_, ctx.backend = inputs
        ctx.dtype = x.dtype
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*output[:4])  # y and not x: the one that the user keeps as well

    @staticmethod
    def backward(ctx: Any, g: Tensor | None, *_: Any) -> tuple[Any, ...]:
        if g is None:
            return (None,) * 5
        apply = _Backward.apply if torch.is_grad_enabled() else whiten_bwd
        return apply(g, *ctx.saved_tensors, ctx.method, ctx.backend).to(ctx.dtype), None, None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], x: Tensor, *rest: Any) -> Any:
        return _Whiten.apply(x.movedim(in_dims[0], 0), *rest), (0,) * 6


class _WhitenEager(_Whiten):
    """The same with forward-mode derivatives, which Dynamo does not trace."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        _Whiten.setup_context(ctx, inputs, output)
        if forward_mode():
            ctx.save_for_forward(*output[:4])

    @staticmethod
    def jvp(ctx: Any, dx: Tensor, *_: Any) -> tuple[Any, ...]:
        return _Tangent.apply(dx, *ctx.saved_tensors, ctx.method, ctx.backend), *(None,) * 5

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], x: Tensor, *rest: Any) -> Any:
        return _WhitenEager.apply(x.movedim(in_dims[0], 0), *rest), (0,) * 6


class _Backward(FirstOrderOnly):
    refusal = _REFUSAL

    @staticmethod
    def forward(*inputs: Any) -> Any:
        return whiten_bwd(*inputs)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> Any:
        return _Backward.apply(*leading(inputs[:5], in_dims[:5], info.batch_size), *inputs[5:]), 0


class _Tangent(FirstOrderOnly):
    refusal = _REFUSAL

    @staticmethod
    def forward(*inputs: Any) -> Any:
        return whiten_jvp(*inputs)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> Any:
        return _Tangent.apply(*leading(inputs[:5], in_dims[:5], info.batch_size), *inputs[5:]), 0


_run = eager(_WhitenEager)


def check_options(op: str, method: Any, eps: Any) -> float:
    """What can be said without samples."""
    checks.choice(op, "method", method, METHODS)
    eps = checks.number(op, "eps", eps)
    if not 0 < eps < math.inf:
        checks.value_error(op, "eps", "finite and > 0: without it units without variance cannot be divided by it", eps)
    return eps


def whitened(x: Tensor, method: str, eps: float, statistics: bool) -> tuple[Tensor, Tensor, Tensor]:
    """`whiten` without its checks, the mean, and the covariance if it is asked for (both without derivatives)."""
    if torch.compiler.is_compiling():
        if torch.is_grad_enabled():  # nothing else says there whether a gradient will be asked for
            out = _Whiten.apply(x, method, eps, statistics, backends.INHERIT)
        else:
            out = whiten_fwd(x, method, eps, False, statistics, backends.INHERIT)
    elif transformed():
        out = _WhitenEager.apply(x, method, eps, statistics, backends.requested())
    elif forward_mode() or (x.requires_grad and torch.is_grad_enabled()):
        out = _run(x, method, eps, statistics, backends.requested())
    else:
        out = whiten_fwd(x, method, eps, False, statistics, backends.requested())
    return out[0], out[4], out[5]


@accepts_arrays
def whiten(x: Tensor, *, method: str = "zca", eps: float = 1e-5) -> Tensor:
    """Samples whose covariance is the identity: ``(x - mean) T`` with ``T' (C + eps I) T = I``, C divided by N - 1.

    Where there are no more samples than features, zca decomposes the Gram matrix ``[N, N]`` instead. Gradients
    are finite and right at repeated eigenvalues, for units without variance and for already white samples; those of pca
    need distinct eigenvalues as far as a loss tells components apart.

    Args:
        x: Samples ``[..., N, D]``; float32, float64, bfloat16 or float16 (half precision computes in float32). Leading
            dimensions are independent items.
        method: ``"zca"``: T is the symmetric inverse root, and y as close to x as it can be; ``"pca"``: components in
            the order of descending variance, each with the sign that makes the largest element of its eigenvector
            positive; ``"cholesky"``: T is the transposed inverse of the Cholesky factor, so that feature i depends on
            the features up to i alone, and nothing is decomposed: the cheapest one.
        eps: Added to the variances, > 0; in units of variance. A direction without variance stays without.

    Returns:
        ``[..., N, D]``, float32, or float64 for float64 input. Of pca, components beyond the rank of x are 0. An item
        with a NaN or an infinity is NaN, alone.

    Raises:
        TypeError: x is not floating point, or an argument has the wrong type.
        ValueError: A shape or a value is wrong, or there are fewer than 2 samples.
        BackendError: The backend that was asked for cannot run this call.
    """
    op = "whiten"
    checks.floating(op, "x", x)
    if x.ndim < 2:
        checks.value_error(op, "x", "[..., N, D] with at least 2 dimensions", f"shape {tuple(x.shape)}")
    if x.shape[-2] < 2:
        got = f"N = {x.shape[-2]} in shape {tuple(x.shape)}"
        checks.value_error(op, "x", "of at least 2 samples: one has no variance", got)
    return whitened(x, method, check_options(op, method, eps), False)[0]
