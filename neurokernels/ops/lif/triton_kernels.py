# mypy: disable-error-code="no-untyped-def"
"""The LIF recurrence in Triton's language: what the launches in `neurokernels.ops.lif.triton` run.

A program owns a block of neurons and walks through time with their state in registers. Time is cut into chunks of 16
steps, the span of one word of residual bits and of one checkpoint. A chunk first loads all that it needs, so that 16
independent reads are in flight where a plain loop would wait for memory in every step, and then runs its steps on tuples
of registers, which static ranges index. The replay of a backward pass is the same: 16 membranes live in registers, never
in memory.

The names: ``n`` is a neuron's position in the flattened state, ``u`` the membrane before the reset, ``c`` after it, ``left``
the refractory steps still to come, and ``inside`` says whether a step of the last chunk exists. Steps beyond the last one are
computed and dropped by selects.

Scalars come as float64 and are rounded to the state's dtype here, exactly as PyTorch rounds a Python number. Kernels
must be launched with ``enable_fp_fusion=False``: one fused multiply-add in `integrate` flips spikes.
"""

import triton
import triton.language as tl

from neurokernels.ops.lif import rule

CHUNK = tl.constexpr(rule.CHUNK)


# Neurons and their series --------------------------------------------------------------------------------------------


@triton.jit
def neurons(total, period, inner, steps, BLOCK: tl.constexpr):
    """This program's neurons: which exist, the index of their parameters, their place as (outer, inner), their steps.

    A neuron beyond the last one has no steps, so that one comparison with time is the mask of every access.
    """
    n = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = n < total
    return n, mask, n % period, n // inner, n % inner, tl.where(mask, steps, 0)


@triton.jit
def load_or(pointer, number, index, mask, STATE: tl.constexpr, BLOCK: tl.constexpr):
    """A value per neuron, or the number that takes its place where there is no tensor."""
    if pointer is None:
        value = tl.full((BLOCK,), number, STATE)
    else:
        value = tl.load(pointer + index, mask=mask, other=0)
    return value


@triton.jit
def load_chunk(pointers, stride, t, steps):
    """The values of steps t to t + 15; zero beyond the last step."""
    values = ()
    for k in tl.static_range(CHUNK):
        values = values + (tl.load(pointers + (t + k) * stride, mask=t + k < steps, other=0),)
    return values


@triton.jit
def store_or_skip(pointer, index, value, mask):
    """Stores what was asked for."""
    if pointer is not None:
        tl.store(pointer + index, value, mask=mask)


# One step ------------------------------------------------------------------------------------------------------------


@triton.jit
def integrate(c, x, decay, gain, floor, FLOOR: tl.constexpr):
    """``max(decay c + gain x, floor)``, rounded after each product and after the sum; NaN passes the floor."""
    u = decay * c + gain * x.to(c.dtype)
    if FLOOR:
        u = tl.where(u <= floor, floor, u)
    return u


@triton.jit
def is_reset(u, threshold, ABOVE: tl.constexpr):
    """Whether a membrane resets."""
    if ABOVE:
        resets = u > threshold
    else:
        resets = u >= threshold
    return resets


@triton.jit
def carried(u, threshold, v_reset, RESET: tl.constexpr, ABOVE: tl.constexpr):
    """The membrane after the reset."""
    if RESET == "zero":
        c = tl.where(is_reset(u, threshold, ABOVE), v_reset, u)
    elif RESET == "subtract":
        c = tl.where(is_reset(u, threshold, ABOVE), u - threshold, u)
    else:
        c = u
    return c


@triton.jit
def countdown(left, fires, refractory):
    """The refractory steps still to come after a step."""
    return tl.where(fires, refractory, tl.maximum(left - 1, 0))


@triton.jit
def surrogate(y, peak, slope, low, per_unit, table, last, mask, SHAPE: tl.constexpr):
    """The surrogate's derivative at y; see `neurokernels.surrogate.derivative`."""
    z = tl.abs(slope * y)
    if SHAPE == "constant":
        sigma = peak
    elif SHAPE == "boxcar":
        sigma = tl.where(z < 1, peak, 0.0)
    elif SHAPE == "tent":
        sigma = peak * tl.where(z >= 1, 0.0, 1 - z)
    elif SHAPE == "lorentz":
        sigma = peak / (1 + z * z)
    elif SHAPE == "logistic":
        e = tl.exp(-z)
        sigma = peak * e / ((1 + e) * (1 + e))
    elif SHAPE == "superspike":
        sigma = peak / ((1 + z) * (1 + z))
    elif SHAPE == "gauss":
        sigma = peak * tl.exp(-z * z)
    elif SHAPE == "laplace":
        sigma = peak * tl.exp(-z)
    else:
        position = (y - low) * per_unit
        within = (position >= 0) & (position <= last)
        position = tl.where(within, position, 0.0)
        left = tl.minimum(position.to(tl.int32), last - 1)
        below = tl.load(table + left, mask=mask, other=0)
        above = tl.load(table + left + 1, mask=mask, other=0)
        sigma = tl.where(within, below + (position - left.to(y.dtype)) * (above - below), 0.0)
    return sigma


