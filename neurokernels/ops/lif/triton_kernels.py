# mypy: disable-error-code="no-untyped-def, assignment"
"""The Triton kernels of LIF; `neurokernels.ops.lif.triton` launches them.

A program owns a block of neurons and walks through time with their state in registers. Time is cut into chunks of 16
steps, the span of one word of residual bits and of one checkpoint. A chunk first loads all that it needs, so that 16
independent reads are in flight where a plain loop would wait for memory in every step, and then runs its steps on
tuples of registers, which static ranges index. The replay of a backward pass is the same: its 16 membranes live in
registers. Whole chunks know that all of their steps exist; a last, shorter one is the same code with ``TAIL`` set. A
replay always asks: a second copy of its body would save a tenth of its instructions and triple the time to compile it.

Bytes per (t, neuron), with e bytes per element of x: forward 2 e, and 0.25 more for bits or checkpoints, 4 more for
membranes; backward 2 e + 0.25 (bits), 3 e + 0.25 (recompute) or 2 e + 4 (membrane).

The names beside those of `triton_step`: ``a`` is dL/dc, ``z`` dL/d(decay c + gain x).
"""

from typing import NamedTuple

import triton
import triton.language as tl

from neurokernels._core.triton import Series
from neurokernels.ops.lif.triton_step import (
    CHUNK,
    Rows,
    State,
    after,
    at,
    block,
    carried,
    exists,
    is_dead,
    is_reset,
    load_chunk,
    load_neuron,
    load_or,
    load_row,
    load_shape,
    load_state,
    membrane,
    rows,
    store_if,
    surrogate,
)


class Learns(NamedTuple):
    """The parameters whose gradients are wanted."""

    decay: bool
    threshold: bool
    gain: bool
    v_reset: bool


class Sums(NamedTuple):
    """Gradients of the parameters of a block of neurons, summed over time."""

    decay: tl.tensor
    threshold: tl.tensor
    gain: tl.tensor
    v_reset: tl.tensor


# Forward -------------------------------------------------------------------------------------------------------------


@triton.jit
def bits(neuron, u, resting, slope, POLICY: tl.constexpr):
    """The residual bits of a step: bit 0 where dL/ds reaches u, bit 1 where dL/dc does."""
    live = ~is_dead(neuron, u, resting, POLICY)
    takes, keeps = live, live
    if POLICY.surrogate == "boxcar":
        takes = live & (tl.abs(slope * (u - neuron.threshold)) < 1)
    if POLICY.reset == "zero":
        keeps = live & ~is_reset(neuron, u, POLICY)
    return takes.to(tl.int32) | (keeps.to(tl.int32) << 1)


