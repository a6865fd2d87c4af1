"""`leaky_integrate`: the non-spiking read-out, a leaky integrator stepped through time in one kernel."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from neurokernels._core import backends, checks
from neurokernels._core.arrays import accepts_arrays
from neurokernels._core.autograd import FirstOrderOnly, eager, forward_mode, transformed
from neurokernels._core.library import leaf
from neurokernels.ops.lif import op
from neurokernels.ops.lif.batching import after_time, first, padded
from neurokernels.ops.lif.rule import compute_dtype

# Leaf ops -----------------------------------------------------------------------------------------------------------

_ARGUMENTS = "Tensor? decay, Tensor? gain, Tensor? v0, float[] numbers, bool has_floor"


def allocate_forward(x: Tensor) -> Tensor:
    """The empty trace: laid out like x, in the dtype of the state."""
    return torch.empty_like(x, dtype=compute_dtype(x))


def allocate_backward(g: Tensor, dtype: torch.dtype, wanted: list[bool]) -> tuple[Tensor, ...]:
    """Empty gradients of x, v0, decay and gain; ``[0]`` for what is not wanted."""
    dx = torch.empty_like(g, dtype=dtype) if wanted[0] else g.new_empty((0,), dtype=dtype)
    return dx, *(g.new_empty(g.shape[1:] if want else (0,)) for want in wanted[1:])


def _dispatch(name: str, position: int) -> Any:
    def kernel(*arguments: Any) -> Any:
        *given, backend = arguments
        row = backends.select("leaky_integrate", backend, given[position])
        return getattr(row.kernels(), name)(*given)

    return kernel


leaky_fwd = leaf(
    f"leaky_fwd(Tensor x, {_ARGUMENTS}, str backend) -> Tensor",
    _dispatch("leaky_forward", 0),
    lambda x, *rest: allocate_forward(x),
)
leaky_bwd = leaf(
    f"leaky_bwd(Tensor g, Tensor? x, Tensor? trace, {_ARGUMENTS}, ScalarType dtype, bool[] wanted, str backend) "
    "-> (Tensor, Tensor, Tensor, Tensor)",
    _dispatch("leaky_backward", 0),
    lambda g, *rest: allocate_backward(g, rest[-3], rest[-2]),
)
leaky_jvp = leaf(
    "leaky_jvp(Tensor? dx, Tensor? ddecay, Tensor? dgain, Tensor? dv0, Tensor x, Tensor trace, "
    f"{_ARGUMENTS}, str backend) -> Tensor",
    _dispatch("leaky_jvp", 4),
    lambda *rest: torch.empty_like(rest[5]),
)

# Derivatives --------------------------------------------------------------------------------------------------------


class _Leaky(Function):
    """``(x, decay, gain, v0, numbers, has_floor, backend)`` to the trace."""

    @staticmethod
    def forward(x: Any, decay: Any, gain: Any, v0: Any, numbers: Any, has_floor: Any, backend: Any) -> Any:
        # Every argument by name: Dynamo counts them to see whether a context comes first.
        return leaky_fwd(x, decay, gain, v0, numbers, has_floor, backend)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, decay, gain, v0, ctx.numbers, ctx.has_floor, ctx.backend = inputs
        ctx.dtype = x.dtype
        ctx.learns = [p is not None and need for p, need in zip((decay, gain), ctx.needs_input_grad[1:3], strict=True)]
        trace = output if ctx.has_floor or ctx.learns[0] else None  # the floor is where the trace lies on it
        ctx.save_for_backward(x if ctx.learns[1] else None, trace, decay, gain, v0 if ctx.learns[0] else None)
        ctx.v0_is_given = v0 is not None

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
        x, trace, decay, gain, v0 = ctx.saved_tensors
        needs = ctx.needs_input_grad
        wanted = [needs[0], needs[3] and ctx.v0_is_given, *ctx.learns]
        apply = _LeakyBackward.apply if torch.is_grad_enabled() else leaky_bwd
        dx, dv0, ddecay, dgain = apply(
            g, x, trace, decay, gain, v0, ctx.numbers, ctx.has_floor, ctx.dtype, wanted, ctx.backend
        )
        return (
            dx if wanted[0] else None,
            ddecay.sum_to_size(decay.shape) if wanted[2] else None,
            dgain.sum_to_size(gain.shape) if wanted[3] else None,
            dv0 if wanted[1] else None,
            None, None, None,
        )  # fmt: skip

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> Any:
        return _batched_forward(_Leaky, info.batch_size, in_dims, inputs)


class _LeakyEager(_Leaky):
    """The same with forward-mode derivatives, which Dynamo does not trace."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _Leaky.setup_context(ctx, inputs, output)
        if forward_mode():
            x, decay, gain, v0 = inputs[:4]
            ctx.save_for_forward(x, output, decay, gain, v0)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        return _LeakyTangent.apply(*tangents[:4], *ctx.saved_tensors, ctx.numbers, ctx.has_floor, ctx.backend)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> Any:
        return _batched_forward(_LeakyEager, info.batch_size, in_dims, inputs)