# Forward -------------------------------------------------------------------------------------------------------------


@triton.jit
def bits_of_step(u, threshold, floor, slope, resting, RESET: tl.constexpr, ABOVE: tl.constexpr, FLOOR: tl.constexpr,
                 BOXCAR: tl.constexpr):  # fmt: skip
    """The residual bits of a step: bit 0 where dL/ds reaches u, bit 1 where dL/dc does."""
    dead = resting
    if FLOOR:
        dead = dead | (u <= floor)
    takes, keeps = ~dead, ~dead
    if BOXCAR:
        takes = takes & (tl.abs(slope * (u - threshold)) < 1)
    if RESET == "zero":
        keeps = keeps & ~is_reset(u, threshold, ABOVE)
    return takes.to(tl.int32) | (keeps.to(tl.int32) << 1)


@triton.jit(do_not_specialize=["steps", "refractory"])
def forward_kernel(
    x_ptr, spikes_ptr, membrane_ptr, countdown_ptr, residual_ptr, counts_ptr,
    decay_ptr, threshold_ptr, gain_ptr, v_reset_ptr, v0_ptr, left_ptr,
    decay: tl.float64, threshold: tl.float64, gain: tl.float64, v_reset: tl.float64, floor: tl.float64, slope: tl.float64,
    steps, refractory, total: tl.int64, period, inner,
    x_time: tl.int64, x_outer: tl.int64, x_inner,
    spikes_time: tl.int64, spikes_outer: tl.int64, spikes_inner,
    RESET: tl.constexpr, ABOVE: tl.constexpr, FLOOR: tl.constexpr, RESTS: tl.constexpr, BOXCAR: tl.constexpr,
    RESIDUAL: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Spikes, the carried membrane and the residual of a block of neurons."""
    last = steps
    STATE: tl.constexpr = membrane_ptr.dtype.element_ty
    n, mask, p, o, i, steps = neurons(total, period, inner, steps, BLOCK)
    decay = load_or(decay_ptr, decay, p, mask, STATE, BLOCK)
    threshold = load_or(threshold_ptr, threshold, p, mask, STATE, BLOCK)
    gain = load_or(gain_ptr, gain, p, mask, STATE, BLOCK)
    v_reset = load_or(v_reset_ptr, v_reset, p, mask, STATE, BLOCK)
    floor, slope = tl.full((BLOCK,), floor, STATE), tl.full((BLOCK,), slope, STATE)
    c = load_or(v0_ptr, 0.0, n, mask, STATE, BLOCK)
    left = load_or(left_ptr, 0, n, mask, tl.int32, BLOCK)
    xs_ptr = x_ptr + o * x_outer + i * x_inner
    out_ptr = spikes_ptr + o * spikes_outer + i * spikes_inner
    t = 0
    while t < last:
        xs = load_chunk(xs_ptr, x_time, t, steps)
        word = tl.zeros((BLOCK,), tl.int32)
        for k in tl.static_range(CHUNK):
            inside = t + k < steps
            u = integrate(c, xs[k], decay, gain, floor, FLOOR)
            resting = left > 0
            if RESTS:
                u = tl.where(resting, v_reset, u)
            fires = u >= threshold
            spike = tl.where(fires, 1.0, 0.0).to(spikes_ptr.dtype.element_ty)
            tl.store(out_ptr + (t + k) * spikes_time, spike, mask=inside)
            if RESIDUAL == "membrane":
                tl.store(residual_ptr + (t + k) * total + n, u, mask=inside)
            if RESIDUAL == "bits":
                bits = bits_of_step(u, threshold, floor, slope, resting, RESET, ABOVE, FLOOR, BOXCAR)
                word |= tl.where(inside, bits, 0) << (2 * k)
            c = tl.where(inside, carried(u, threshold, v_reset, RESET, ABOVE), c)
            if RESTS:
                left = tl.where(inside, countdown(left, fires, refractory), left)
        row = (t // CHUNK) * total + n
        t += CHUNK
        if RESIDUAL == "bits":
            tl.store(residual_ptr + row, word, mask=mask)
        if RESIDUAL == "recompute":
            tl.store(residual_ptr + row, c, mask=t < steps)
        if counts_ptr is not None:
            tl.store(counts_ptr + row, tl.minimum(left, 255).to(tl.uint8), mask=t < steps)
    tl.store(membrane_ptr + n, c, mask=mask)
    store_or_skip(countdown_ptr, n, left, mask)