@triton.jit
def forward_chunk(x, spikes, residual, counts, neuron, slope, state, t, here, POLICY: tl.constexpr, TAIL: tl.constexpr):
    """Runs 16 steps from t on; returns the state after them."""
    DTYPE: tl.constexpr = spikes.pointers.dtype.element_ty
    zeros = tl.zeros(here.mask.shape, tl.float32)
    one, zero = (zeros + 1).to(DTYPE), zeros.to(DTYPE)
    xs, out = load_chunk(x, t, here, TAIL), at(spikes, t)
    word = tl.zeros(here.mask.shape, tl.int32)
    for k in tl.static_range(CHUNK):
        now = exists(here, t + k, TAIL)
        u = membrane(neuron, xs[k], state, POLICY)
        tl.store(out + k * spikes.stride, tl.where(u >= neuron.threshold, one, zero), mask=now)
        if POLICY.residual == "membrane":
            tl.store(at(residual, t) + k * residual.stride, u, mask=now)
        if POLICY.residual == "bits":
            found = bits(neuron, u, state.left > 0, slope, POLICY)
            if TAIL:
                found = tl.where(now, found, 0)
            word |= found << (2 * k)
        later = after(neuron, u, state.left, POLICY)
        if TAIL:
            later = State(tl.where(now, later.c, state.c), tl.where(now, later.left, state.left))
        state = later
    more = t + CHUNK < here.steps
    if POLICY.residual == "bits":
        tl.store(at(residual, t // CHUNK), word, mask=here.mask)
    if POLICY.residual == "recompute":
        tl.store(at(residual, t // CHUNK), state.c, mask=more)
    if counts is not None:
        tl.store(at(counts, t // CHUNK), tl.minimum(state.left, 255).to(tl.uint8), mask=more)
    return state


@triton.jit(do_not_specialize=["steps", "refractory"])
def forward_kernel(
    x: Series, spikes: Series, membrane_ptr, left_out_ptr, residual_ptr, counts_ptr,
    decay_ptr, threshold_ptr, gain_ptr, v_reset_ptr, v0_ptr, left_ptr,
    decay: tl.float64, threshold: tl.float64, gain: tl.float64, v_reset: tl.float64, floor: tl.float64,
    slope: tl.float64, steps, refractory, total: tl.int64, inner, period, POLICY: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Spikes, the state after the last step, and the residual."""
    DTYPE: tl.constexpr = membrane_ptr.dtype.element_ty
    here = block(total, steps, BLOCK)
    n = here.n
    neuron = load_neuron(decay_ptr, threshold_ptr, gain_ptr, v_reset_ptr, decay, threshold, gain, v_reset, floor,
                         refractory, n % period, here.mask, DTYPE)  # fmt: skip
    slopes, state = tl.full(n.shape, slope, DTYPE), load_state(v0_ptr, left_ptr, here, DTYPE)
    xs, out = rows(x, n, inner), rows(spikes, n, inner)
    residual = None if residual_ptr is None else Rows(residual_ptr + n, total)
    counts = None if counts_ptr is None else Rows(counts_ptr + n, total)
    t = 0
    while t + CHUNK <= steps:
        state = forward_chunk(xs, out, residual, counts, neuron, slopes, state, t, here, POLICY, False)
        t += CHUNK
    if t < steps:
        state = forward_chunk(xs, out, residual, counts, neuron, slopes, state, t, here, POLICY, True)
    store_if(membrane_ptr, here, state.c)
    store_if(left_out_ptr, here, state.left)


# Backward ------------------------------------------------------------------------------------------------------------


@triton.jit
def store_dx(dx, t, k, value, now):
    """Stores the gradient of step t + k where it is wanted."""
    if dx is not None:
        tl.store(at(dx, t) + k * dx.stride, value.to(dx.pointers.dtype.element_ty), mask=now)


@triton.jit
def backward_bits(g, dx, residual, neuron, peak, a, t, here, POLICY: tl.constexpr, TAIL: tl.constexpr):
    """Goes back through 16 steps by their bits; returns dL/dc before them."""
    gs = load_chunk(g, t, here, TAIL)
    word = tl.load(at(residual, t // CHUNK), mask=here.mask, other=0)
    for k in tl.static_range(CHUNK - 1, -1, -1):
        now = exists(here, t + k, TAIL)
        direct = peak * gs[k].to(a.dtype)
        if not POLICY.detach:
            direct -= peak * neuron.threshold * a
        z = tl.where(word & (1 << (2 * k)) != 0, direct, 0.0) + tl.where((word >> (2 * k + 1)) & 1 != 0, a, 0.0)
        store_dx(dx, t, k, neuron.gain * z, now)
        before = neuron.decay * z
        if TAIL:
            before = tl.where(now, before, a)
        a = before
    return a


@triton.jit
def replay(values, neuron, state, POLICY: tl.constexpr):
    """The membranes of 16 steps before their resets, from x or as they were kept, and a bit for each that rests."""
    us = ()
    rests = tl.zeros(state.c.shape, tl.int32)
    for k in tl.static_range(CHUNK):
        u = values[k]
        if POLICY.residual == "recompute":
            u = membrane(neuron, values[k], state, POLICY)
        us = us + (u,)
        rests |= (state.left > 0).to(tl.int32) << k
        state = after(neuron, u, state.left, POLICY)
    return us, rests


@triton.jit
def through_step(neuron, u, rests, g, a, sigma, POLICY: tl.constexpr):
    """dL/d(decay c + gain x), dL/d threshold and dL/d v_reset of one step, from dL/ds and dL/dc."""
    resets = is_reset(neuron, u, POLICY)
    dtheta, keep, dreset = -g * sigma, a, tl.zeros_like(a)
    if POLICY.reset == "zero":
        keep, dreset = tl.where(resets, 0.0, a), tl.where(resets, a, 0.0)
    if POLICY.reset == "subtract":
        dtheta -= tl.where(resets, a, 0.0)
    if not POLICY.detach:
        jump = a * (neuron.v_reset - u if POLICY.reset == "zero" else -neuron.threshold) * sigma
        keep += jump
        dtheta -= jump
    z = g * sigma + keep
    if POLICY.floor:
        z = tl.where(u <= neuron.floor, 0.0, z)
    if POLICY.rests:
        resting = rests != 0
        z, dtheta, dreset = tl.where(resting, 0.0, z), tl.where(resting, 0.0, dtheta), tl.where(resting, 0.0, dreset)
    return z, dtheta, dreset


@triton.jit
def add_to_sums(sums, decay, threshold, gain, v_reset, now, LEARNS: tl.constexpr):
    """The sums with one step, if there is one; what nobody wants stays zero."""
    return Sums(
        sums.decay + tl.where(now, decay, 0.0) if LEARNS.decay else sums.decay,
        sums.threshold + tl.where(now, threshold, 0.0) if LEARNS.threshold else sums.threshold,
        sums.gain + tl.where(now, gain, 0.0) if LEARNS.gain else sums.gain,
        sums.v_reset + tl.where(now, v_reset, 0.0) if LEARNS.v_reset else sums.v_reset,
    )


@triton.jit
def before_chunk(residual, counts, neuron, first, t, here, POLICY: tl.constexpr):
    """The state before a chunk, from what was kept; ``first`` is that before the first step."""
    left = first.left
    if POLICY.residual == "recompute":
        c = load_row(residual, t // CHUNK - 1, first.c, t, here)
    else:
        u = load_row(residual, t - 1, first.c, t, here)
        c = tl.where(tl.where(here.mask, t, 0) > 0, carried(neuron, u, POLICY), first.c)
    if POLICY.rests:
        left = load_row(counts, t // CHUNK - 1, first.left, t, here)
    return State(c, left)


@triton.jit
def backward_replay(g, x, dx, residual, counts, table, neuron, shape, first, a, sums, t, here,
                    POLICY: tl.constexpr, LEARNS: tl.constexpr):  # fmt: skip
    """Goes back through 16 steps by replaying them; returns dL/dc before them and the sums with them."""
    gs = load_chunk(g, t, here, True)
    xs = gs
    if x is not None:
        xs = load_chunk(x, t, here, True)
    us = xs
    if POLICY.residual == "membrane":
        us = load_chunk(residual, t, here, True)
    state = before_chunk(residual, counts, neuron, first, t, here, POLICY)
    us, rests = replay(us, neuron, state, POLICY)
    for k in tl.static_range(CHUNK - 1, -1, -1):
        now = t + k < here.steps
        sigma = surrogate(us[k] - neuron.threshold, shape, table, POLICY)
        z, dtheta, dreset = through_step(neuron, us[k], rests & (1 << k), gs[k].to(a.dtype), a, sigma, POLICY)
        store_dx(dx, t, k, neuron.gain * z, now)
        before = state.c if k == 0 else carried(neuron, us[k - 1], POLICY)
        sums = add_to_sums(sums, z * before, dtheta, z * xs[k].to(z.dtype), dreset, now, LEARNS)
        a = tl.where(now, neuron.decay * z, a)
    return a, sums


@triton.jit(do_not_specialize=["steps", "refractory"])
def backward_kernel(
    g: Series, x: Series, dx: Series, da_ptr, residual_ptr, counts_ptr,
    decay_ptr, threshold_ptr, gain_ptr, v_reset_ptr, v0_ptr, left_ptr, table_ptr,
    dv0_ptr, ddecay_ptr, dthreshold_ptr, dgain_ptr, dv_reset_ptr,
    decay: tl.float64, threshold: tl.float64, gain: tl.float64, v_reset: tl.float64, floor: tl.float64,
    peak: tl.float64, slope: tl.float64, low: tl.float64, per_unit: tl.float64, last, steps, refractory,
    total: tl.int64, inner, period, POLICY: tl.constexpr, LEARNS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Gradients of the input, of the state before the first step, and of the parameters of each neuron."""
    DTYPE: tl.constexpr = da_ptr.dtype.element_ty
    here = block(total, steps, BLOCK)
    n = here.n
    neuron = load_neuron(decay_ptr, threshold_ptr, gain_ptr, v_reset_ptr, decay, threshold, gain, v_reset, floor,
                         refractory, n % period, here.mask, DTYPE)  # fmt: skip
    shape, first = load_shape(peak, slope, low, per_unit, last, n, DTYPE), load_state(v0_ptr, left_ptr, here, DTYPE)
    gs, residual = rows(g, n, inner), Rows(residual_ptr + n, total)
    xs = None if x.pointer is None else rows(x, n, inner)
    dxs = None if dx.pointer is None else rows(dx, n, inner)
    counts = None if counts_ptr is None else Rows(counts_ptr + n, total)
    a = tl.load(da_ptr + n, mask=here.mask, other=0)
    sums = Sums(tl.zeros_like(a), tl.zeros_like(a), tl.zeros_like(a), tl.zeros_like(a))
    if POLICY.residual == "bits":
        t = steps // CHUNK * CHUNK
        if t < steps:
            a = backward_bits(gs, dxs, residual, neuron, shape.peak, a, t, here, POLICY, True)
        while t > 0:
            t -= CHUNK
            a = backward_bits(gs, dxs, residual, neuron, shape.peak, a, t, here, POLICY, False)
    else:
        t = (steps - 1) // CHUNK * CHUNK
        while t >= 0:
            a, sums = backward_replay(gs, xs, dxs, residual, counts, table_ptr, neuron, shape, first, a, sums, t, here,
                                      POLICY, LEARNS)  # fmt: skip
            t -= CHUNK
    store_if(dv0_ptr, here, a)
    store_if(ddecay_ptr, here, sums.decay)
    store_if(dthreshold_ptr, here, sums.threshold)
    store_if(dgain_ptr, here, sums.gain)
    store_if(dv_reset_ptr, here, sums.v_reset)


# Forward mode --------------------------------------------------------------------------------------------------------


@triton.jit
def tangent_of_reset(neuron, u, du, dthreshold, dv_reset, ds, POLICY: tl.constexpr):
    """The tangent of the membrane after the reset."""
    dc, resets = du, is_reset(neuron, u, POLICY)
    if POLICY.reset == "zero":
        dc = tl.where(resets, dv_reset, du)
    if POLICY.reset == "subtract":
        dc = tl.where(resets, du - dthreshold, du)
    if not POLICY.detach:
        if POLICY.reset == "zero":
            dc += ds * (neuron.v_reset - u)
        else:
            dc += ds * -neuron.threshold
    return dc


@triton.jit(do_not_specialize=["steps", "refractory"])
def tangent_kernel(
    x: Series, dx: Series, ds: Series, dmembrane_ptr, dv0_ptr, ddecay_ptr, dthreshold_ptr, dgain_ptr, dv_reset_ptr,
    decay_ptr, threshold_ptr, gain_ptr, v_reset_ptr, v0_ptr, left_ptr, table_ptr,
    decay: tl.float64, threshold: tl.float64, gain: tl.float64, v_reset: tl.float64, floor: tl.float64,
    peak: tl.float64, slope: tl.float64, low: tl.float64, per_unit: tl.float64, last, steps, refractory,
    total: tl.int64, inner, period, POLICY: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Tangents of the spikes and of the carried membrane, forward in time."""
    DTYPE: tl.constexpr = dmembrane_ptr.dtype.element_ty
    here = block(total, steps, BLOCK)
    n, mask = here.n, here.mask
    neuron = load_neuron(decay_ptr, threshold_ptr, gain_ptr, v_reset_ptr, decay, threshold, gain, v_reset, floor,
                         refractory, n % period, mask, DTYPE)  # fmt: skip
    moved = load_neuron(ddecay_ptr, dthreshold_ptr, dgain_ptr, dv_reset_ptr, 0.0, 0.0, 0.0, 0.0, 0.0, 0, n % period,
                        mask, DTYPE)  # fmt: skip
    shape, state = load_shape(peak, slope, low, per_unit, last, n, DTYPE), load_state(v0_ptr, left_ptr, here, DTYPE)
    dc = load_or(dv0_ptr, 0.0, n, mask, DTYPE)
    xs, out = rows(x, n, inner), rows(ds, n, inner)
    dxs = None if dx.pointer is None else rows(dx, n, inner)
    t = 0
    while t < steps:
        x_t = tl.load(at(xs, t), mask=mask, other=0).to(DTYPE)
        u, resting = membrane(neuron, x_t, state, POLICY), state.left > 0
        du = moved.decay * state.c + neuron.decay * dc + moved.gain * x_t
        if dxs is not None:
            du += neuron.gain * tl.load(at(dxs, t), mask=mask, other=0).to(DTYPE)
        du = tl.where(is_dead(neuron, u, resting, POLICY), 0.0, du)
        dthreshold = tl.where(resting, 0.0, moved.threshold)
        sigma = surrogate(u - neuron.threshold, shape, table_ptr, POLICY)
        s = sigma * tl.where(resting, 0.0, du - dthreshold)
        tl.store(at(out, t), s.to(ds.pointer.dtype.element_ty), mask=mask)
        dc = tangent_of_reset(neuron, u, du, dthreshold, tl.where(resting, 0.0, moved.v_reset), s, POLICY)
        state = after(neuron, u, state.left, POLICY)
        t += 1
    store_if(dmembrane_ptr, here, dc)
