"""The definition of a LIF neuron in plain PyTorch, and the reference backend.

`definition` is the specification: autograd differentiates it, float64 included. `forward`, `backward` and `jvp` are the
reference backend of the leaf ops: the same recurrence and its derivatives written out, for every device and residual.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

from neurokernels.ops.lif.rule import (
    CHUNK,
    Codes,
    Forward,
    Numbers,
    Rule,
    allocate_backward,
    allocate_forward,
    compute_dtype,
)
from neurokernels.ops.lif.rule import unpack as unpack_rule
from neurokernels.surrogate import Surrogate, derivative


class _Spike(Function):
    """A step function whose derivative is the surrogate."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, fires: Tensor, surrogate: Surrogate) -> Tensor:
        ctx.save_for_backward(y)
        ctx.surrogate = surrogate
        return fires.to(y.dtype)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None]:
        (y,) = ctx.saved_tensors
        return g * derivative(y, ctx.surrogate), None, None


class _ThroughReset(Function):
    """The carried membrane, with the gradient that an attached reset sends through the decision to reset."""

    @staticmethod
    def forward(ctx: Any, c: Tensor, jump: Tensor, y: Tensor, surrogate: Surrogate) -> Tensor:
        ctx.save_for_backward(jump, y)
        ctx.surrogate = surrogate
        return c.clone()

    @staticmethod
    def backward(ctx: Any, a: Tensor) -> tuple[Tensor, None, Tensor, None]:
        jump, y = ctx.saved_tensors
        return a, None, a * jump * derivative(y, ctx.surrogate), None


def clamp(u: Tensor, rule: Rule) -> tuple[Tensor, Tensor]:
    """``max(u, floor)`` that lets NaN through, and where the floor holds."""
    low = u <= rule.floor if rule.has_floor else torch.zeros_like(u, dtype=torch.bool)
    return torch.where(low, rule.floor, u), low


