# mypy: disable-error-code="no-untyped-def, assignment"
"""Two small views in one program: from samples to the objective and the weights of its gradient, in float64.

A program takes one item. It reads the samples once, relative to the first of them, whose distance from the mean is then
taken off the covariances: in float64 that costs no digit of float32 samples, and a constant column is 0 exactly.

A factor T with T S T' = I comes from elimination without square roots, in place: what a step clears below the diagonal
makes room for T. Padding is a unit of variance 1 that covaries with nothing, on which every step leaves things as they
are. The polar factor W of M takes the seven steps of `triton_schedule`, which bring singular values from 1e-3 on to 1
and magnify smaller ones 3600 times. A program can look at what it has: if A = W' W is not idempotent to 1e-7, the seven
run once more. So W is the partial isometry of singular values above 1e-7, and those below 1e-8 count as zero.

Everything is float64: on tensor cores of data centres it takes the time of float32, and the latency of small products
is the same everywhere.
"""

import triton
import triton.language as tl

from neurokernels._core.covariance_triton_kernels import Samples, load
from neurokernels.ops.cca.triton_schedule import POLAR_EXPRESS

_LINEAR, _CUBIC, _QUINTIC = (tl.constexpr(column) for column in zip(*POLAR_EXPRESS, strict=True))
_STEPS = tl.constexpr(len(POLAR_EXPRESS))
_PASSES = tl.constexpr(2)


@triton.jit
def dot(a, b):
    """A product of float64 tiles."""
    return tl.dot(a, b, input_precision="ieee", out_dtype=tl.float64)


@triton.jit
def relative(x: Samples, b, rows, columns, n, d):
    """Samples minus the first one, zero outside."""
    first = load(x, b, tl.zeros([1], tl.int32)[:, None], columns[None, :], n, d, tl.float64)
    return tl.where(rows < n, load(x, b, rows, columns[None, :], n, d, tl.float64) - first, 0)


@triton.jit
def moments(x: Samples, y: Samples, b, n, d1, d2, ROWS: tl.constexpr, SIZE: tl.constexpr):
    """Means relative to the first sample, and the three blocks of the covariance."""
    lane = tl.arange(0, SIZE)
    sx, sy = tl.zeros([SIZE], tl.float64), tl.zeros([SIZE], tl.float64)
    s11 = tl.zeros([SIZE, SIZE], tl.float64)
    s12, s22 = s11, s11
    for start in range(0, n, ROWS):
        rows = start + tl.arange(0, ROWS)[:, None]
        xs, ys = relative(x, b, rows, lane, n, d1), relative(y, b, rows, lane, n, d2)
        sx += tl.sum(xs, 0)
        sy += tl.sum(ys, 0)
        s11 += dot(tl.trans(xs), xs)
        s12 += dot(tl.trans(xs), ys)
        s22 += dot(tl.trans(ys), ys)
    mx, my = sx / n, sy / n
    s11 = (s11 - sx[:, None] * mx[None, :]) / (n - 1)
    s12 = (s12 - sx[:, None] * my[None, :]) / (n - 1)
    s22 = (s22 - sy[:, None] * my[None, :]) / (n - 1)
    return mx, my, s11, s12, s22


@triton.jit
def regularised(s, r, d, SIZE: tl.constexpr):
    """``s + r I``, and the identity in the padding."""
    lane = tl.arange(0, SIZE)
    on = lane[:, None] == lane[None, :]
    return tl.where(on, tl.where(lane[None, :] < d, s + r, 1), s)


@triton.jit
def inverse_factors(s1, s2, d, SIZE: tl.constexpr):
    """T1 and T2, lower triangular, of two matrices: two chains of dependent steps at once.

    What step j clears below the diagonal makes room for the inverse of the unit factor; the pivots stay on it.
    """
    lane = tl.arange(0, SIZE)
    i, k = lane[:, None], lane[None, :]
    for j in range(d):
        row1, row2 = tl.sum(tl.where(i == j, s1, 0), 0), tl.sum(tl.where(i == j, s2, 0), 0)
        column1, column2 = tl.sum(tl.where(k == j, s1, 0), 1), tl.sum(tl.where(k == j, s2, 0), 1)
        pivot1, pivot2 = tl.sum(tl.where(lane == j, row1, 0), 0), tl.sum(tl.where(lane == j, row2, 0), 0)
        below1, below2 = tl.where(lane > j, column1 / pivot1, 0), tl.where(lane > j, column2 / pivot2, 0)
        row1, row2 = tl.where(lane == j, 1, row1), tl.where(lane == j, 1, row2)
        cleared = (k == j) & (i > j)
        s1 = tl.where(cleared, 0, s1) - below1[:, None] * row1[None, :]
        s2 = tl.where(cleared, 0, s2) - below2[:, None] * row2[None, :]
    pivots1, pivots2 = tl.sum(tl.where(i == k, s1, 0), 1), tl.sum(tl.where(i == k, s2, 0), 1)
    t1 = tl.where(i > k, s1, tl.where(i == k, 1, 0)) / tl.sqrt(pivots1)[:, None]
    t2 = tl.where(i > k, s2, tl.where(i == k, 1, 0)) / tl.sqrt(pivots2)[:, None]
    return t1, t2


