"""A product of matrices that stays in its dtype, and can be differentiated as often as one likes."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from neurokernels._core.autograd import leading
from neurokernels._core.covariance import full_precision


class _Product(Function):
    """``a @ b``; autocast around a backward pass would make bfloat16 products of a plain one's gradient."""

    @staticmethod
    def forward(a: Any, b: Any) -> Any:
        with full_precision(a):
            return a @ b

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, Tensor | None]:
        a, b = ctx.saved_tensors
        da = _Product.apply(g, b.mT) if ctx.needs_input_grad[0] else None
        return da, _Product.apply(a.mT, g) if ctx.needs_input_grad[1] else None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], a: Tensor, b: Tensor) -> Any:
        return _Product.apply(*leading((a, b), in_dims, info.batch_size)), 0


class _ProductEager(_Product):
    """The same with forward-mode derivatives, of its own derivatives too."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _Product.setup_context(ctx, inputs, output)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, Tensor | None]:
        a, b = ctx.saved_tensors
        da = _ProductEager.apply(g, b.mT) if ctx.needs_input_grad[0] else None
        return da, _ProductEager.apply(a.mT, g) if ctx.needs_input_grad[1] else None

    @staticmethod
    def jvp(ctx: Any, da: Tensor | None, db: Tensor | None) -> Tensor:
        a, b = ctx.saved_tensors
        terms = [] if da is None else [_ProductEager.apply(da, b)]
        terms += [] if db is None else [_ProductEager.apply(a, db)]
        return sum(terms[1:], terms[0])

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], a: Tensor, b: Tensor) -> Any:
        return _ProductEager.apply(*leading((a, b), in_dims, info.batch_size)), 0


def product(a: Tensor, b: Tensor) -> Tensor:
    """``a @ b`` of tensors with the same leading dimensions."""
    return (_Product if torch.compiler.is_compiling() else _ProductEager).apply(a, b)
