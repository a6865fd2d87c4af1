# mypy: disable-error-code="no-untyped-def, assignment"
"""What the Triton kernels of LIF share: how they read memory, and one step of a neuron.

The names: ``n`` is a neuron's place in the flattened state, ``p`` that of its parameters, ``u`` the membrane before the
reset, ``c`` after it, ``left`` the refractory steps still to come, ``sigma`` the surrogate's derivative.

Numbers come as float64 and are rounded to the state's dtype here, as PyTorch rounds a Python number. Kernels must be
launched with ``enable_fp_fusion=False``: one fused multiply-add in `membrane` flips spikes.
"""

from typing import NamedTuple

import triton
import triton.language as tl

from neurokernels.ops.lif import rule

CHUNK = tl.constexpr(rule.CHUNK)


class Policy(NamedTuple):
    """The discrete options of a rule, compiled into a kernel."""

    reset: str
    above: bool
    floor: bool
    rests: bool
    detach: bool
    surrogate: str
    residual: str


class Block(NamedTuple):
    """The neurons of a program, which of them exist, and how many steps each one has: none if it does not exist."""

    n: tl.tensor
    mask: tl.tensor
    steps: tl.tensor


class Rows(NamedTuple):
    """Pointers to the first step of each neuron, and the stride to the next step, 64 bits wide."""

    pointers: tl.tensor
    stride: tl.tensor


class Neuron(NamedTuple):
    """The parameters of a block of neurons, in the state's dtype."""

    decay: tl.tensor
    threshold: tl.tensor
    gain: tl.tensor
    v_reset: tl.tensor
    floor: tl.tensor
    refractory: tl.tensor


class State(NamedTuple):
    """The carried membrane and the refractory countdown of a block of neurons."""

    c: tl.tensor
    left: tl.tensor


class Shape(NamedTuple):
    """The numbers of a surrogate; see `neurokernels.surrogate.Surrogate`."""

    peak: tl.tensor
    slope: tl.tensor
    low: tl.tensor
    per_unit: tl.tensor
    last: tl.tensor


# Memory --------------------------------------------------------------------------------------------------------------


@triton.jit
def block(total, steps, BLOCK: tl.constexpr):
    """The neurons of this program."""
    n = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = n < total
    return Block(n, mask, tl.where(mask, steps, 0))


