"""`lif`: leaky integrate-and-fire neurons stepped through time in one kernel."""

import math
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from neurokernels import surrogate as surrogates
from neurokernels._core import backends, checks
from neurokernels._core.arrays import accepts_arrays
from neurokernels._core.autograd import eager, forward_mode, transformed
from neurokernels.ops.lif.autograd import LIF, LIFEager
from neurokernels.ops.lif.leaves import lif_fwd
from neurokernels.ops.lif.rule import RESET_AT, RESETS, RESIDUALS, Rule, compute_dtype, encode
from neurokernels.surrogate import Surrogate


class LIFState(NamedTuple):
    """What a later call needs to go on exactly: the carried membrane, and with refractory steps the countdown."""

    membrane: Tensor
    countdown: Tensor | None = None


class LIFOutput(NamedTuple):
    """What `lif` returns."""

    spikes: Tensor
    membrane: Tensor
    state: LIFState


@accepts_arrays
def lif(
    x: Tensor,
    *,
    decay: Tensor | float,
    threshold: Tensor | float = 1.0,
    gain: Tensor | float = 1.0,
    reset: str = "zero",
    v_reset: Tensor | float = 0.0,
    reset_at: str = "reach",
    floor: float | None = None,
    refractory: int = 0,
    surrogate: str | tuple[str, float] | Surrogate = "atan",
    detach_reset: bool = True,
    v0: Tensor | LIFState | None = None,
    time_dim: int = 0,
    residual: str = "auto",
) -> LIFOutput:
    """Steps leaky integrate-and-fire neurons through time.

    With c the carried membrane (c_0 = v0 or 0), for t = 1..T, in this order and without fused multiply-adds::

        u_t = decay * c_{t-1} + gain * x_t            at least floor, if one is given
        s_t = u_t >= threshold
        c_t = v_reset where it resets | u_t - threshold where it resets | u_t      reset = "zero" | "subtract" | "none"

    A neuron resets where it spikes (``reset_at="reach"``) or where ``u_t > threshold`` (``"above"``). For
    ``refractory`` steps after a spike u_t is v_reset whatever the input, and no gradient passes through these steps.

    Spikes are the same bits on every backend for float32 input. State is float32 (float64 for float64 input).

    Args:
        x: Input current ``[T, *batch, *neurons]``, or with time at ``time_dim``; float32, bfloat16, float16 or float64.
        decay: Factor by which the membrane decays per step. Like the next three a float, or a tensor that broadcasts
            against ``[*batch, *neurons]`` and is differentiable. A float must lie in [0, 1].
        threshold: Membrane at which a neuron spikes.
        gain: Factor on the input.
        reset: ``"zero"`` (to v_reset), ``"subtract"`` (by threshold) or ``"none"``.
        v_reset: Membrane after a reset and during refractory steps.
        reset_at: ``"reach"`` or ``"above"``.
        floor: Lower bound of the membrane, or None.
        refractory: Steps after a spike in which the membrane is held at v_reset.
        surrogate: Derivative of the spike: a name, ``(name, alpha)`` or a `neurokernels.surrogate.Surrogate`.
        detach_reset: Whether the gradient ignores that a reset depends on the membrane.
        v0: Membrane before the first step ``[*batch, *neurons]``, float32 (float64 for float64 input), or the
            ``state`` of an earlier call, which continues it bit for bit. Differentiable.
        time_dim: The dimension of x that is time.
        residual: What is kept for the backward pass: ``"bits"`` (two bits per step and neuron; for constant and boxcar
            surrogates and fixed parameters), ``"recompute"`` (x and a checkpoint every 16 steps), ``"membrane"`` (every
            u_t) or ``"auto"`` (bits where they suffice, else recompute). Gradients are the same.

    Returns:
        ``spikes`` like x, ``membrane`` c_T ``[*batch, *neurons]``, and ``state`` for the next call's ``v0``.

    Raises:
        TypeError: x is not floating point, or an argument has the wrong type.
        ValueError: A shape, a value or a combination of options is wrong.
        BackendError: The backend that was asked for cannot run this call.

    Sources:
        Gerum & Schilling 2021, Neural Computation 33(10), arXiv 2004.13532. Gradients: see ``ops/lif/README.md``.
    """
    checks.floating("lif", "x", x)
    if x.ndim < 2:
        checks.value_error("lif", "x", "[T, ...] with at least 2 dimensions", f"shape {tuple(x.shape)}")
    time = checks.axis("lif", "time_dim", time_dim, x.ndim) if time_dim != 0 else 0
    x = x.movedim(time, 0) if time else x
    tensors, numbers = _parameters(x, decay, threshold, gain, v_reset)
    v0, countdown = _state(x, v0, refractory) if v0 is not None else (None, None)
    inside = transformed()
    learns = any(p is not None and (p.requires_grad or inside) for p in tensors)
    needs = inside or (torch.is_grad_enabled() and (x.requires_grad or learns or (v0 is not None and v0.requires_grad)))
    compiling = torch.compiler.is_compiling()
    rule, table = (_encoded if compiling else _cached)(
        numbers, reset, reset_at, floor, refractory, surrogate, detach_reset, residual, needs, learns
    )
    if table is not None:
        # A copy to a GPU makes the host wait, and no graph can hold it: one for each device.
        moved = _moved if x.is_cuda and type(x) is Tensor and not (compiling or inside) else Tensor.to
        table = moved(table, x.device, compute_dtype(x))
    arguments = (x, *tensors, v0, countdown, table, rule)
    if compiling:
        spikes, membrane, left, *_ = LIF.apply(*arguments, backends.INHERIT)
    elif inside:
        spikes, membrane, left, *_ = LIFEager.apply(*arguments, backends.requested())
    elif needs or forward_mode():
        spikes, membrane, left, *_ = _run(*arguments, backends.requested())
    else:
        spikes, membrane, left, *_ = lif_fwd(*arguments, backends.requested())
    spikes = spikes.movedim(0, time) if time else spikes
    return LIFOutput(spikes, membrane, LIFState(membrane, left if refractory else None))


