# mypy: disable-error-code="no-untyped-def, assignment"
"""Triton kernels of dissimilarity matrices: tiles of the upper triangle, and the gradient by blocks of patterns.

Prepared patterns ``a`` and ``b`` are dense ``[B, N, M]``. Sums run in one order, without atomics: results are the same
in every run. Close pairs have kernels of their own: within those of the products they would take all registers.
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
def load_sizes(sizes, item, i, n):
    """Half of the products of patterns with themselves."""
    return tl.load(sizes + item * n + i, mask=i < n, other=0)


@triton.jit
def store_pairs(out, value, pairs, item, i, j, n, SQUARE: tl.constexpr):
    """A tile of pairs, on both sides of the diagonal of a square matrix."""
    if SQUARE:
        tl.store(out + (item * n + i) * n + j, value, mask=pairs)
        tl.store(out + (item * n + j) * n + i, value, mask=pairs)
    else:
        tl.store(out + item * (n.to(tl.int64) * (n - 1) // 2) + pair_of(i, j, n), value, mask=pairs)


@triton.jit
def distance_kernel(
    a, b, sizes, out, n, m, blocks, tiles, scale: tl.float64, ROOT: tl.constexpr, SQUARE: tl.constexpr,
    PRECISION: tl.constexpr, TILE: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """``scale * (h_i + h_j - a_i b_j)`` of one tile, h being half of ``a_i b_i``, or its root."""
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
    value = (load_sizes(sizes, item, i, n) + load_sizes(sizes, item, j, n) - product) * tl.full([1, 1], scale, DTYPE)
    if ROOT:
        value = tl.sqrt(tl.where(value < 0, 0, value))  # what rounding makes negative is close, and taken again
    store_pairs(out, value, (i < j) & (j < n), item, i, j, n, SQUARE)
    if SQUARE:
        tl.store(out + (item * n + i) * n + j, tl.zeros([TILE, TILE], DTYPE), mask=(i == j) & (j < n))


@triton.jit
def refine_kernel(
    a, b, sizes, out, n, m, blocks, tiles, scale: tl.float64, direct: tl.float64, near: tl.float64, ROOT: tl.constexpr,
    SQUARE: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Pairs of a tile that lie close together again, by the differences of their patterns: here not less the mean."""
    DTYPE: tl.constexpr = out.dtype.element_ty
    p, item = place(blocks)
    down, across = upper_tile(p, tiles)
    lane = tl.arange(0, TILE)
    i, j = (down * TILE + lane)[:, None], (across * TILE + lane)[None, :]
    pairs = (i < j) & (j < n)
    if SQUARE:
        value = tl.load(out + (item * n + i) * n + j, mask=pairs, other=0)
    else:
        value = tl.load(out + item * (n.to(tl.int64) * (n - 1) // 2) + pair_of(i, j, n), mask=pairs, other=0)
    if ROOT:
        value *= value
    share = tl.full([1, 1], near * scale, DTYPE)
    close = pairs & (value <= (load_sizes(sizes, item, i, n) + load_sizes(sizes, item, j, n)) * share)
    if tl.max(tl.max(close.to(tl.int32), 1), 0) > 0:
        total = tl.zeros([TILE, TILE], DTYPE)
        for start in range(m):
            k = start + tl.zeros([1, 1], tl.int32)
            one = rows_of(a, item, i, k, n, m) - rows_of(a, item, j, k, n, m)
            other = rows_of(b, item, i, k, n, m) - rows_of(b, item, j, k, n, m)
            total += one * other
        total *= tl.full([1, 1], direct, DTYPE)
        if ROOT:
            total = tl.sqrt(total)
        store_pairs(out, total, close, item, i, j, n, SQUARE)


@triton.jit
def load_weights(g, distances, sizes, item, i, j, n, near: tl.float64, ROOT: tl.constexpr, SQUARE: tl.constexpr):
    """The gradients of pairs (i, j), 0 for i = j and outside; divided by their distances if those are roots.

    Also whether a pair is close, which makes a difference where there are roots.
    """
    there = (i < n) & (j < n) & (i != j)
    if SQUARE:
        at = (item * n + i) * n + j
        w = tl.load(g + at, mask=there, other=0) + tl.load(g + (item * n + j) * n + i, mask=there, other=0)
    else:
        at = item * (n.to(tl.int64) * (n - 1) // 2) + pair_of(i, j, n)
        w = tl.load(g + at, mask=there, other=0)
    close = i == j
    if ROOT:
        d = tl.load(distances + at, mask=there, other=0)
        w = tl.where(d == 0, 0.0, w / tl.where(d == 0, 1.0, d))
        share = tl.full([1, 1], 2 * near, w.dtype)  # sizes are halves of squares
        close = d * d <= (load_sizes(sizes, item, i, n) + load_sizes(sizes, item, j, n)) * share
    return w, close


@triton.jit
def gradient_kernel(
    y, g, distances, sizes, out, n, m, blocks, near: tl.float64, ROOT: tl.constexpr, SQUARE: tl.constexpr,
    PRECISION: tl.constexpr, ROWS: tl.constexpr, OTHERS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """``sum_j w_ij (y_i - y_j)`` of a block of patterns and channels, but for close pairs, whose w is large."""
    DTYPE: tl.constexpr = out.dtype.element_ty
    block, item = place(blocks)
    i = (block * ROWS + tl.arange(0, ROWS))[:, None]
    columns = (tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS))[None, :]
    total, weight = tl.zeros([ROWS, COLUMNS], DTYPE), tl.zeros([ROWS], DTYPE)
    for start in range(0, n, OTHERS):
        j = start + tl.arange(0, OTHERS)
        w, close = load_weights(g, distances, sizes, item, i, j[None, :], n, near, ROOT, SQUARE)
        if ROOT:
            w = tl.where(close, 0, w)
        weight += tl.sum(w, 1)
        total = tl.dot(
            w, rows_of(y, item, j[:, None], columns, n, m), total, input_precision=PRECISION, out_dtype=DTYPE
        )
    total = weight[:, None] * rows_of(y, item, i, columns, n, m) - total
    tl.store(out + (item * n + i) * m + columns, total, mask=(i < n) & (columns < m))


@triton.jit
def close_gradient_kernel(
    y, g, distances, sizes, out, n, m, blocks, near: tl.float64, SQUARE: tl.constexpr, ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):  # fmt: skip
    """Adds ``w_ij (y_i - y_j)`` of the pairs that are close together; here y is not less the mean."""
    DTYPE: tl.constexpr = out.dtype.element_ty
    block, item = place(blocks)
    lane = tl.arange(0, ROWS)
    i = (block * ROWS + lane)[:, None]
    columns = (tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS))[None, :]
    there = (item * n + i) * m + columns
    mine, total = rows_of(y, item, i, columns, n, m), tl.zeros([ROWS, COLUMNS], DTYPE)
    for start in range(0, n, ROWS):
        w, close = load_weights(g, distances, sizes, item, i, (start + lane)[None, :], n, near, True, SQUARE)
        if tl.max(tl.max((close & (w != 0)).to(tl.int32), 1), 0) > 0:
            for other in range(start, tl.minimum(start + ROWS, n)):
                k = other + tl.zeros([1, 1], tl.int32)
                one, near_by = load_weights(g, distances, sizes, item, i, k, n, near, True, SQUARE)
                total += tl.where(near_by, one, 0) * (mine - rows_of(y, item, k, columns, n, m))
    mask = (i < n) & (columns < m)
    tl.store(out + there, tl.load(out + there, mask=mask, other=0) + total, mask=mask)