@triton.jit
def rows(series, n, inner):
    """The rows of a `Series`."""
    if inner is None:
        pointers = series.pointer + n * series.inner
    else:
        pointers = series.pointer + (n // inner) * series.outer + (n % inner) * series.inner
    return Rows(pointers, tl.cast(series.time, tl.int64))


@triton.jit
def at(rows, t):
    """Pointers to step t."""
    return rows.pointers + t * rows.stride


@triton.jit
def exists(here, t, TAIL: tl.constexpr):
    """Which neurons have a step t. Without ``TAIL`` every neuron that exists has it."""
    if TAIL:
        mask = t < here.steps
    else:
        mask = here.mask
    return mask


@triton.jit
def load_chunk(rows, t, here, TAIL: tl.constexpr):
    """The values of 16 steps from t on; zero beyond the last step."""
    pointers = at(rows, t)
    values = ()
    for k in tl.static_range(CHUNK):
        values = values + (tl.load(pointers + k * rows.stride, mask=exists(here, t + k, TAIL), other=0),)
    return values


@triton.jit
def load_or(pointer, number, index, mask, DTYPE: tl.constexpr):
    """A value per neuron, or the number that stands for it."""
    if pointer is None:
        value = tl.full(index.shape, number, DTYPE)
    else:
        value = tl.load(pointer + index, mask=mask, other=0)
    return value


@triton.jit
def load_row(rows, row, first, t, here):
    """A row of what the forward pass kept, or what it started from if the chunk at t is the first."""
    later = tl.where(here.mask, t, 0) > 0
    return tl.where(later, tl.load(at(rows, row), mask=later, other=0).to(first.dtype), first)


@triton.jit
def store_if(pointer, here, value):
    """Stores one value per neuron where it was asked for."""
    if pointer is not None:
        tl.store(pointer + here.n, value, mask=here.mask)


@triton.jit
def load_neuron(decay_ptr, threshold_ptr, gain_ptr, v_reset_ptr, decay, threshold, gain, v_reset, floor, refractory,
                p, mask, DTYPE: tl.constexpr):  # fmt: skip
    """The parameters of a block of neurons."""
    return Neuron(
        load_or(decay_ptr, decay, p, mask, DTYPE),
        load_or(threshold_ptr, threshold, p, mask, DTYPE),
        load_or(gain_ptr, gain, p, mask, DTYPE),
        load_or(v_reset_ptr, v_reset, p, mask, DTYPE),
        tl.full(p.shape, floor, DTYPE),
        tl.full(p.shape, refractory, tl.int32),
    )


@triton.jit
def load_state(v0_ptr, left_ptr, here, DTYPE: tl.constexpr):
    """The state before the first step."""
    return State(
        load_or(v0_ptr, 0.0, here.n, here.mask, DTYPE),
        load_or(left_ptr, 0, here.n, here.mask, tl.int32),
    )


@triton.jit
def load_shape(peak, slope, low, per_unit, last, n, DTYPE: tl.constexpr):
    """The numbers of the surrogate."""
    return Shape(
        tl.full(n.shape, peak, DTYPE),
        tl.full(n.shape, slope, DTYPE),
        tl.full(n.shape, low, DTYPE),
        tl.full(n.shape, per_unit, DTYPE),
        tl.full(n.shape, last, tl.int32),
    )


# One step ------------------------------------------------------------------------------------------------------------


@triton.jit
def membrane(neuron, x, state, POLICY: tl.constexpr):
    """The membrane before the reset: a rounding after each product and after the sum. NaN passes the floor."""
    u = neuron.decay * state.c + neuron.gain * x.to(state.c.dtype)
    if POLICY.floor:
        u = tl.where(u <= neuron.floor, neuron.floor, u)
    if POLICY.rests:
        u = tl.where(state.left > 0, neuron.v_reset, u)
    return u


@triton.jit
def is_reset(neuron, u, POLICY: tl.constexpr):
    """Whether a membrane resets."""
    if POLICY.above:
        resets = u > neuron.threshold
    else:
        resets = u >= neuron.threshold
    return resets


@triton.jit
def carried(neuron, u, POLICY: tl.constexpr):
    """The membrane after the reset."""
    c = u
    if POLICY.reset == "zero":
        c = tl.where(is_reset(neuron, u, POLICY), neuron.v_reset, u)
    if POLICY.reset == "subtract":
        c = tl.where(is_reset(neuron, u, POLICY), u - neuron.threshold, u)
    return c


@triton.jit
def after(neuron, u, left, POLICY: tl.constexpr):
    """The state after a step."""
    if POLICY.rests:
        left = tl.where(u >= neuron.threshold, neuron.refractory, tl.maximum(left - 1, 0))
    return State(carried(neuron, u, POLICY), left)


@triton.jit
def is_dead(neuron, u, resting, POLICY: tl.constexpr):
    """Whether the floor or the refractory period cuts a membrane off from what came before."""
    if POLICY.floor:
        resting = resting | (u <= neuron.floor)
    return resting


@triton.jit
def surrogate(y, shape, table, POLICY: tl.constexpr):
    """The surrogate's derivative at y = u - threshold; see `neurokernels.surrogate.derivative`."""
    z = tl.abs(shape.slope * y)
    sigma = shape.peak
    if POLICY.surrogate == "boxcar":
        sigma = tl.where(z < 1, sigma, 0.0)
    if POLICY.surrogate == "tent":
        sigma = sigma * tl.where(z >= 1, 0.0, 1 - z)
    if POLICY.surrogate == "lorentz":
        sigma = sigma / (1 + z * z)
    if POLICY.surrogate == "logistic":
        e = tl.exp(-z)
        sigma = sigma * e / ((1 + e) * (1 + e))
    if POLICY.surrogate == "superspike":
        sigma = sigma / ((1 + z) * (1 + z))
    if POLICY.surrogate == "gauss":
        sigma = sigma * tl.exp(-z * z)
    if POLICY.surrogate == "laplace":
        sigma = sigma * tl.exp(-z)
    if POLICY.surrogate == "table":
        sigma = interpolated(y, shape, table)
    return sigma


@triton.jit
def interpolated(y, shape, table):
    """The table between its two samples next to y, zero outside."""
    position = (y - shape.low) * shape.per_unit
    within = (position >= 0) & (position <= shape.last.to(y.dtype))
    position = tl.where(within, position, 0.0)
    index = tl.minimum(position.to(tl.int32), shape.last - 1)
    below, above = tl.load(table + index), tl.load(table + index + 1)
    return tl.where(within, below + (position - index.to(y.dtype)) * (above - below), 0.0)
