# mypy: disable-error-code="no-untyped-def"
"""The Triton kernels of LIF; `neurokernels.ops.lif.triton` launches them.

A program owns a block of neurons and walks through time with their state in registers. Time is cut into chunks of 16
steps, the span of one word of residual bits and of one checkpoint. A chunk first loads all that it needs, so that 16
independent reads are in flight where a plain loop would wait for memory in every step, and then runs its steps on tuples
of registers, which static ranges index. The replay of a backward pass is the same: its 16 membranes live in registers.
Whole chunks know that all of their steps exist; a last, shorter one is the same code with ``TAIL`` set.

Bytes per (t, neuron), with e bytes per element of x: forward 2 e + 0.25 (bits), 2 e + 0.25 (recompute: a checkpoint of 4
bytes every 16 steps) or 2 e + 4 (membrane); backward 2 e + 0.25, 3 e + 0.25 or 2 e + 4.

The names beside those of `triton_step`: ``a`` is dL/dc, ``z`` dL/du.
"""

from typing import NamedTuple

import triton
import triton.language as tl

from neurokernels._core.triton import Series
from neurokernels.ops.lif.triton_step import (
    CHUNK, Neuron, at, block, carried, countdown, exists, is_dead, is_reset, load_chunk, load_kept, load_neuron, load_or,
    load_shape, membrane, store_if, surrogate,
)  # fmt: skip


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
    if POLICY.shape == "boxcar":
        takes = live & (tl.abs(slope * (u - neuron.threshold)) < 1)
    if POLICY.reset == "zero":
        keeps = live & ~is_reset(neuron, u, POLICY)
    return takes.to(tl.int32) | (keeps.to(tl.int32) << 1)


@triton.jit
def forward_chunk(x, spikes, residual, counts, neuron, slope, c, left, t, steps, mask, x_time, spikes_time, total,
                  refractory, POLICY: tl.constexpr, TAIL: tl.constexpr):  # fmt: skip
    """Runs 16 steps from t on; returns the state after them."""
    xs = load_chunk(x, x_time, t, steps, mask, TAIL)
    spikes_time = tl.cast(spikes_time, tl.int64)
    spikes += t * spikes_time
    one, zero = tl.full(mask.shape, 1.0, spikes.dtype.element_ty), tl.full(mask.shape, 0.0, spikes.dtype.element_ty)
    word = tl.zeros(mask.shape, tl.int32)
    for k in tl.static_range(CHUNK):
        now = exists(t + k, steps, mask, TAIL)
        u = membrane(neuron, xs[k], c, left, POLICY)
        tl.store(spikes + k * spikes_time, tl.where(u >= neuron.threshold, one, zero), mask=now)
        if POLICY.residual == "membrane":
            tl.store(residual + (t + k) * total, u, mask=now)
        if POLICY.residual == "bits":
            found = bits(neuron, u, left > 0, slope, POLICY)
            if TAIL:
                found = tl.where(now, found, 0)
            word |= found << (2 * k)
        after, remaining = carried(neuron, u, POLICY), countdown(neuron, u, left, refractory, POLICY)
        if TAIL:
            after, remaining = tl.where(now, after, c), tl.where(now, remaining, left)
        c, left = after, remaining
    row = t // CHUNK * total
    if POLICY.residual == "bits":
        tl.store(residual + row, word, mask=mask)
    if POLICY.residual == "recompute":
        tl.store(residual + row, c, mask=t + CHUNK < steps)
    if counts is not None:
        tl.store(counts + row, tl.minimum(left, 255).to(tl.uint8), mask=t + CHUNK < steps)
    return c, left


