# mypy: disable-error-code="no-untyped-def"
"""The Triton kernels of the leaky integrator; `neurokernels.ops.lif.triton` launches them.

They are built like those of `triton_kernels`: a program per block of neurons, chunks of 16 steps whose reads are all in
flight at once. The trace is its own residual, so nothing is replayed.

Bytes per (t, neuron), with e bytes per element of x: forward e + 4; backward 4 + e, and 4 more with a floor or for the
gradient of the decay, and e more for the gradient of the gain.
"""

import triton
import triton.language as tl

from neurokernels._core.triton import Series
from neurokernels.ops.lif.triton_step import CHUNK, at, block, exists, load_chunk, load_or, store_if


@triton.jit
def forward_chunk(x, trace, c, decay, gain, floor, t, steps, mask, x_time, trace_time, FLOOR: tl.constexpr,
                  TAIL: tl.constexpr):  # fmt: skip
    """Runs 16 steps from t on; returns the membrane after them, of no use after a tail."""
    xs = load_chunk(x, x_time, t, steps, mask, TAIL)
    trace_time = tl.cast(trace_time, tl.int64)
    trace += t * trace_time
    for k in tl.static_range(CHUNK):
        c = decay * c + gain * xs[k].to(c.dtype)
        if FLOOR:
            c = tl.where(c <= floor, floor, c)
        tl.store(trace, c, mask=exists(t + k, steps, mask, TAIL))
        trace += trace_time
    return c


