# mypy: disable-error-code="no-untyped-def, assignment"
"""Triton kernels of dissimilarity matrices: tiles of the upper triangle, and the gradient by blocks of patterns.

Prepared patterns ``a`` and ``b`` are dense ``[B, N, M]``. Sums run in one order, without atomics: results are the same in
every run. Indices are 64 bits wide where a matrix of pairs is indexed.
"""

import triton
import triton.language as tl

from neurokernels._core.covariance_triton_kernels import place, upper_tile


@triton.jit
def rows_of(x, b, rows, columns, n, m):
    """A block of patterns, zero outside; ``rows`` and ``columns`` broadcast."""
    return tl.load(x + (b * n + rows) * m + columns, mask=(rows < n) & (columns < m), other=0)


@triton.jit
def pair_of(i, j, n):
    """Where pair (i, j) stands among all pairs i < j, for two different patterns in any order."""
    low, high = tl.minimum(i, j).to(tl.int64), tl.maximum(i, j).to(tl.int64)
    return low * (2 * n - low - 1) // 2 + high - low - 1


@triton.jit
def distance_kernel(
    a, b, sizes, out, n, m, blocks, tiles, scale: tl.float64, near: tl.float64, ROOT: tl.constexpr, REFINE: tl.constexpr,
    SQUARE: tl.constexpr, PRECISION: tl.constexpr, TILE: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """``scale * (h_i + h_j - a_i b_j)`` of one tile, h being half of ``a_i b_i``; by differences where a pair is close."""
    DTYPE: tl.constexpr = out.dtype.element_ty
    p, item = place(blocks)
    down, across = upper_tile(p, tiles)
    lane, depth = tl.arange(0, TILE), tl.arange(0, DEPTH)
    i, j = (down * TILE + lane)[:, None], (across * TILE + lane)[None, :]
    product = tl.zeros([TILE, TILE], DTYPE)
    for start in range(0, m, DEPTH):
        left = rows_of(a, item, i, (start + depth)[None, :], n, m)
        right = rows_of(b, item, j, (start + depth)[:, None], n, m)
        product = tl.dot(left, right, product, input_precision=PRECISION, out_dtype=DTYPE)
    pairs = (i < j) & (j < n)
    size = tl.load(sizes + item * n + i, mask=i < n, other=0) + tl.load(sizes + item * n + j, mask=j < n, other=0)
    value = size - product
    if REFINE:
        close = pairs & (value <= size * tl.full([1, 1], near, DTYPE))
        if tl.max(close.to(tl.int32)) > 0:
            direct = tl.zeros([TILE, TILE], DTYPE)
            for start in range(m):
                k = start + tl.zeros([1, 1], tl.int32)
                one = rows_of(a, item, i, k, n, m) - rows_of(a, item, j, k, n, m)
                other = rows_of(b, item, i, k, n, m) - rows_of(b, item, j, k, n, m)
                direct += one * other
            value = tl.where(close, direct * 0.5, value)
    value *= tl.full([1, 1], scale, DTYPE)
    if ROOT:
        value = tl.sqrt(value)
    if SQUARE:
        tl.store(out + (item * n + i) * n + j, value, mask=pairs)
        tl.store(out + (item * n + j) * n + i, value, mask=pairs)
        tl.store(out + (item * n + i) * n + j, tl.zeros([TILE, TILE], DTYPE), mask=(i == j) & (j < n))
    else:
        count = n.to(tl.int64) * (n - 1) // 2
        tl.store(out + item * count + pair_of(i, j, n), value, mask=pairs)


@triton.jit
def load_weights(g, distances, item, i, j, n, ROOT: tl.constexpr, SQUARE: tl.constexpr):
    """The gradients of pairs (i, j), divided by their distances if those are roots; 0 for i = j and outside."""
    there = (i < n) & (j < n) & (i != j)
    if SQUARE:
        at = (item * n + i) * n + j
        w = tl.load(g + at, mask=there, other=0) + tl.load(g + (item * n + j) * n + i, mask=there, other=0)
    else:
        at = item * (n.to(tl.int64) * (n - 1) // 2) + pair_of(i, j, n)
        w = tl.load(g + at, mask=there, other=0)
    d = w
    if ROOT:
        d = tl.load(distances + at, mask=there, other=0)
        w = tl.where(d == 0, 0.0, w / tl.where(d == 0, 1.0, d))
    return w, d


@triton.jit
def gradient_kernel(
    y, g, distances, sizes, out, n, m, blocks, near: tl.float64, ROOT: tl.constexpr, SQUARE: tl.constexpr,
    PRECISION: tl.constexpr, ROWS: tl.constexpr, OTHERS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """``sum_j w_ij (y_i - y_j)`` of a block of patterns and channels; by differences where a pair is close and w large."""
    DTYPE: tl.constexpr = out.dtype.element_ty
    block, item = place(blocks)
    i = (block * ROWS + tl.arange(0, ROWS))[:, None]
    columns = (tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS))[None, :]
    mine = rows_of(y, item, i, columns, n, m)
    total, weight = tl.zeros([ROWS, COLUMNS], DTYPE), tl.zeros([ROWS], DTYPE)
    for start in range(0, n, OTHERS):
        j = start + tl.arange(0, OTHERS)
        w, d = load_weights(g, distances, item, i, j[None, :], n, ROOT, SQUARE)
        if ROOT:
            size = tl.load(sizes + item * n + i, mask=i < n, other=0)
            size += tl.load(sizes + item * n + j[None, :], mask=j[None, :] < n, other=0)
            close = d * d <= size * tl.full([1, 1], 2 * near, DTYPE)  # sizes are halves of squares
            if tl.max((close & (w != 0)).to(tl.int32)) > 0:
                for other in range(start, tl.minimum(start + OTHERS, n)):
                    k = other + tl.zeros([1, 1], tl.int32)
                    one, apart = load_weights(g, distances, item, i, k, n, ROOT, SQUARE)
                    both = tl.load(sizes + item * n + i, mask=i < n, other=0) + tl.load(sizes + item * n + k)
                    one = tl.where(apart * apart <= both * tl.full([1, 1], 2 * near, DTYPE), one, 0)
                    total += one * (mine - rows_of(y, item, k, columns, n, m))
            w = tl.where(close, 0, w)
        weight += tl.sum(w, 1)
        others = rows_of(y, item, j[:, None], columns, n, m)
        total -= tl.dot(w, others, input_precision=PRECISION, out_dtype=DTYPE)
    total += weight[:, None] * mine
    tl.store(out + (item * n + i) * m + columns, total, mask=(i < n) & (columns < m))
