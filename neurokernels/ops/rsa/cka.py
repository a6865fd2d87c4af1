"""`cka`: the centred kernel alignment of two representations of the same images."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from neurokernels._core import backends, checks
from neurokernels._core.arrays import accepts_arrays
from neurokernels._core.autograd import eager, forward_mode, leading, transformed
from neurokernels.ops.rsa.loss import Along, Scaled, scaled
from neurokernels.ops.rsa.loss_leaves import cka_fwd


class _Cka(Function):
    """``(x, y, debiased, of_x, of_y, backend)`` to the similarity and those of its gradients that are wanted."""

    @staticmethod
    def forward(x: Any, y: Any, debiased: Any, of_x: Any, of_y: Any, backend: Any) -> Any:
        return cka_fwd(x, y, debiased, of_x, of_y, backend)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.wanted = inputs[3:5]
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs[:2], *output[1:])

    @staticmethod
    def backward(ctx: Any, g: Tensor | None, *_: Any) -> tuple[Any, ...]:
        if g is None:
            return (None,) * 6
        x, y, dx, dy = ctx.saved_tensors
        if torch.is_grad_enabled() and all(ctx.wanted):
            return *Scaled.apply(g, dx, dy, x, y), None, None, None, None
        of_x, of_y = (_one(g, *part) for part in zip((dx, dy), (x, y), ctx.wanted, strict=True))
        return of_x, of_y, None, None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], x: Tensor, y: Tensor, *rest: Any) -> Any:
        return _Cka.apply(*leading((x, y), in_dims[:2], info.batch_size), *rest), (0, 0, 0)


def _one(g: Tensor, gradient: Tensor, view: Tensor, wanted: bool) -> Tensor | None:
    if not wanted:
        return None
    return Scaled.apply(g, gradient, view)[0] if torch.is_grad_enabled() else scaled(g, gradient, view)


class _CkaEager(_Cka):
    """The same with forward-mode derivatives, which Dynamo does not trace."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        _Cka.setup_context(ctx, inputs, output)
        if forward_mode():
            ctx.save_for_forward(*inputs[:2], *output[1:])

    @staticmethod
    def jvp(ctx: Any, tx: Tensor | None, ty: Tensor | None, *_: Any) -> tuple[Any, ...]:
        x, y, dx, dy = ctx.saved_tensors
        tx, ty = (torch.zeros_like(v) if t is None else t for t, v in ((tx, x), (ty, y)))
        return Along.apply(tx, ty, dx, dy, x, y), None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], x: Tensor, y: Tensor, *rest: Any) -> Any:
        return _CkaEager.apply(*leading((x, y), in_dims[:2], info.batch_size), *rest), (0, 0, 0)


_run = eager(_CkaEager)


def _checked(x: Tensor, y: Tensor, debiased: bool) -> tuple[Tensor, Tensor]:
    """Both views in one dtype."""
    op = "cka"
    for name, view in (("x", x), ("y", y)):
        checks.floating(op, name, view)
        if view.ndim < 2:
            checks.value_error(op, name, "[..., N, D] with at least 2 dimensions", f"shape {tuple(view.shape)}")
        if view.shape[-1] < 1:
            checks.value_error(op, name, "of at least 1 unit", f"D = 0 in shape {tuple(view.shape)}")
    checks.same_device(op, "y", y, x.device)
    if x.shape[:-1] != y.shape[:-1]:
        what = "[..., N, D2] with the images of x, and its leading dimensions"
        checks.value_error(op, "y", what, f"shape {tuple(y.shape)} for x of shape {tuple(x.shape)}")
    least = 4 if debiased else 2
    if x.shape[-2] < least:
        checks.value_error(op, "x", f"of at least {least} images", f"N = {x.shape[-2]} in shape {tuple(x.shape)}")
    if x.dtype != y.dtype:
        wide = torch.promote_types(x.dtype, y.dtype)
        x, y = x.to(wide), y.to(wide)
    return x, y


@accepts_arrays
def cka(x: Tensor, y: Tensor, *, debiased: bool = False) -> Tensor:
    """Linear centred kernel alignment of two representations of the same images (Kornblith et al. 2019).

    ``HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L))`` for ``K = x x'`` and ``L = y y'``, differentiable in both. Where there
    are more images than units no N x N matrix is made.

    Args:
        x: Activations ``[..., N, D1]``; float32, float64, bfloat16 or float16 (half precision computes in float32).
            Leading dimensions are independent items.
        y: Activations or responses ``[..., N, D2]``. Views of different dtypes are promoted to one.
        debiased: HSIC is the unbiased estimate of Song et al. 2012, whose mean is 0 for independent x and y however few
            images there are; it takes 4 images, and may be negative.

    Returns:
        ``[...]`` in [0, 1], or at most 1 if debiased; float32, or float64 for float64 input. NaN where one of them does
        not vary.

    Raises:
        TypeError: A view is not floating point.
        ValueError: A shape is wrong.
        BackendError: The backend that was asked for cannot run this call.
    """
    x, y = _checked(x, y, debiased)
    debiased = bool(debiased)
    both = (debiased, True, True)
    if torch.compiler.is_compiling():
        if torch.is_grad_enabled():
            return _Cka.apply(x, y, *both, backends.INHERIT)[0]
        return cka_fwd(x, y, debiased, False, False, backends.INHERIT)[0]
    if transformed():
        return _CkaEager.apply(x, y, *both, backends.requested())[0]
    if forward_mode():
        return _run(x, y, *both, backends.requested())[0]
    if torch.is_grad_enabled() and (x.requires_grad or y.requires_grad):
        return _run(x, y, debiased, x.requires_grad, y.requires_grad, backends.requested())[0]
    return cka_fwd(x, y, debiased, False, False, backends.requested())[0]
