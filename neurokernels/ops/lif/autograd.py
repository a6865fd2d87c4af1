"""Derivatives of the LIF leaf ops.

Two classes for the forward op: Dynamo refuses a Function that defines ``jvp`` and eager forward mode needs one, so
`LIF` is what a compiler traces and `LIFEager` what everybody else runs. The backward is a Function of its own so that
vmap and func.grad work through it; its own derivative does not exist (a step function has no second one) and says so.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from neurokernels._core.autograd import FirstOrderOnly, forward_mode
from neurokernels.ops.lif.batching import after_time, first, padded
from neurokernels.ops.lif.leaves import lif_bwd, lif_fwd, lif_jvp
from neurokernels.ops.lif.rule import compute_dtype, kept

# The arguments of LIF.apply, by position.
_X, _PARAMETERS, _V0, _COUNTDOWN, _TABLE = 0, slice(1, 5), 5, 6, 7
_REFUSAL = (
    "lif: second-order derivatives do not exist: a surrogate stands for the derivative of a step, nothing stands for "
    "its second one; take first derivatives only, without create_graph or nested transforms"
)


class LIF(Function):
    """``(x, decay, threshold, gain, v_reset, v0, countdown, table, rule, backend)`` to the leaf's outputs."""

    @staticmethod
    def forward(
        x: Any, decay: Any, threshold: Any, gain: Any, v_reset: Any,
        v0: Any, countdown: Any, table: Any, rule: Any, backend: Any,
    ) -> Any:  # fmt: skip
        # Every argument by name: Dynamo counts them to see whether a context comes first.
        return lif_fwd(x, decay, threshold, gain, v_reset, v0, countdown, table, rule, backend)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        x, *parameters, v0, countdown, table, rule, backend = inputs
        _, _, left, residual, counts = output
        ctx.mark_non_differentiable(left, residual, counts)
        ctx.set_materialize_grads(False)  # or a gradient of zeros would be made for the residual as well
        ctx.rule, ctx.backend, ctx.shape, ctx.dtype = rule, backend, x.shape, x.dtype
        mode = kept(rule)
        ctx.learns = ctx.needs_input_grad[_PARAMETERS]
        if mode != "recompute" and not ctx.learns[2]:
            x = None  # only a replay from x, or the gradient of the gain, has to see the input again
        if mode == "bits":
            v0 = countdown = table = None
        if mode != "none":
            ctx.save_for_backward(x, residual, counts, *parameters, v0, countdown, table)

    @staticmethod
    def backward(ctx: Any, g: Tensor | None, g_membrane: Tensor | None, *_: Any) -> tuple[Any, ...]:
        needs = ctx.needs_input_grad
        if g is None:
            if g_membrane is None:
                return (None,) * 10
            g = g_membrane.new_zeros(ctx.shape, dtype=ctx.dtype)
        elif g_membrane is None:
            g_membrane = g.new_zeros(ctx.shape[1:], dtype=compute_dtype(g))
        wanted = [needs[_X], needs[_V0], *ctx.learns]
        saved = ctx.saved_tensors
        apply = LIFBackward.apply if torch.is_grad_enabled() else lif_bwd
        dx, dv0, *rest = apply(g, g_membrane, *saved, ctx.rule, wanted, ctx.backend)
        grads = [
            d.sum_to_size(p.shape) if want else None for d, p, want in zip(rest, saved[3:7], ctx.learns, strict=True)
        ]
        return dx if needs[_X] else None, *grads, dv0 if needs[_V0] else None, None, None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> Any:
        return _batched_forward(LIF, info.batch_size, in_dims, inputs)


class LIFEager(LIF):
    """The same with forward-mode derivatives."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        LIF.setup_context(ctx, inputs, output)
        if forward_mode():
            ctx.save_for_forward(*inputs[:8])

    @staticmethod
    def jvp(ctx: Any, dx: Any, *tangents: Any) -> tuple[Any, ...]:
        ddecay, dthreshold, dgain, dv_reset, dv0 = tangents[:5]
        x, *rest = ctx.saved_tensors
        tangents = (dx, dv0, ddecay, dthreshold, dgain, dv_reset)
        spikes, membrane = LIFTangent.apply(*tangents, x, *rest, ctx.rule, ctx.backend)
        return spikes, membrane, None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> Any:
        return _batched_forward(LIFEager, info.batch_size, in_dims, inputs)


class LIFBackward(FirstOrderOnly):
    """The backward leaf for transforms and ``create_graph``."""

    refusal = _REFUSAL

    @staticmethod
    def forward(*inputs: Any) -> Any:
        return lif_bwd(*inputs)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> Any:
        size = info.batch_size
        g, g_membrane, x, residual, counts, *rest = inputs
        neurons = g.ndim - 1 - (in_dims[0] is not None)
        g = after_time(g, in_dims[0], size)
        g_membrane = first(g_membrane, in_dims[1], size)
        x, residual, counts = (after_time(t, d, size) for t, d in zip((x, residual, counts), in_dims[2:5], strict=True))
        arguments = _batched_parameters(rest[:7], in_dims[5:12], size, neurons)
        outs = LIFBackward.apply(g, g_membrane, x, residual, counts, *arguments, *rest[7:])
        wanted = inputs[-2]
        return outs, (1 if wanted[0] else None, *(0 if want else None for want in wanted[1:]))


class LIFTangent(FirstOrderOnly):
    """The forward-mode leaf for transforms."""

    refusal = _REFUSAL

    @staticmethod
    def forward(*inputs: Any) -> Any:
        return lif_jvp(*inputs)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> Any:
        size, neurons = info.batch_size, inputs[6].ndim - 1 - (in_dims[6] is not None)
        dx = after_time(inputs[0], in_dims[0], size)
        dv0 = None if inputs[1] is None else first(inputs[1], in_dims[1], size)
        tangents = [padded(t, d, neurons) for t, d in zip(inputs[2:6], in_dims[2:6], strict=True)]
        x = after_time(inputs[6], in_dims[6], size)
        arguments = _batched_parameters(inputs[7:14], in_dims[7:14], size, neurons)
        return LIFTangent.apply(dx, dv0, *tangents, x, *arguments, *inputs[14:]), (1, 0)


def _batched_parameters(arguments: Any, in_dims: Any, size: int, neurons: int) -> list[Any]:
    """decay, threshold, gain, v_reset, v0, countdown and table with the mapped dimension in its place."""
    *parameters, v0, countdown, table = arguments
    if in_dims[6] is not None:
        raise ValueError("lif: vmap over the table of a surrogate is not supported; call lif once for each table")
    states = [None if s is None else first(s, d, size) for s, d in zip((v0, countdown), in_dims[4:6], strict=True)]
    return [*(padded(p, d, neurons) for p, d in zip(parameters, in_dims[:4], strict=True)), *states, table]


def _batched_forward(cls: type[LIF], size: int, in_dims: tuple[Any, ...], inputs: tuple[Any, ...]) -> Any:
    neurons = inputs[_X].ndim - 1 - (in_dims[_X] is not None)
    x = after_time(inputs[_X], in_dims[_X], size)
    outs = cls.apply(x, *_batched_parameters(inputs[1:8], in_dims[1:8], size, neurons), *inputs[8:])
    mapped = (1, 0, 0 if outs[2].ndim > 1 or neurons == 0 else None, *(1 if o.ndim > 1 else None for o in outs[3:]))
    return outs, mapped
