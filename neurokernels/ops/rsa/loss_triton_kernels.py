# mypy: disable-error-code="no-untyped-def, assignment"
"""Tiles of pairs of images: similarities, loss and derivative in registers, and what they add to gradients."""

import triton
import triton.language as tl

from neurokernels._core.covariance_triton_kernels import place


@triton.jit
def rows_of(f, b, rows, units, n, d):
    """A block of ``f[B, n, d]``, zero outside."""
    places = (b * n + rows)[:, None] * d + units[None, :]
    return tl.load(f + places, mask=(rows < n)[:, None] & (units < d)[None, :], other=0)


@triton.jit
def products(f, b, rows, columns, n, d, PRECISION: tl.constexpr, TILE: tl.constexpr, INNER: tl.constexpr):
    """The products of two blocks of patterns."""
    DTYPE: tl.constexpr = f.dtype.element_ty
    total = tl.zeros([TILE, TILE], DTYPE)
    for start in range(0, d, INNER):
        units = start + tl.arange(0, INNER)
        left, right = rows_of(f, b, rows, units, n, d), rows_of(f, b, columns, units, n, d)
        total = tl.dot(left, tl.trans(right), total, input_precision=PRECISION, out_dtype=DTYPE)
    return total


@triton.jit
def within(s):
    """A similarity without what rounding put beyond 1; NaN stays."""
    s = tl.where(s > 1, 1, s)
    return tl.where(s < -1, -1, s)


@triton.jit
def pairs_kernel(
    f, target, work, partial, n, d, m, item, row, first, blocks, across, eps: tl.float64, weight: tl.float64,
    KIND: tl.constexpr, FLIPPED: tl.constexpr, GRADIENT: tl.constexpr, PRECISION: tl.constexpr, TILE: tl.constexpr,
    INNER: tl.constexpr,
):  # fmt: skip
    """A tile of a strip that begins at tile ``first`` of the diagonal: its loss, and the derivative by similarities.

    ``work[B, strip, n - first TILE]`` gets the derivative, zero up to the diagonal; ``partial[B, blocks]`` the loss.
    """
    DTYPE: tl.constexpr = f.dtype.element_ty
    p, b = place(blocks)
    i, j = p // across, p % across
    if j < i:
        tl.store(partial + b * blocks + p, tl.zeros([], DTYPE))
    else:
        lane = tl.arange(0, TILE).to(tl.int64)
        rows, columns = (first + i) * TILE + lane, (first + j) * TILE + lane
        s = within(products(f, b, rows, columns, n, d, PRECISION, TILE, INNER))
        pairs = (rows[:, None] < columns[None, :]) & (columns < n)[None, :]
        if KIND == "features":
            t = within(products(target, b, rows, columns, n, m, PRECISION, TILE, INNER))
        else:
            places = rows * row if KIND == "square" else rows * n - rows * (rows + 1) // 2 - rows - 1
            t = tl.load(target + b * item + places[:, None] + columns[None, :], mask=pairs, other=0)
        if FLIPPED:
            t = 1 - t
        e = tl.full([1, 1], eps, DTYPE)
        up, down = (1 + s) + e, (1 - s) + e
        gap = tl.log(up * ((1 - t) + e) / (down * ((1 + t) + e)))
        w = tl.full([1, 1], weight, DTYPE)
        gap = tl.where(pairs, gap, 0)
        tl.store(partial + b * blocks + p, tl.sum(tl.sum(w * gap * gap, 1), 0))
        if GRADIENT:
            slope = w * gap * (4 * (1 + e)) / (up * down)
            width = across * TILE
            strip = blocks // across * TILE
            places = (b * strip + i * TILE + lane)[:, None] * width + (j * TILE + lane)[None, :]
            tl.store(work + places, slope)


@triton.jit
def gradient_kernel(
    f, work, df, n, d, first, tiles, across, ADD: tl.constexpr, PRECISION: tl.constexpr, TILE: tl.constexpr,
    COLUMNS: tl.constexpr, INNER: tl.constexpr,
):  # fmt: skip
    """Adds to the gradient of a block of images what a strip of ``tiles`` has for it, always in the same order.

    A block within the strip has its row of tiles from the diagonal on; every block has its column of them, transposed.
    """
    DTYPE: tl.constexpr = f.dtype.element_ty
    r, b = place(across)
    units = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    lane = tl.arange(0, TILE).to(tl.int64)
    rows, width, base = (first + r) * TILE + lane, across * TILE, b * tiles * TILE
    places = (b * n + rows)[:, None] * d + units[None, :]
    here = (rows < n)[:, None] & (units < d)[None, :]
    total = tl.zeros([TILE, COLUMNS], DTYPE)
    for start in range(0, tl.minimum(r + 1, tiles) * TILE, INNER):
        q = start + tl.arange(0, INNER).to(tl.int64)
        part = tl.load(work + (base + q)[:, None] * width + (r * TILE + lane)[None, :])
        other = rows_of(f, b, first * TILE + q, units, n, d)
        total = tl.dot(tl.trans(part), other, total, input_precision=PRECISION, out_dtype=DTYPE)
    if r < tiles:
        for start in range(r * TILE, width, INNER):
            q = start + tl.arange(0, INNER).to(tl.int64)
            part = tl.load(work + (base + r * TILE + lane)[:, None] * width + q[None, :])
            other = rows_of(f, b, first * TILE + q, units, n, d)
            total = tl.dot(part, other, total, input_precision=PRECISION, out_dtype=DTYPE)
    if ADD:
        total += tl.load(df + places, mask=here, other=0)
    tl.store(df + places, total, mask=here)