@triton.jit(do_not_specialize=["steps"])
def leaky_forward_kernel(
    x: Series, trace: Series, decay_ptr, gain_ptr, v0_ptr, decay: tl.float64, gain: tl.float64, floor: tl.float64,
    steps, total: tl.int64, inner, period, FLOOR: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The membrane after every step."""
    STATE: tl.constexpr = trace.pointer.dtype.element_ty
    n, mask = block(total, BLOCK)
    decay, gain = load_or(decay_ptr, decay, n % period, mask, STATE), load_or(gain_ptr, gain, n % period, mask, STATE)
    floor, c = tl.full(n.shape, floor, STATE), load_or(v0_ptr, 0.0, n, mask, STATE)
    xs, out, own = at(x, n, inner), at(trace, n, inner), tl.where(mask, steps, 0)
    t = 0
    while t + CHUNK <= steps:
        c = forward_chunk(xs, out, c, decay, gain, floor, t, own, mask, x.time, trace.time, FLOOR, False)
        t += CHUNK
    if t < steps:
        forward_chunk(xs, out, c, decay, gain, floor, t, own, mask, x.time, trace.time, FLOOR, True)


@triton.jit
def backward_chunk(g, x, trace, dx, first, decay, gain, floor, a, ddecay, dgain, t, steps, mask, g_time, x_time, trace_time,
                   dx_time, FLOOR: tl.constexpr, DECAY: tl.constexpr, TAIL: tl.constexpr):  # fmt: skip
    """Goes back through 16 steps; returns dL/dc before them and the sums with them."""
    gs = load_chunk(g, g_time, t, steps, mask, TAIL)
    cs, xs, before = gs, gs, first
    if trace is not None:
        cs = load_chunk(trace, trace_time, t, steps, mask, TAIL)
    if x is not None:
        xs = load_chunk(x, x_time, t, steps, mask, TAIL)
    if DECAY:
        later = tl.where(mask, t, 0) > 0
        before = tl.load(trace + (t - 1) * tl.cast(trace_time, tl.int64), mask=later, other=0)
        before = tl.where(later, before, first)
    dx_time = tl.cast(dx_time, tl.int64)
    if dx is not None:
        dx += (t + CHUNK - 1) * dx_time
    for k in tl.static_range(CHUNK - 1, -1, -1):
        now = exists(t + k, steps, mask, TAIL)
        z = gs[k] + a
        if FLOOR:
            z = tl.where(cs[k] <= floor, 0.0, z)
        if dx is not None:
            tl.store(dx, (gain * z).to(dx.dtype.element_ty), mask=now)
            dx -= dx_time
        earlier = decay * z
        if TAIL:
            earlier, z = tl.where(now, earlier, a), tl.where(now, z, 0.0)
        if DECAY:
            ddecay += z * (before if k == 0 else cs[k - 1])
        if x is not None:
            dgain += z * xs[k].to(z.dtype)
        a = earlier
    return a, ddecay, dgain


@triton.jit(do_not_specialize=["steps"])
def leaky_backward_kernel(
    g: Series, x: Series, trace: Series, dx: Series, decay_ptr, gain_ptr, v0_ptr, dv0_ptr, ddecay_ptr, dgain_ptr,
    decay: tl.float64, gain: tl.float64, floor: tl.float64,
    steps, total: tl.int64, inner, period, FLOOR: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Gradients of the input, of the membrane before the first step, and of the parameters of each neuron."""
    STATE: tl.constexpr = g.pointer.dtype.element_ty
    DECAY: tl.constexpr = ddecay_ptr is not None
    n, mask = block(total, BLOCK)
    decay, gain = load_or(decay_ptr, decay, n % period, mask, STATE), load_or(gain_ptr, gain, n % period, mask, STATE)
    floor, first = tl.full(n.shape, floor, STATE), load_or(v0_ptr, 0.0, n, mask, STATE)
    gs, own = at(g, n, inner), tl.where(mask, steps, 0)
    xs = None if x.pointer is None else at(x, n, inner)
    cs = None if trace.pointer is None else at(trace, n, inner)
    dxs = None if dx.pointer is None else at(dx, n, inner)
    a, ddecay, dgain = tl.zeros_like(floor), tl.zeros_like(floor), tl.zeros_like(floor)
    t = steps // CHUNK * CHUNK
    if t < steps:
        a, ddecay, dgain = backward_chunk(gs, xs, cs, dxs, first, decay, gain, floor, a, ddecay, dgain, t, own, mask,
                                          g.time, x.time, trace.time, dx.time, FLOOR, DECAY, True)  # fmt: skip
    while t > 0:
        t -= CHUNK
        a, ddecay, dgain = backward_chunk(gs, xs, cs, dxs, first, decay, gain, floor, a, ddecay, dgain, t, own, mask,
                                          g.time, x.time, trace.time, dx.time, FLOOR, DECAY, False)  # fmt: skip
    store_if(dv0_ptr, n, a, mask)
    store_if(ddecay_ptr, n, ddecay, mask)
    store_if(dgain_ptr, n, dgain, mask)


@triton.jit(do_not_specialize=["steps"])
def leaky_tangent_kernel(
    x: Series, dx: Series, trace: Series, tangent: Series, decay_ptr, gain_ptr, ddecay_ptr, dgain_ptr, v0_ptr, dv0_ptr,
    decay: tl.float64, gain: tl.float64, floor: tl.float64,
    steps, total: tl.int64, inner, period, FLOOR: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The tangent of the membrane after every step."""
    STATE: tl.constexpr = trace.pointer.dtype.element_ty
    n, mask = block(total, BLOCK)
    p = n % period
    decay, gain = load_or(decay_ptr, decay, p, mask, STATE), load_or(gain_ptr, gain, p, mask, STATE)
    floor, before = tl.full(n.shape, floor, STATE), load_or(v0_ptr, 0.0, n, mask, STATE)
    ddecay, dgain = load_or(ddecay_ptr, 0.0, p, mask, STATE), load_or(dgain_ptr, 0.0, p, mask, STATE)
    dc = load_or(dv0_ptr, 0.0, n, mask, STATE)
    xs, cs, out = at(x, n, inner), at(trace, n, inner), at(tangent, n, inner)
    dxs = None if dx.pointer is None else at(dx, n, inner)
    t = 0
    while t < steps:
        dc = decay * dc + ddecay * before
        if dxs is not None:
            dc += gain * tl.load(dxs + t * tl.cast(dx.time, tl.int64), mask=mask, other=0).to(STATE)
        if dgain_ptr is not None:
            dc += dgain * tl.load(xs + t * tl.cast(x.time, tl.int64), mask=mask, other=0).to(STATE)
        before = tl.load(cs + t * tl.cast(trace.time, tl.int64), mask=mask, other=0)
        if FLOOR:
            dc = tl.where(before <= floor, 0.0, dc)
        tl.store(out + t * tl.cast(tangent.time, tl.int64), dc, mask=mask)
        t += 1
