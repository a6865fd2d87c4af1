# mypy: disable-error-code="no-untyped-def, assignment"
"""Products of large matrices that are more than that: half computed, added to another, centred as they load."""

import triton
import triton.language as tl

from neurokernels._core.covariance_triton_kernels import Samples, load_centred, place, store_mirrored, upper_tile


@triton.jit
def matrix_block(a, b, rows, columns, height, width):
    """A block of matrix b of ``a[B, height, width]``, zero outside; one matrix has fewer than 2^31 elements."""
    places = rows[:, None] * width + columns[None, :]
    here = (rows < height)[:, None] & (columns < width)[None, :]
    return tl.load(a + b * height * width + places, mask=here, other=0)


@triton.jit
def gram_kernel(
    f, other, out, k, d, blocks, tiles, alpha: tl.float64, beta: tl.float64,
    PRECISION: tl.constexpr, TILE: tl.constexpr, INNER: tl.constexpr,
):  # fmt: skip
    """``alpha F' F``, and ``beta`` times another symmetric matrix: tiles of the upper triangle, and their images.

    Of a symmetric F it is the square: both products of a polynomial in A = W' W are of this kind.
    """
    DTYPE: tl.constexpr = out.dtype.element_ty
    p, b = place(blocks)
    i, j = upper_tile(p, tiles)
    rows, columns = i * TILE + tl.arange(0, TILE), j * TILE + tl.arange(0, TILE)
    total = tl.zeros([TILE, TILE], DTYPE)
    for start in range(0, k, INNER):
        q = start + tl.arange(0, INNER)
        left, right = matrix_block(f, b, q, rows, k, d), matrix_block(f, b, q, columns, k, d)
        total = tl.dot(tl.trans(left), right, total, input_precision=PRECISION, out_dtype=DTYPE)
    total *= tl.full([1, 1], alpha, DTYPE)
    if other is not None:
        total += tl.full([1, 1], beta, DTYPE) * matrix_block(other, b, rows, columns, d, d)
    store_mirrored(out, total, rows[:, None], columns[None, :], b, d)


@triton.jit
def update_kernel(
    w, s, out, n, d, blocks, alpha: tl.float64, PRECISION: tl.constexpr, TILE: tl.constexpr, INNER: tl.constexpr
):  # fmt: skip
    """``alpha W + W S``."""
    DTYPE: tl.constexpr = out.dtype.element_ty
    block, b = place(blocks)
    rows, columns = block * TILE + tl.arange(0, TILE), tl.program_id(1) * TILE + tl.arange(0, TILE)
    total = tl.full([1, 1], alpha, DTYPE) * matrix_block(w, b, rows, columns, n, d)
    for start in range(0, d, INNER):
        q = start + tl.arange(0, INNER)
        left, right = matrix_block(w, b, rows, q, n, d), matrix_block(s, b, q, columns, d, d)
        total = tl.dot(left, right, total, input_precision=PRECISION, out_dtype=DTYPE)
    places = (b * n + rows)[:, None] * d + columns[None, :]
    tl.store(out + places, total, mask=(rows < n)[:, None] & (columns < d)[None, :])


@triton.jit
def left_over(x: Samples, mean, b, columns, n, d, ROWS: tl.constexpr):
    """The mean of samples minus their mean: a rounding, the same in every sample, which a product would magnify."""
    total = tl.zeros([ROWS, columns.shape[0]], mean.dtype.element_ty)
    for start in range(0, n, ROWS):
        rows = start + tl.arange(0, ROWS)[:, None]
        total += load_centred(x, mean, b, rows, columns[None, :], n, d, mean.dtype.element_ty)
    return tl.sum(total, 0) / n


@triton.jit
def add_product(
    total, x: Samples, mean, drift, weights, b, rows, columns, last, first, n, d, size,
    PRECISION: tl.constexpr, ROWS: tl.constexpr, INNER: tl.constexpr,
):  # fmt: skip
    """``total + (x - mean) weights[first : first + d, columns]``, for columns below ``last``."""
    DTYPE: tl.constexpr = mean.dtype.element_ty
    own = mean + b * (size - d) + first  # rows of d, as the samples have them, among rows of both views
    for start in range(0, d, INNER):
        q = start + tl.arange(0, INNER)
        left = load_centred(x, own, b, rows[:, None], q[None, :], n, d, DTYPE)
        if drift is None:
            left -= left_over(x, own, b, q, n, d, ROWS)[None, :]
        else:
            left -= tl.load(drift + b * size + first + q, mask=q < d, other=0)[None, :]
        places, here = (first + q)[:, None] * size + columns[None, :], (q < d)[:, None] & (columns < last)[None, :]
        right = tl.load(weights + b * size * size + places, mask=here, other=0)
        total = tl.dot(left, right, total, input_precision=PRECISION, out_dtype=DTYPE)
    return total


@triton.jit
def gradient_kernel(
    g, x: Samples, y: Samples, weights, mean, drift, dx, dy, n, d1, d2, blocks, across,
    PRECISION: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, INNER: tl.constexpr,
):  # fmt: skip
    """``g [Xc Yc] weights``, in the dtype of the views: the first ``across`` programs of a row make dx, the others dy.

    ``drift`` is what is left of the mean, or None where a program can afford to find out.
    """
    DTYPE: tl.constexpr = mean.dtype.element_ty
    block, b = place(blocks)
    strip, size = tl.program_id(1), d1 + d2
    own = strip < across
    first, last = tl.where(own, 0, d1), tl.where(own, d1, size)
    rows = block * ROWS + tl.arange(0, ROWS)
    columns = first + tl.where(own, strip, strip - across) * COLUMNS + tl.arange(0, COLUMNS)
    total = tl.zeros([ROWS, COLUMNS], DTYPE)
    total = add_product(
        total, x, mean, drift, weights, b, rows, columns, last, 0, n, d1, size, PRECISION, ROWS, INNER
    )  # fmt: skip
    total = add_product(
        total, y, mean, drift, weights, b, rows, columns, last, d1, n, d2, size, PRECISION, ROWS, INNER
    )  # fmt: skip
    total *= tl.load(g + b)
    width, here = last - first, (rows < n)[:, None] & (columns < last)[None, :]
    places = (b * n + rows)[:, None] * width + (columns - first)[None, :]
    if own:
        tl.store(dx + places, total.to(dx.dtype.element_ty), mask=here)
    else:
        tl.store(dy + places, total.to(dy.dtype.element_ty), mask=here)
