# mypy: disable-error-code="no-untyped-def"
"""The Triton kernels of the leaky integrator; `neurokernels.ops.lif.triton` launches them.

They are built like those of `triton_kernels`: a program per block of neurons, chunks of 16 steps whose reads are all in
flight at once. The trace is its own residual, so nothing is replayed.

Bytes per (t, neuron), with e bytes per element of x: forward e + 4; backward 4 + e, and 4 more with a floor or for the
gradient of the decay, and e more for the gradient of the gain.
"""

from typing import NamedTuple

import triton
import triton.language as tl

from neurokernels._core.triton import Series
from neurokernels.ops.lif.triton_step import CHUNK, at, block, exists, load_chunk, load_or, rows, store_if


class Leak(NamedTuple):
    """The parameters of a block of integrators."""

    decay: tl.tensor
    gain: tl.tensor
    floor: tl.tensor


@triton.jit
def load_leak(decay_ptr, gain_ptr, decay, gain, floor, p, mask, DTYPE: tl.constexpr):
    """The parameters at index p."""
    decay, gain = load_or(decay_ptr, decay, p, mask, DTYPE), load_or(gain_ptr, gain, p, mask, DTYPE)
    return Leak(decay, gain, tl.full(p.shape, floor, DTYPE))


@triton.jit
def forward_chunk(x, trace, leak, c, t, here, FLOOR: tl.constexpr, TAIL: tl.constexpr):
    """Runs 16 steps from t on; returns the membrane after them, which is of no use after a tail."""
    xs = load_chunk(x, t, here, TAIL)
    for k in tl.static_range(CHUNK):
        c = leak.decay * c + leak.gain * xs[k].to(c.dtype)
        if FLOOR:
            c = tl.where(c <= leak.floor, leak.floor, c)
        tl.store(at(trace, t) + k * trace.stride, c, mask=exists(here, t + k, TAIL))
    return c


@triton.jit(do_not_specialize=["steps"])
def leaky_forward_kernel(
    x: Series, trace: Series, decay_ptr, gain_ptr, v0_ptr, decay: tl.float64, gain: tl.float64, floor: tl.float64,
    steps, total: tl.int64, inner, period, FLOOR: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The membrane after every step."""
    DTYPE: tl.constexpr = trace.pointer.dtype.element_ty
    here = block(total, steps, BLOCK)
    leak = load_leak(decay_ptr, gain_ptr, decay, gain, floor, here.n % period, here.mask, DTYPE)
    c = load_or(v0_ptr, 0.0, here.n, here.mask, DTYPE)
    xs, out = rows(x, here.n, inner), rows(trace, here.n, inner)
    t = 0
    while t + CHUNK <= steps:
        c = forward_chunk(xs, out, leak, c, t, here, FLOOR, False)
        t += CHUNK
    if t < steps:
        forward_chunk(xs, out, leak, c, t, here, FLOOR, True)


@triton.jit
def backward_chunk(g, x, trace, dx, leak, first, a, ddecay, dgain, t, here, FLOOR: tl.constexpr, DECAY: tl.constexpr,
                   TAIL: tl.constexpr):  # fmt: skip
    """Goes back through 16 steps; returns dL/dc before them and the sums with them."""
    gs = load_chunk(g, t, here, TAIL)
    cs, xs, before = gs, gs, first
    if trace is not None:
        cs = load_chunk(trace, t, here, TAIL)
    if x is not None:
        xs = load_chunk(x, t, here, TAIL)
    if DECAY:
        later = tl.where(here.mask, t, 0) > 0
        before = tl.where(later, tl.load(at(trace, t - 1), mask=later, other=0), first)
    for k in tl.static_range(CHUNK - 1, -1, -1):
        now = exists(here, t + k, TAIL)
        z = gs[k] + a
        if FLOOR:
            z = tl.where(cs[k] <= leak.floor, 0.0, z)
        if dx is not None:
            tl.store(at(dx, t) + k * dx.stride, (leak.gain * z).to(dx.pointers.dtype.element_ty), mask=now)
        earlier = leak.decay * z
        to_decay = z * (before if k == 0 else cs[k - 1])
        if TAIL:
            earlier, to_decay = tl.where(now, earlier, a), tl.where(now, to_decay, 0.0)
        if DECAY:
            ddecay += to_decay
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
    DTYPE: tl.constexpr = g.pointer.dtype.element_ty
    DECAY: tl.constexpr = ddecay_ptr is not None
    here = block(total, steps, BLOCK)
    n = here.n
    leak = load_leak(decay_ptr, gain_ptr, decay, gain, floor, n % period, here.mask, DTYPE)
    first, gs = load_or(v0_ptr, 0.0, n, here.mask, DTYPE), rows(g, n, inner)
    xs = None if x.pointer is None else rows(x, n, inner)
    cs = None if trace.pointer is None else rows(trace, n, inner)
    dxs = None if dx.pointer is None else rows(dx, n, inner)
    a, ddecay, dgain = tl.zeros_like(first), tl.zeros_like(first), tl.zeros_like(first)
    t = steps // CHUNK * CHUNK
    if t < steps:
        a, ddecay, dgain = backward_chunk(gs, xs, cs, dxs, leak, first, a, ddecay, dgain, t, here, FLOOR, DECAY, True)
    while t > 0:
        t -= CHUNK
        a, ddecay, dgain = backward_chunk(gs, xs, cs, dxs, leak, first, a, ddecay, dgain, t, here, FLOOR, DECAY, False)
    store_if(dv0_ptr, here, a)
    store_if(ddecay_ptr, here, ddecay)
    store_if(dgain_ptr, here, dgain)


@triton.jit(do_not_specialize=["steps"])
def leaky_tangent_kernel(
    x: Series, dx: Series, trace: Series, tangent: Series, decay_ptr, gain_ptr, ddecay_ptr, dgain_ptr, v0_ptr, dv0_ptr,
    decay: tl.float64, gain: tl.float64, floor: tl.float64,
    steps, total: tl.int64, inner, period, FLOOR: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The tangent of the membrane after every step."""
    DTYPE: tl.constexpr = trace.pointer.dtype.element_ty
    here = block(total, steps, BLOCK)
    n, mask = here.n, here.mask
    leak = load_leak(decay_ptr, gain_ptr, decay, gain, floor, n % period, mask, DTYPE)
    moved = load_leak(ddecay_ptr, dgain_ptr, 0.0, 0.0, 0.0, n % period, mask, DTYPE)
    before, dc = load_or(v0_ptr, 0.0, n, mask, DTYPE), load_or(dv0_ptr, 0.0, n, mask, DTYPE)
    xs, cs, out = rows(x, n, inner), rows(trace, n, inner), rows(tangent, n, inner)
    dxs = None if dx.pointer is None else rows(dx, n, inner)
    t = 0
    while t < steps:
        dc = leak.decay * dc + moved.decay * before
        if dxs is not None:
            dc += leak.gain * tl.load(at(dxs, t), mask=mask, other=0).to(DTYPE)
        if dgain_ptr is not None:
            dc += moved.gain * tl.load(at(xs, t), mask=mask, other=0).to(DTYPE)
        before = tl.load(at(cs, t), mask=mask, other=0)
        if FLOOR:
            dc = tl.where(before <= leak.floor, 0.0, dc)
        tl.store(at(out, t), dc, mask=mask)
        t += 1