@triton.jit
def polar_factor(m, SIZE: tl.constexpr):
    """The partial isometry W of M = W H. Small M, of units far below the regulariser, is brought to norm 1 first."""
    lane = tl.arange(0, 8)  # the coefficients of a step are picked from lanes, so that the loop need not be unrolled
    linear, cubic, quintic = tl.zeros([8], tl.float64), tl.zeros([8], tl.float64), tl.zeros([8], tl.float64)
    for s in tl.static_range(_STEPS):
        linear = tl.where(lane == s, tl.full([], _LINEAR[s], tl.float64), linear)
        cubic = tl.where(lane == s, tl.full([], _CUBIC[s], tl.float64), cubic)
        quintic = tl.where(lane == s, tl.full([], _QUINTIC[s], tl.float64), quintic)
    norm = tl.sqrt(tl.sum(tl.sum(m * m, 1), 0))
    w = m / tl.where((norm > 0) & (norm < 1), norm, 1)
    a = tl.zeros([SIZE, SIZE], tl.float64)
    b, residual, done = a, tl.full([], 1, tl.float64), 0
    while (residual > 1e-7) & (done < _PASSES):
        for step in range(_STEPS):
            here = lane == step
            a = tl.dot(tl.trans(w), w, input_precision="ieee", out_dtype=tl.float64)
            b = tl.dot(a, a, input_precision="ieee", out_dtype=tl.float64)
            b = tl.sum(tl.where(here, cubic, 0), 0) * a + tl.sum(tl.where(here, quintic, 0), 0) * b
            b = tl.dot(w, b, input_precision="ieee", out_dtype=tl.float64)
            w = tl.sum(tl.where(here, linear, 0), 0) * w + b
        a = dot(tl.trans(w), w)
        b = dot(a, a)
        residual = tl.sqrt(tl.sum(tl.sum((a - b) * (a - b), 1), 0))  # NaN ends it too
        done += 1
    return dot(w, 2.5 * a - 1.5 * b)


@triton.jit
def load_block(a, first_row, first_column, d1, d2, size, SIZE: tl.constexpr):
    """A block of a matrix of ``size`` columns, zero outside."""
    lane = tl.arange(0, SIZE)
    i, k = lane[:, None], lane[None, :]
    return tl.load(a + (first_row + i) * size + first_column + k, mask=(i < d1) & (k < d2), other=0)


@triton.jit
def store_block(out, tile, scale, first_row, first_column, d1, d2, size, SIZE: tl.constexpr):
    """``tile * scale`` as a block of a matrix of ``size`` columns."""
    lane = tl.arange(0, SIZE)
    i, k = lane[:, None], lane[None, :]
    places = (first_row + i) * size + first_column + k
    tl.store(out + places, (tile * scale).to(out.dtype.element_ty), mask=(i < d1) & (k < d2))


@triton.jit
def store_symmetric(out, tile, scale, first, d, size, SIZE: tl.constexpr):
    """``tile * scale`` as a block on the diagonal: its upper triangle, twice."""
    lane = tl.arange(0, SIZE)
    i, k = lane[:, None], lane[None, :]
    values = (tile * scale).to(out.dtype.element_ty)
    above = (i <= k) & (k < d)
    tl.store(out + (first + i) * size + first + k, values, mask=above)
    tl.store(out + (first + k) * size + first + i, values, mask=above & (i < k))


@triton.jit
def store_mean(out, x: Samples, shift, b, d, SIZE: tl.constexpr):
    """The first sample plus the mean relative to it."""
    lane = tl.arange(0, SIZE)
    first = load(x, b, tl.zeros([1], tl.int32), lane, 1, d, tl.float64)
    tl.store(out + lane, (first + shift).to(out.dtype.element_ty), mask=lane < d)


@triton.jit
def small_kernel(
    x: Samples, y: Samples, covariance, value, weights, mean, n, d1, d2, r1: tl.float64, r2: tl.float64,
    NUCLEAR: tl.constexpr, ROWS: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    """All of the forward pass of one item: the objective, the mean, and the weights if there is room for them.

    Where there are many samples the joint covariance comes from elsewhere, in float64, and the mean with it.
    """
    b, size = tl.program_id(0).to(tl.int64), d1 + d2
    if covariance is None:
        mx, my, s11, s12, s22 = moments(x, y, b, n, d1, d2, ROWS, SIZE)
        store_mean(mean + b * size, x, mx, b, d1, SIZE)
        store_mean(mean + b * size + d1, y, my, b, d2, SIZE)
    else:
        joint = covariance + b * size * size
        s11 = load_block(joint, 0, 0, d1, d1, size, SIZE)
        s12 = load_block(joint, 0, d1, d1, d2, size, SIZE)
        s22 = load_block(joint, d1, d1, d2, d2, size, SIZE)
    s11, s22 = regularised(s11, r1, d1, SIZE), regularised(s22, r2, d2, SIZE)
    t1, t2 = inverse_factors(s11, s22, tl.maximum(d1, d2), SIZE)
    m = dot(dot(t1, s12), tl.trans(t2))
    if NUCLEAR:
        w = polar_factor(m, SIZE)
        total = tl.sum(tl.sum(w * m, 1), 0)
    else:
        w = 2 * m
        total = tl.sum(tl.sum(m * m, 1), 0)
    tl.store(value + b, total.to(value.dtype.element_ty))
    if weights is not None:
        out, scale = weights + b * size * size, tl.full([], 1, tl.float64) / (n - 1)
        left, right = dot(tl.trans(t1), w), dot(w, t2)
        across = dot(left, t2)
        store_block(out, across, scale, 0, d1, d1, d2, size, SIZE)
        store_block(out, tl.trans(across), scale, d1, 0, d2, d1, size, SIZE)
        store_symmetric(out, dot(dot(tl.trans(t1), m), tl.trans(left)), -scale, 0, d1, size, SIZE)
        store_symmetric(out, dot(tl.trans(right), dot(m, t2)), -scale, d1, d2, size, SIZE)