_REFUSAL = "leaky_integrate: second-order derivatives are not supported; take first derivatives only"


class _LeakyBackward(FirstOrderOnly):
    refusal = _REFUSAL

    @staticmethod
    def forward(*inputs: Any) -> Any:
        return leaky_bwd(*inputs)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> Any:
        neurons = inputs[0].ndim - 1 - (in_dims[0] is not None)
        series = [after_time(t, d, info.batch_size) for t, d in zip(inputs[:3], in_dims[:3], strict=True)]
        arguments = _batched(inputs[3:6], in_dims[3:6], info.batch_size, neurons)
        outs = _LeakyBackward.apply(*series, *arguments, *inputs[6:])
        wanted = inputs[-2]
        return outs, (1 if wanted[0] else None, *(0 if want else None for want in wanted[1:]))


class _LeakyTangent(FirstOrderOnly):
    refusal = _REFUSAL

    @staticmethod
    def forward(*inputs: Any) -> Any:
        return leaky_jvp(*inputs)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> Any:
        size, neurons = info.batch_size, inputs[4].ndim - 1 - (in_dims[4] is not None)
        dx, x, trace = (after_time(inputs[i], in_dims[i], size) for i in (0, 4, 5))
        tangents = _batched(inputs[1:4], in_dims[1:4], size, neurons)
        return _LeakyTangent.apply(
            dx, *tangents, x, trace, *_batched(inputs[6:9], in_dims[6:9], size, neurons), *inputs[9:]
        ), 1


def _batched(arguments: Any, in_dims: Any, size: int, neurons: int) -> list[Any]:
    *parameters, state = arguments
    mapped = [padded(p, d, neurons) for p, d in zip(parameters, in_dims[:2], strict=True)]
    return [*mapped, None if state is None else first(state, in_dims[2], size)]


def _batched_forward(cls: type[_Leaky], size: int, in_dims: tuple[Any, ...], inputs: tuple[Any, ...]) -> Any:
    neurons = inputs[0].ndim - 1 - (in_dims[0] is not None)
    x = after_time(inputs[0], in_dims[0], size)
    return cls.apply(x, *_batched(inputs[1:4], in_dims[1:4], size, neurons), *inputs[4:]), 1


_run = eager(_LeakyEager)

# The op -------------------------------------------------------------------------------------------------------------


@accepts_arrays
def leaky_integrate(
    x: Tensor,
    *,
    decay: Tensor | float,
    gain: Tensor | float = 1.0,
    floor: float | None = None,
    v0: Tensor | None = None,
    time_dim: int = 0,
) -> Tensor:
    """A leaky integrator without spikes, the usual read-out of a spiking network.

    ``v_t = decay * v_{t-1} + gain * x_t``, at least ``floor`` if one is given, with v_0 = v0 or 0.

    Args:
        x: Input ``[T, *batch, *neurons]``, or with time at ``time_dim``; float32, bfloat16, float16 or float64.
        decay: Factor per step, a float in [0, 1] or a tensor that broadcasts against ``[*batch, *neurons]``;
            differentiable.
        gain: Factor on the input, likewise.
        floor: Lower bound, or None.
        v0: Membrane before the first step ``[*batch, *neurons]``, float32 (float64 for float64 input); the last step
            of an earlier trace continues it bit for bit. Differentiable.
        time_dim: The dimension of x that is time.

    Returns:
        The membrane after every step, shaped like x, float32 (float64 for float64 input).

    Raises:
        TypeError: x is not floating point, or an argument has the wrong type.
        ValueError: A shape or a value is wrong.
        BackendError: The backend that was asked for cannot run this call.
    """
    name = "leaky_integrate"
    checks.floating(name, "x", x)
    if x.ndim < 2:
        checks.value_error(name, "x", "[T, ...] with at least 2 dimensions", f"shape {tuple(x.shape)}")
    time = checks.axis(name, "time_dim", time_dim, x.ndim)
    x = x.movedim(time, 0) if time else x
    tensors: list[Tensor | None] = []
    numbers: list[float] = []
    for argument, value, bounds in (("decay", decay, (0.0, 1.0)), ("gain", gain, ())):
        if isinstance(value, Tensor):
            tensors.append(op.parameter(name, argument, value, x))
            numbers.append(math.nan)
        else:
            tensors.append(None)
            numbers.append(checks.number(name, argument, value, *bounds))
    numbers.append(0.0 if floor is None else checks.number(name, "floor", floor))
    if v0 is not None:
        op.state(name, "v0", v0, x, compute_dtype(x))
    arguments = (x, *tensors, v0, numbers, floor is not None)
    if torch.compiler.is_compiling():
        trace = _Leaky.apply(*arguments, backends.INHERIT)
    elif transformed():
        trace = _LeakyEager.apply(*arguments, backends.requested())
    elif forward_mode() or torch.is_grad_enabled():
        trace = _run(*arguments, backends.requested())
    else:
        trace = leaky_fwd(*arguments, backends.requested())
    return trace.movedim(0, time) if time else trace