def _encoded(
    numbers: tuple[float, ...], reset: str, reset_at: str, floor: float | None, refractory: int, surrogate: Any,
    detach_reset: bool, residual: str, needs: bool, learns: bool,
) -> tuple[str, Tensor | None]:  # fmt: skip
    """Checks the options and says in one string what a leaf op is to do; and the surrogate's table, if it has one."""
    chosen = surrogates.get(surrogate)
    decay, threshold, gain, v_reset = numbers
    kept = _residual(residual, chosen, reset, detach_reset, learns)  # checked with and without gradients
    rule = Rule(
        checks.choice("lif", "reset", reset, RESETS),
        checks.choice("lif", "reset_at", reset_at, RESET_AT) == "above",
        floor is not None,
        checks.count("lif", "refractory", refractory),
        bool(detach_reset),
        chosen.shape,
        kept if needs else "none",
        decay, threshold, gain, v_reset,
        0.0 if floor is None else checks.number("lif", "floor", floor),
        chosen.peak, chosen.slope, chosen.low, chosen.high,
    )  # fmt: skip
    return encode(rule), chosen.table


_moved = lru_cache(maxsize=64)(Tensor.to)

#: A training step asks for the same rule every time: checked and written once (typed, so that 1.0 does not pass for 1).
_memory = lru_cache(maxsize=1024, typed=True)(_encoded)
_run = eager(LIFEager)


def _cached(*options: Any) -> tuple[str, Tensor | None]:
    try:
        return _memory(*options)
    except TypeError:  # something unhashable, which the checks put into words
        return _encoded(*options)


def _parameters(x: Tensor, *given: Any) -> tuple[list[Tensor | None], tuple[float, ...]]:
    """Parameters as optional tensors of the state's dtype, and as numbers."""
    tensors: list[Tensor | None] = []
    numbers: list[float] = []
    for name, value in zip(("decay", "threshold", "gain", "v_reset"), given, strict=True):
        if isinstance(value, Tensor):
            tensors.append(parameter("lif", name, value, x))
            numbers.append(math.nan)
        else:
            tensors.append(None)
            bounds = (0.0, 1.0) if name == "decay" else ()
            numbers.append(checks.number("lif", name, value, *bounds))
    return tensors, tuple(numbers)


def parameter(op: str, name: str, value: Tensor, x: Tensor) -> Tensor:
    """A parameter in the state's dtype, refused unless it broadcasts against the neurons of x ``[T, *neurons]``."""
    checks.floating(op, name, value)
    checks.same_device(op, name, value, x.device)
    neurons = x.shape[1:]
    try:
        fits = torch.broadcast_shapes(value.shape, neurons) == neurons
    except RuntimeError:
        fits = False
    if not fits:
        checks.value_error(op, name, f"broadcastable to the neurons {tuple(neurons)}", f"shape {tuple(value.shape)}")
    return value.to(compute_dtype(x))


def _state(x: Tensor, v0: Any, refractory: int) -> tuple[Tensor | None, Tensor | None]:
    countdown = None
    if isinstance(v0, tuple):
        v0, countdown = v0
    state("lif", "v0", v0, x, compute_dtype(x))
    if countdown is not None:
        state("lif", "the countdown of v0", countdown, x, torch.int32)
        if not refractory:
            checks.value_error("lif", "v0", "the state of a call without refractory steps", "one with a countdown")
    return v0, countdown


def state(op: str, name: str, value: Any, x: Tensor, dtype: torch.dtype) -> None:
    """Refuses a state that does not have the shape, dtype and device of the neurons of ``[T, *neurons]``."""
    if not isinstance(value, Tensor):
        checks.type_error(op, name, "a tensor or the state of an earlier call", type(value).__name__)
    if value.shape != x.shape[1:]:
        checks.value_error(op, name, f"of shape {tuple(x.shape[1:])} as one step of x", f"shape {tuple(value.shape)}")
    if value.dtype != dtype:
        checks.type_error(op, name, f"{dtype} for x of {x.dtype}", value.dtype)
    checks.same_device(op, name, value, x.device)


def _residual(residual: str, chosen: Surrogate, reset: str, detach: bool, learns: bool) -> str:
    checks.choice("lif", "residual", residual, ("auto", *RESIDUALS[1:]))
    if residual in ("recompute", "membrane"):
        return residual
    why = None
    if not chosen.is_two_valued:
        why = f"the derivative of {chosen.name} has more than two values"
    elif not detach and reset == "zero":
        why = "an attached reset to v_reset needs the membrane"
    elif learns:
        why = "the gradient of a parameter needs the membrane"
    if why and residual == "bits":
        raise ValueError(f"lif: residual 'bits' cannot hold this call: {why}; use 'auto', 'recompute' or 'membrane'")
    return "recompute" if why else "bits"