def definition(
    x: Tensor,
    decay: Tensor | float,
    threshold: Tensor | float,
    gain: Tensor | float,
    v_reset: Tensor | float,
    v0: Tensor | None,
    countdown: Tensor | None,
    rule: Rule,
    surrogate: Surrogate,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """LIF as the contract defines it, one step after the other, differentiable by autograd.

    Args:
        x: Input ``[T, *neurons]``.
        decay: Float, or a tensor that broadcasts against ``[*neurons]``; like the next three.
        threshold: Membrane at which a neuron spikes.
        gain: Factor on the input.
        v_reset: Membrane after a reset and while resting.
        v0: Carried membrane before the first step ``[*neurons]``, or None for zero.
        countdown: Refractory steps still to come ``[*neurons]``, or None for none.
        rule: The discrete options; its parameters and residual are not looked at.
        surrogate: The surrogate.

    Returns:
        Spikes like x, the carried membrane, and the countdown (None without refractory steps).
    """
    dtype = compute_dtype(x)
    c = torch.zeros(x.shape[1:], dtype=dtype, device=x.device) if v0 is None else v0
    left = torch.zeros(x.shape[1:], dtype=torch.int32, device=x.device) if countdown is None else countdown
    threshold, v_reset = (torch.as_tensor(p, dtype=dtype, device=x.device) for p in (threshold, v_reset))
    constant = threshold.detach(), v_reset.detach()
    spikes = []
    for x_t in x.unbind(0):
        u, _ = clamp(decay * c + gain * x_t.to(dtype), rule)
        theta, resting = threshold, torch.zeros_like(left, dtype=torch.bool)
        if rule.refractory:
            resting = left > 0
            u = torch.where(resting, constant[1], u)
            theta = torch.where(resting, constant[0], threshold)
        fires = u >= theta
        resets = u > theta if rule.above else fires
        spikes.append(_Spike.apply(u - theta, fires, surrogate))
        c = _reset(u, theta, torch.where(resting, constant[1], v_reset), resets, rule, surrogate)
        left = torch.where(fires, rule.refractory, torch.where(resting, left - 1, 0)).to(torch.int32)
    out = torch.stack(spikes).to(x.dtype) if spikes else torch.empty_like(x)
    return out, c, left if rule.refractory else None


def _reset(u: Tensor, theta: Any, v_reset: Any, resets: Tensor, rule: Rule, surrogate: Surrogate) -> Tensor:
    if rule.reset == "none":
        return u
    target = v_reset if rule.reset == "zero" else u - theta
    c = torch.where(resets, target, u)
    if rule.detach:
        return c
    jump = v_reset - u if rule.reset == "zero" else -theta * torch.ones_like(u)
    return _ThroughReset.apply(c, jump.detach(), u - theta, surrogate)


# The reference backend ------------------------------------------------------------------------------------------------


class _Neurons(NamedTuple):
    """A rule with its parameters as tensors that broadcast against ``[*neurons]``."""

    rule: Rule
    decay: Tensor
    threshold: Tensor
    gain: Tensor
    v_reset: Tensor
    surrogate: Surrogate


def _neurons(
    x: Tensor, parameters: list[Tensor | None], table: Tensor | None, numbers: Numbers, codes: Codes
) -> _Neurons:
    rule, dtype = unpack_rule(codes, numbers), compute_dtype(x)
    decay, threshold, gain, v_reset = (
        torch.tensor(number, dtype=dtype, device=x.device) if given is None else given
        for given, number in zip(parameters, numbers, strict=False)
    )
    return _Neurons(rule, decay, threshold, gain, v_reset, rule.surrogate(table))


class _Step(NamedTuple):
    """One step of the recurrence, as a derivative needs it."""

    u: Tensor
    before: Tensor  # carried membrane before the step
    fires: Tensor
    resets: Tensor
    low: Tensor  # the floor holds
    resting: Tensor  # a refractory step: constant, no gradient passes
    after: Tensor
    left: Tensor


def _step(n: _Neurons, x_t: Tensor, c: Tensor, left: Tensor) -> _Step:
    rule = n.rule
    u, low = clamp(n.decay * c + n.gain * x_t.to(c.dtype), rule)
    resting = left > 0
    u = torch.where(resting, n.v_reset, u)
    fires = u >= n.threshold
    resets = u > n.threshold if rule.above else fires
    target = {"zero": n.v_reset, "subtract": u - n.threshold, "none": u}[rule.reset]
    after = torch.where(resets, target, u)
    remaining = torch.where(fires, rule.refractory, torch.where(resting, left - 1, 0)).to(torch.int32)
    return _Step(u, c, fires, resets, low, resting, after, remaining)


def _run(n: _Neurons, x: Tensor, v0: Tensor | None, countdown: Tensor | None) -> list[_Step]:
    c = torch.zeros(x.shape[1:], dtype=compute_dtype(x), device=x.device) if v0 is None else v0
    left = torch.zeros(c.shape, dtype=torch.int32, device=x.device) if countdown is None else countdown
    steps = []
    for x_t in x.unbind(0):
        steps.append(_step(n, x_t, c, left))
        c, left = steps[-1].after, steps[-1].left
    return steps


def _pass_and_keep(n: _Neurons, s: _Step) -> tuple[Tensor, Tensor]:
    """The two bits of a step: whether dL/ds reaches u, and whether dL/dc does."""
    live = ~s.low & ~s.resting
    takes = live & ((n.surrogate.slope * (s.u - n.threshold)).abs() < 1) if n.surrogate.shape == "boxcar" else live
    return takes, live & ~s.resets if n.rule.reset == "zero" else live


def forward(
    x: Tensor, decay: Tensor | None, threshold: Tensor | None, gain: Tensor | None, v_reset: Tensor | None,
    v0: Tensor | None, countdown: Tensor | None, table: Tensor | None, numbers: Numbers, codes: Codes,
) -> Forward:  # fmt: skip
    """The leaf op ``lif_fwd``."""
    n = _neurons(x, [decay, threshold, gain, v_reset], table, numbers, codes)
    out, steps = allocate_forward(x, codes), _run(n, x, v0, countdown)
    if not steps:
        out.membrane.copy_(v0 if v0 is not None else torch.zeros_like(out.membrane))
        if n.rule.refractory:
            out.countdown.copy_(countdown if countdown is not None else torch.zeros_like(out.countdown))
        return out
    for t, s in enumerate(steps):
        out.spikes[t] = s.fires.to(x.dtype)
        if n.rule.residual == "membrane":
            out.residual[t] = s.u
        elif n.rule.residual == "bits":
            takes, keeps = _pass_and_keep(n, s)
            word = (takes.int() | keeps.int() << 1) << (2 * (t % CHUNK))
            out.residual[t // CHUNK] = word if t % CHUNK == 0 else out.residual[t // CHUNK] | word
        if t and t % CHUNK == 0 and n.rule.residual == "recompute":
            out.residual[t // CHUNK - 1] = s.before
        if t and t % CHUNK == 0 and out.counts.numel():
            out.counts[t // CHUNK - 1] = steps[t - 1].left.clamp(max=255).to(torch.uint8)
    out.membrane.copy_(steps[-1].after)
    if n.rule.refractory:
        out.countdown.copy_(steps[-1].left)
    return out


def _replay(n: _Neurons, x: Tensor | None, v0: Tensor | None, countdown: Tensor | None, u: Tensor) -> list[_Step]:
    """The steps of the forward pass: from x again, or from the membranes that were kept."""
    if n.rule.residual == "recompute":
        assert x is not None
        return _run(n, x, v0, countdown)
    nothing = torch.zeros(u.shape[1:], dtype=u.dtype, device=u.device)
    c = nothing if v0 is None else v0
    left = torch.zeros_like(nothing, dtype=torch.int32) if countdown is None else countdown
    kept, steps = n._replace(decay=torch.ones_like(nothing), gain=nothing), []
    for u_t in u.unbind(0):
        # Decay 1 of a membrane u plus gain 0 of nothing is u again, so that one step serves both.
        steps.append(_step(kept, nothing, u_t, left)._replace(before=c))
        c, left = steps[-1].after, steps[-1].left
    return steps


def _through(n: _Neurons, s: _Step, g: Tensor, a: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """dL/d(decay c + gain x), dL/d threshold and dL/d v_reset of one step, from dL/ds and dL/dc."""
    rule, zero = n.rule, torch.zeros_like(a)
    keep = torch.where(s.resets, zero, a) if rule.reset == "zero" else a
    theta = -g * sigma
    if rule.reset == "subtract":
        theta = theta - torch.where(s.resets, a, zero)
    if not rule.detach and rule.reset != "none":
        jump = n.v_reset - s.u if rule.reset == "zero" else -n.threshold
        keep = keep + a * jump * sigma
        theta = theta - a * jump * sigma
    z = torch.where(s.low | s.resting, zero, g * sigma + keep)
    rest = torch.where(s.resets, a, zero) if rule.reset == "zero" else zero
    return z, torch.where(s.resting, zero, theta), torch.where(s.resting, zero, rest)


def backward(
    g: Tensor, g_membrane: Tensor, x: Tensor | None, residual: Tensor, counts: Tensor,
    decay: Tensor | None, threshold: Tensor | None, gain: Tensor | None, v_reset: Tensor | None,
    v0: Tensor | None, countdown: Tensor | None, table: Tensor | None,
    numbers: Numbers, codes: Codes, wanted: list[bool],
) -> tuple[Tensor, ...]:  # fmt: skip
    """The leaf op ``lif_bwd``; ``counts`` are for kernels that start a replay in the middle."""
    n = _neurons(g, [decay, threshold, gain, v_reset], table, numbers, codes)
    outs = allocate_backward(g, wanted)
    sums = [torch.zeros_like(g_membrane) for _ in range(4)]
    steps = None if n.rule.residual == "bits" else _replay(n, x, v0, countdown, residual)
    a = g_membrane
    for t in reversed(range(g.shape[0])):
        g_t = g[t].to(a.dtype)
        if steps is None:
            z = _through_bits(n, residual[t // CHUNK] >> (2 * (t % CHUNK)), g_t, a)
        else:
            s = steps[t]
            z, theta, rest = _through(n, s, g_t, a, derivative(s.u - n.threshold, n.surrogate))
            drive = torch.zeros_like(z) if x is None else z * x[t].to(z.dtype)
            sums = [total + term for total, term in zip(sums, (z * s.before, theta, drive, rest), strict=True)]
        if wanted[0]:
            outs[0][t] = (n.gain * z).to(g.dtype)
        a = n.decay * z
    for out, value in zip(outs[1:], [a, *sums], strict=True):
        if out.shape == value.shape:
            out.copy_(value)
    return outs


def _through_bits(n: _Neurons, word: Tensor, g: Tensor, a: Tensor) -> Tensor:
    zero = torch.zeros_like(a)
    direct = n.surrogate.peak * g
    if not n.rule.detach and n.rule.reset == "subtract":
        direct = direct - n.surrogate.peak * n.threshold * a
    return torch.where((word & 1).bool(), direct, zero) + torch.where((word & 2).bool(), a, zero)


def jvp(
    dx: Tensor | None, dv0: Tensor | None, ddecay: Tensor | None, dthreshold: Tensor | None, dgain: Tensor | None,
    dv_reset: Tensor | None, x: Tensor, decay: Tensor | None, threshold: Tensor | None, gain: Tensor | None,
    v_reset: Tensor | None, v0: Tensor | None, countdown: Tensor | None, table: Tensor | None,
    numbers: Numbers, codes: Codes,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The leaf op ``lif_jvp``: tangents of spikes and membrane, forward in time."""
    n = _neurons(x, [decay, threshold, gain, v_reset], table, numbers, codes)
    zero = torch.zeros(x.shape[1:], dtype=compute_dtype(x), device=x.device)
    dc, *parameters = [zero if d is None else d for d in (dv0, ddecay, dthreshold, dgain, dv_reset)]
    spikes = torch.zeros_like(x)
    for t, s in enumerate(_run(n, x, v0, countdown)):
        ddec, dtheta, dgn, dreset = (torch.where(s.resting, zero, d) for d in parameters)
        drive = zero if dx is None else n.gain * dx[t].to(zero.dtype)
        du = ddec * s.before + n.decay * dc + dgn * x[t].to(zero.dtype) + drive
        du = torch.where(s.low | s.resting, zero, du)
        ds = derivative(s.u - n.threshold, n.surrogate) * torch.where(s.resting, zero, du - dtheta)
        spikes[t] = ds.to(x.dtype)
        dc = _reset_tangent(n, s, du, dtheta, dreset, ds)
    return spikes, dc.clone()


def _reset_tangent(n: _Neurons, s: _Step, du: Tensor, dtheta: Tensor, dreset: Tensor, ds: Tensor) -> Tensor:
    rule = n.rule
    if rule.reset == "none":
        return du
    dc = torch.where(s.resets, dreset if rule.reset == "zero" else du - dtheta, du)
    if rule.detach:
        return dc
    return dc + ds * (n.v_reset - s.u if rule.reset == "zero" else -n.threshold)


# The leaky integrator -----------------------------------------------------------------------------------------------


def leaky_definition(
    x: Tensor, decay: Tensor | float, gain: Tensor | float, v0: Tensor | None, floor: float | None
) -> Tensor:
    """The leaky integrator as the contract defines it, ``[T, *neurons]``, differentiable by autograd."""
    dtype = compute_dtype(x)
    c = torch.zeros(x.shape[1:], dtype=dtype, device=x.device) if v0 is None else v0
    trace = []
    for x_t in x.unbind(0):
        c = decay * c + gain * x_t.to(dtype)
        c = c if floor is None else torch.where(c <= floor, floor, c)
        trace.append(c)
    return torch.stack(trace) if trace else torch.empty_like(x, dtype=dtype)


def _leaky_parameters(like: Tensor, decay: Tensor | None, gain: Tensor | None, numbers: list[float]) -> list[Tensor]:
    return [
        torch.tensor(number, dtype=like.dtype, device=like.device) if given is None else given
        for given, number in zip((decay, gain), numbers, strict=False)
    ]


def leaky_forward(
    x: Tensor, decay: Tensor | None, gain: Tensor | None, v0: Tensor | None, numbers: list[float], has_floor: bool
) -> Tensor:
    """The leaf op ``leaky_fwd``."""
    trace = torch.empty_like(x, dtype=compute_dtype(x))
    d, w = _leaky_parameters(trace, decay, gain, numbers)
    return trace.copy_(leaky_definition(x, d, w, v0, numbers[2] if has_floor else None))


def leaky_backward(
    g: Tensor, x: Tensor | None, trace: Tensor | None, decay: Tensor | None, gain: Tensor | None, v0: Tensor | None,
    numbers: list[float], has_floor: bool, dtype: torch.dtype, wanted: list[bool],
) -> tuple[Tensor, ...]:  # fmt: skip
    """The leaf op ``leaky_bwd``."""
    d, w = _leaky_parameters(g, decay, gain, numbers)
    neurons = g.shape[1:]
    a = torch.zeros(neurons, dtype=g.dtype, device=g.device)
    ddecay, dgain, dx = torch.zeros_like(a), torch.zeros_like(a), torch.empty_like(g, dtype=dtype)
    for t in reversed(range(g.shape[0])):
        z = g[t] + a
        if has_floor and trace is not None:
            z = torch.where(trace[t] <= numbers[2], 0.0, z)
        before = trace[t - 1] if t and trace is not None else v0
        ddecay = ddecay if before is None else ddecay + z * before
        dgain = dgain if x is None else dgain + z * x[t].to(z.dtype)
        dx[t] = (w * z).to(dtype)
        a = d * z
    nothing = (g.new_empty((0,), dtype=dtype), *(g.new_empty((0,)) for _ in range(3)))
    found = (dx, a, ddecay, dgain)
    return tuple(f if want else n for f, n, want in zip(found, nothing, wanted, strict=True))


def leaky_jvp(
    dx: Tensor | None, ddecay: Tensor | None, dgain: Tensor | None, dv0: Tensor | None, x: Tensor, trace: Tensor,
    decay: Tensor | None, gain: Tensor | None, v0: Tensor | None, numbers: list[float], has_floor: bool,
) -> Tensor:  # fmt: skip
    """The leaf op ``leaky_jvp``."""
    d, w = _leaky_parameters(trace, decay, gain, numbers)
    zero = torch.zeros(x.shape[1:], dtype=trace.dtype, device=x.device)
    dc, before, tangent = zero if dv0 is None else dv0, zero if v0 is None else v0, torch.empty_like(trace)
    for t in range(x.shape[0]):
        dc = d * dc
        dc = dc if ddecay is None else dc + ddecay * before
        dc = dc if dx is None else dc + w * dx[t].to(dc.dtype)
        dc = dc if dgain is None else dc + dgain * x[t].to(dc.dtype)
        dc = torch.where(trace[t] <= numbers[2], 0.0, dc) if has_floor else dc
        tangent[t], before = dc, trace[t]
    return tangent