@triton.jit(do_not_specialize=["steps", "refractory"])
def forward_kernel(
    x: Series, spikes: Series, membrane_ptr, left_out_ptr, residual_ptr, counts_ptr,
    decay_ptr, threshold_ptr, gain_ptr, v_reset_ptr, v0_ptr, left_ptr,
    decay: tl.float64, threshold: tl.float64, gain: tl.float64, v_reset: tl.float64, floor: tl.float64, slope: tl.float64,
    steps, refractory, total: tl.int64, inner, period,
    POLICY: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Spikes, the state after the last step, and the residual."""
    STATE: tl.constexpr = membrane_ptr.dtype.element_ty
    n, mask = block(total, BLOCK)
    neuron = load_neuron(decay_ptr, threshold_ptr, gain_ptr, v_reset_ptr, decay, threshold, gain, v_reset, floor,
                         n % period, mask, STATE)  # fmt: skip
    slope = tl.full(n.shape, slope, STATE)
    c, left = load_or(v0_ptr, 0.0, n, mask, STATE), load_or(left_ptr, 0, n, mask, tl.int32)
    residual = None if residual_ptr is None else residual_ptr + n
    counts = None if counts_ptr is None else counts_ptr + n
    xs, out, own = at(x, n, inner), at(spikes, n, inner), tl.where(mask, steps, 0)
    t = 0
    while t + CHUNK <= steps:
        c, left = forward_chunk(xs, out, residual, counts, neuron, slope, c, left, t, own, mask, x.time, spikes.time,
                                total, refractory, POLICY, False)  # fmt: skip
        t += CHUNK
    if t < steps:
        c, left = forward_chunk(xs, out, residual, counts, neuron, slope, c, left, t, own, mask, x.time, spikes.time,
                                total, refractory, POLICY, True)  # fmt: skip
    tl.store(membrane_ptr + n, c, mask=mask)
    store_if(left_out_ptr, n, left, mask)


# Backward ------------------------------------------------------------------------------------------------------------


@triton.jit
def backward_bits(g, dx, residual, neuron, peak, a, t, steps, mask, g_time, dx_time, total, POLICY: tl.constexpr,
                  TAIL: tl.constexpr):  # fmt: skip
    """Goes back through 16 steps by their bits; returns dL/dc before them."""
    gs = load_chunk(g, g_time, t, steps, mask, TAIL)
    word = tl.load(residual + t // CHUNK * total, mask=mask, other=0)
    dx_time = tl.cast(dx_time, tl.int64)
    if dx is not None:
        dx += t * dx_time
    for k in tl.static_range(CHUNK - 1, -1, -1):
        now = exists(t + k, steps, mask, TAIL)
        direct = peak * gs[k].to(a.dtype)
        if not POLICY.detach:
            direct -= peak * neuron.threshold * a
        z = tl.where((word >> (2 * k)) & 1 != 0, direct, 0.0) + tl.where((word >> (2 * k + 1)) & 1 != 0, a, 0.0)
        if dx is not None:
            tl.store(dx + k * dx_time, (neuron.gain * z).to(dx.dtype.element_ty), mask=now)
        before = neuron.decay * z
        if TAIL:
            before = tl.where(now, before, a)
        a = before
    return a


@triton.jit
def replay(values, neuron, c, left, refractory, POLICY: tl.constexpr):
    """The membranes of 16 steps before their resets, from x or as they were kept, and a bit for each that rests."""
    us = ()
    rests = tl.zeros(c.shape, tl.int32)
    for k in tl.static_range(CHUNK):
        if POLICY.residual == "membrane":
            u = values[k]
        else:
            u = membrane(neuron, values[k], c, left, POLICY)
            c = carried(neuron, u, POLICY)
        us = us + (u,)
        if POLICY.rests:
            rests |= (left > 0).to(tl.int32) << k
            left = countdown(neuron, u, left, refractory, POLICY)
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
def backward_replay(g, x, dx, residual, counts, table, neuron, shape, first, first_left, a, sums, t, steps, mask, g_time,
                    x_time, dx_time, total, refractory, POLICY: tl.constexpr, LEARNS: tl.constexpr):  # fmt: skip
    """Goes back through 16 steps by replaying them; returns dL/dc before them and the sums with them."""
    gs = load_chunk(g, g_time, t, steps, mask, True)
    xs, c, left = gs, first, first_left
    if x is not None:
        xs = load_chunk(x, x_time, t, steps, mask, True)
    if POLICY.residual == "recompute":
        values, c = xs, load_kept(residual, t // CHUNK - 1, total, first, t, mask)
    else:
        values = load_chunk(residual, total, t, steps, mask, True)
        if LEARNS.decay:
            later = tl.where(mask, t, 0) > 0
            c = tl.where(later, carried(neuron, load_kept(residual, t - 1, total, first, t, mask), POLICY), first)
    if POLICY.rests:
        left = load_kept(counts, t // CHUNK - 1, total, first_left, t, mask)
    us, rests = replay(values, neuron, c, left, refractory, POLICY)
    dx_time = tl.cast(dx_time, tl.int64)
    if dx is not None:
        dx += t * dx_time
    for k in tl.static_range(CHUNK - 1, -1, -1):
        now = t + k < steps
        sigma = surrogate(us[k] - neuron.threshold, shape, table, POLICY.shape)
        z, dtheta, dreset = through_step(neuron, us[k], rests & (1 << k), gs[k].to(a.dtype), a, sigma, POLICY)
        if dx is not None:
            tl.store(dx + k * dx_time, (neuron.gain * z).to(dx.dtype.element_ty), mask=now)
        before = c if k == 0 else carried(neuron, us[k - 1], POLICY)
        sums = add_to_sums(sums, z * before, dtheta, z * xs[k].to(z.dtype), dreset, now, LEARNS)
        a = tl.where(now, neuron.decay * z, a)
    return a, sums


@triton.jit(do_not_specialize=["steps", "refractory"])
def backward_kernel(
    g: Series, x: Series, dx: Series, da_ptr, residual_ptr, counts_ptr,
    decay_ptr, threshold_ptr, gain_ptr, v_reset_ptr, v0_ptr, left_ptr, table_ptr,
    dv0_ptr, ddecay_ptr, dthreshold_ptr, dgain_ptr, dv_reset_ptr,
    decay: tl.float64, threshold: tl.float64, gain: tl.float64, v_reset: tl.float64, floor: tl.float64,
    peak: tl.float64, slope: tl.float64, low: tl.float64, per_unit: tl.float64,
    last, steps, refractory, total: tl.int64, inner, period,
    POLICY: tl.constexpr, LEARNS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Gradients of the input, of the state before the first step, and of the parameters of each neuron."""
    STATE: tl.constexpr = da_ptr.dtype.element_ty
    n, mask = block(total, BLOCK)
    neuron = load_neuron(decay_ptr, threshold_ptr, gain_ptr, v_reset_ptr, decay, threshold, gain, v_reset, floor,
                         n % period, mask, STATE)  # fmt: skip
    shape = load_shape(peak, slope, low, per_unit, last, n, STATE)
    first, first_left = load_or(v0_ptr, 0.0, n, mask, STATE), load_or(left_ptr, 0, n, mask, tl.int32)
    a = tl.load(da_ptr + n, mask=mask, other=0)
    sums = Sums(tl.zeros_like(a), tl.zeros_like(a), tl.zeros_like(a), tl.zeros_like(a))
    gs, own, residual = at(g, n, inner), tl.where(mask, steps, 0), residual_ptr + n
    xs = None if x.pointer is None else at(x, n, inner)
    dxs = None if dx.pointer is None else at(dx, n, inner)
    counts = None if counts_ptr is None else counts_ptr + n
    t = steps // CHUNK * CHUNK
    if POLICY.residual == "bits":
        if t < steps:
            a = backward_bits(gs, dxs, residual, neuron, shape.peak, a, t, own, mask, g.time, dx.time, total, POLICY, True)
        while t > 0:
            t -= CHUNK
            a = backward_bits(gs, dxs, residual, neuron, shape.peak, a, t, own, mask, g.time, dx.time, total, POLICY, False)
    else:
        t = (steps - 1) // CHUNK * CHUNK
        while t >= 0:
            a, sums = backward_replay(gs, xs, dxs, residual, counts, table_ptr, neuron, shape, first, first_left, a, sums,
                                      t, own, mask, g.time, x.time, dx.time, total, refractory, POLICY, LEARNS)
            t -= CHUNK
    store_if(dv0_ptr, n, a, mask)
    store_if(ddecay_ptr, n, sums.decay, mask)
    store_if(dthreshold_ptr, n, sums.threshold, mask)
    store_if(dgain_ptr, n, sums.gain, mask)
    store_if(dv_reset_ptr, n, sums.v_reset, mask)


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
    peak: tl.float64, slope: tl.float64, low: tl.float64, per_unit: tl.float64,
    last, steps, refractory, total: tl.int64, inner, period,
    POLICY: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Tangents of the spikes and of the carried membrane, forward in time."""
    STATE: tl.constexpr = dmembrane_ptr.dtype.element_ty
    n, mask = block(total, BLOCK)
    p = n % period
    neuron = load_neuron(decay_ptr, threshold_ptr, gain_ptr, v_reset_ptr, decay, threshold, gain, v_reset, floor, p, mask,
                         STATE)  # fmt: skip
    moved = load_neuron(ddecay_ptr, dthreshold_ptr, dgain_ptr, dv_reset_ptr, 0.0, 0.0, 0.0, 0.0, 0.0, p, mask, STATE)
    shape = load_shape(peak, slope, low, per_unit, last, n, STATE)
    c, left = load_or(v0_ptr, 0.0, n, mask, STATE), load_or(left_ptr, 0, n, mask, tl.int32)
    dc = load_or(dv0_ptr, 0.0, n, mask, STATE)
    xs, out = at(x, n, inner), at(ds, n, inner)
    dxs = None if dx.pointer is None else at(dx, n, inner)
    t = 0
    while t < steps:
        x_t = tl.load(xs + t * tl.cast(x.time, tl.int64), mask=mask, other=0).to(STATE)
        u, resting = membrane(neuron, x_t, c, left, POLICY), left > 0
        du = moved.decay * c + neuron.decay * dc + moved.gain * x_t
        if dxs is not None:
            du += neuron.gain * tl.load(dxs + t * tl.cast(dx.time, tl.int64), mask=mask, other=0).to(STATE)
        du = tl.where(is_dead(neuron, u, resting, POLICY), 0.0, du)
        dthreshold = tl.where(resting, 0.0, moved.threshold)
        sigma = surrogate(u - neuron.threshold, shape, table_ptr, POLICY.shape)
        s = sigma * tl.where(resting, 0.0, du - dthreshold)
        tl.store(out + t * tl.cast(ds.time, tl.int64), s.to(ds.pointer.dtype.element_ty), mask=mask)
        dc = tangent_of_reset(neuron, u, du, dthreshold, tl.where(resting, 0.0, moved.v_reset), s, POLICY)
        c, left = carried(neuron, u, POLICY), countdown(neuron, u, left, refractory, POLICY)
        t += 1
    tl.store(dmembrane_ptr + n, dc, mask=mask)
