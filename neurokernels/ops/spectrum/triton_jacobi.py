# mypy: disable-error-code="no-untyped-def, assignment, misc, var-annotated"
"""A batched symmetric eigensolver in Triton: one-sided Jacobi in registers, values and vectors at once.

Hestenes' method rotates columns of W = A + s I, with a shift s that makes it positive semidefinite, until they are
orthogonal. Then W = V diag(lambda + s): the norms of the columns are the values, the normalised columns the vectors. No
rows are rotated, V is not accumulated, and a thread keeps its columns: only the partner of a column travels.

Column j meets column j ^ r in round r of a sweep: n - 1 rounds of n / 2 disjoint rotations for n a power of two, and an
exclusive or of lanes is one shuffle per element. Column j is held by lane j % 32, in register group j // 32. Below
n = 32 the lanes hold several matrices side by side: j ^ r stays within the aligned group of n lanes.

Each pair is also sorted, the longer column first (de Rijk 1989): without it clusters of eigenvalues converge linearly.
A matrix that is done is left alone while its neighbours go on, so they leave no trace in its result.

Numerics: W is scaled by a power of two; the cosine is formed as 1 - u, rounded once, because errors in
cos^2 + sin^2 = 1 add up in the norms. Pairs are turned above a cosine of eps, but only one above (1 + n / 16) eps asks
for another sweep: the last sweep brings all columns as close as rounding allows.

Sources: Hestenes 1958; Brent and Luk 1985 for parallel rounds; Veselic and Hari 1989 for one side of a definite matrix.
"""

from typing import NamedTuple

import triton
import triton.language as tl

LANES = tl.constexpr(32)


class Columns(NamedTuple):
    """Where the columns of a register group lie: in which matrix, where within it, and whether they exist."""

    matrix: tl.tensor
    j: tl.tensor
    exists: tl.tensor


class Scale(NamedTuple):
    """Powers of two to and from the scaled matrix."""

    down: tl.tensor
    up: tl.tensor


class Rotation(NamedTuple):
    """What becomes of a column: ``own * w + other * partner``, its squared norm, and whether to sweep again."""

    own: tl.tensor
    other: tl.tensor
    norm: tl.tensor
    far: tl.tensor


# Arithmetic that rounds correctly: float64 operators do, those of float32 only by name -------------------------------


@triton.jit
def root(x):
    """A square root."""
    if x.dtype == tl.float32:
        y = tl.sqrt_rn(x)
    else:
        y = tl.sqrt(x)
    return y


@triton.jit
def ratio(x, y):
    """A quotient."""
    if x.dtype == tl.float32:
        z = tl.div_rn(x, y)
    else:
        z = x / y
    return z


# A matrix over lanes -------------------------------------------------------------------------------------------------


@triton.jit
def columns(count, size, GROUP: tl.constexpr, SIZE: tl.constexpr):
    """The columns of register group ``GROUP``."""
    lane = tl.arange(0, LANES)
    matrix = tl.zeros([LANES], tl.int64) + tl.program_id(0)
    j = lane + GROUP * LANES
    if SIZE < LANES:
        matrix = matrix * (LANES // SIZE) + lane // SIZE
        j = lane % SIZE
    return Columns(matrix, j, (matrix < count) & (j < size))


@triton.jit
def load_columns(a, at, size, batch, row, column, SIZE: tl.constexpr, DTYPE: tl.constexpr):
    """Columns of symmetric matrices, of which the lower triangle is read; zero where there is nothing."""
    i, j = tl.arange(0, SIZE)[:, None], at.j[None, :]
    below = tl.maximum(i, j).to(tl.int64) * row + tl.minimum(i, j).to(tl.int64) * column
    return tl.load(a + at.matrix[None, :] * batch + below, mask=at.exists[None, :] & (i < size), other=0).to(DTYPE)


@triton.jit
def largest(x, SIZE: tl.constexpr):
    """The largest value among the lanes of each matrix."""
    lane = tl.arange(0, LANES)
    for bit in tl.static_range(5):
        if 2**bit < SIZE:
            x = tl.maximum(x, tl.gather(x, lane ^ 2**bit, 0))
    return x


@triton.jit
def total(x, SIZE: tl.constexpr):
    """The sum over the lanes of each matrix, the same in each of them."""
    lane = tl.arange(0, LANES)
    for bit in tl.static_range(5):
        if 2**bit < SIZE:
            x += tl.gather(x, lane ^ 2**bit, 0)
    return x


@triton.jit
def scale_of(x):
    """Powers of two that bring a magnitude x to about 2^10: far from both ends, also when products are squared."""
    if x.dtype == tl.float32:
        exponent = tl.minimum(tl.maximum((x.to(tl.int32, bitcast=True) >> 23) & 255, 11), 254)
        down = ((264 - exponent) << 23).to(tl.float32, bitcast=True)
        up = ((exponent - 10) << 23).to(tl.float32, bitcast=True)
    else:
        exponent = tl.minimum(tl.maximum((x.to(tl.int64, bitcast=True) >> 52) & 2047, 11), 2046)
        down = ((2056 - exponent) << 52).to(tl.float64, bitcast=True)
        up = ((exponent - 10) << 52).to(tl.float64, bitcast=True)
    return Scale(down, up)


# Sweeps --------------------------------------------------------------------------------------------------------------


@triton.jit
def rotation(norm, other, dot, first, live, turns, stays):
    """The rotation that makes two columns orthogonal, the longer one first. Both partners find the same angle.

    Args:
        norm: Squared norm of this column.
        other: Squared norm of the partner.
        dot: Their inner product.
        first: Whether this column has the lower index.
        live: Whether the matrix is not done yet; nothing happens to one that is.
        turns: Square of the cosine above which a pair is turned, times 4.
        stays: The same above which another sweep follows.
    """
    gap, twice = other - norm, 2 * dot
    cross, product = twice * twice, norm * other
    rotates = live & (cross > turns * product)
    tangent = twice / tl.where(rotates, tl.abs(gap) + tl.sqrt(gap * gap + twice * twice), 1)
    tangent = tl.where((gap < 0) | ((gap == 0) & (first == 0)), -tangent, tangent)
    tangent = tl.where(rotates, tangent, 0.0)
    square = tangent * tangent
    h = root(1 + square)
    u = ratio(square, h + h * h)
    cosine, sine = 1 - u, tangent - tangent * u
    swaps = live & tl.where(first, gap > 0, gap < 0)
    change = tangent * dot
    return Rotation(
        tl.where(swaps, sine, cosine),
        tl.where(swaps, cosine, -sine),
        tl.where(swaps, other + change, norm - change),
        (live & (cross > stays * product)).to(tl.int32),
    )


@triton.jit
def dots(xs, ys, GROUPS: tl.constexpr):
    """Inner products of columns of all groups; in one reduction, because each one is a barrier for several warps."""
    if GROUPS == 1:
        out = (tl.sum(xs[0] * ys[0], 0),)
    elif GROUPS == 2:
        out = tl.split(tl.sum(tl.join(xs[0] * ys[0], xs[1] * ys[1]), 0))
    else:
        low, high = tl.join(xs[0] * ys[0], xs[1] * ys[1]), tl.join(xs[2] * ys[2], xs[3] * ys[3])
        low, high = tl.split(tl.sum(tl.join(low, high), 0))
        out = tl.split(low) + tl.split(high)
    return out


@triton.jit
def others_of(ws, partner, GROUP: tl.constexpr, GROUPS: tl.constexpr, SIZE: tl.constexpr):
    """The partners of all columns in a round."""
    index = tl.broadcast_to(partner[None, :], (SIZE, LANES))
    others = ()
    for k in tl.static_range(GROUPS):
        others = others + (tl.gather(ws[k ^ GROUP], index, 1),)
    return others


@triton.jit
def norm_of(ws, GROUPS: tl.constexpr, SIZE: tl.constexpr):
    """An upper bound of the norm, by rows and by the Frobenius norm of A^2, whose elements are products of columns."""
    lane = tl.arange(0, LANES)
    rows, squares = (), tl.sum(ws[0] * 0, 0)
    for _ in tl.static_range(GROUPS):
        rows = rows + (squares,)
    for group in tl.static_range(GROUPS):
        for r in range(min(SIZE, LANES.value)):
            dot = dots(ws, others_of(ws, lane ^ r, group, GROUPS, SIZE), GROUPS)
            more = ()
            for k in tl.static_range(GROUPS):
                more = more + (rows[k] + tl.abs(dot[k]),)
                squares += dot[k] * dot[k]
            rows = more
    row = rows[0]
    for k in tl.static_range(1, GROUPS):
        row = tl.maximum(row, rows[k])
    return root(tl.minimum(largest(row, SIZE), root(total(squares, SIZE))))


@triton.jit
def shift_of(ws, js, eps, POSITIVE: tl.constexpr, GROUPS: tl.constexpr, SIZE: tl.constexpr):
    """What makes the matrix positive: by Gershgorin's discs, at most a bound of the norm, and a little for rounding."""
    i = tl.arange(0, SIZE)[:, None]
    row, low = tl.sum(ws[0] * 0, 0), tl.sum(ws[0] * 0, 0)
    for k in tl.static_range(GROUPS):
        magnitude = tl.sum(tl.abs(ws[k]), 0)
        diagonal = tl.sum(tl.where(i == js[k][None, :], ws[k], 0), 0)
        row = tl.maximum(row, magnitude)
        low = tl.maximum(low, magnitude - tl.abs(diagonal) - diagonal)
    shift = eps * (1024 * SIZE + 8 * largest(row, SIZE))
    if not POSITIVE:
        shift += tl.minimum(largest(low, SIZE), norm_of(ws, GROUPS, SIZE))
    return shift


@triton.jit
def meet(ws, norms, far, r, live, turns, stays, GROUP: tl.constexpr, GROUPS: tl.constexpr, SIZE: tl.constexpr):
    """One round: column j meets column j ^ (r + 32 GROUP)."""
    lane = tl.arange(0, LANES)
    partner = lane ^ r
    others = others_of(ws, partner, GROUP, GROUPS, SIZE)
    dot = dots(ws, others, GROUPS)
    new_ws, new_norms = (), ()
    for k in tl.static_range(GROUPS):
        first = lane < partner
        if GROUP > 0:
            first = tl.full([LANES], k < (k ^ GROUP), tl.int1)
        turn = rotation(norms[k], tl.gather(norms[k ^ GROUP], partner, 0), dot[k], first, live, turns, stays)
        new_ws = new_ws + (turn.own[None, :] * ws[k] + turn.other[None, :] * others[k],)
        new_norms = new_norms + (turn.norm,)
        far |= turn.far
    return new_ws, new_norms, far


@triton.jit
def sweep(ws, live, turns, stays, SIZE: tl.constexpr, GROUPS: tl.constexpr):
    """Every column meets every other one once; says in each lane whether its matrix needs another sweep."""
    norms = dots(ws, ws, GROUPS)  # rotations update them; here they are fresh
    far = tl.zeros([LANES], tl.int32)
    for group in tl.static_range(GROUPS):
        for r in range(1 if group == 0 else 0, min(SIZE, LANES.value)):
            ws, norms, far = meet(ws, norms, far, r, live, turns, stays, group, GROUPS, SIZE)
    return ws, largest(far, SIZE) > 0


@triton.jit
def rank_of(values, js, K: tl.constexpr, SIZE: tl.constexpr, GROUPS: tl.constexpr):
    """The place of each value of group K in ascending order, equal ones by their column."""
    lane = tl.arange(0, LANES)
    rank = tl.zeros([LANES], tl.int32)
    for q in tl.static_range(GROUPS):
        for r in range(min(SIZE, LANES.value)):
            value = tl.gather(values[q], lane ^ r, 0)
            earlier = tl.gather(js[q], lane ^ r, 0) < js[K]
            rank += ((value < values[K]) | ((value == values[K]) & earlier)).to(tl.int32)
    return rank


@triton.jit(do_not_specialize=["sweeps", "count"])
def eigh_kernel(
    a, values_ptr, vectors_ptr, count, size, batch, row, column, sweeps, eps: tl.float64,
    POSITIVE: tl.constexpr, SIZE: tl.constexpr, GROUPS: tl.constexpr,
):  # fmt: skip
    """Ascending eigenvalues, and vectors in columns, of the matrices of a program."""
    DTYPE: tl.constexpr = values_ptr.dtype.element_ty
    eps = tl.full([LANES], eps, DTYPE)
    i = tl.arange(0, SIZE)[:, None]
    js, theres, ws = (), (), ()  # tuples of tensors: some versions of Triton forget the names in a tuple of tuples
    matrix = columns(count, size, 0, SIZE).matrix
    top, broken = tl.zeros([LANES], DTYPE), tl.zeros([LANES], tl.int32)
    for k in tl.static_range(GROUPS):
        at = columns(count, size, k, SIZE)
        w = load_columns(a, at, size, batch, row, column, SIZE, DTYPE)
        broken |= tl.max((tl.abs(w) < float("inf")).to(tl.int32) ^ 1, 0)
        js, theres, ws = js + (at.j,), theres + (at.exists,), ws + (w,)
    broken = largest(broken, SIZE)
    for k in tl.static_range(GROUPS):
        top = tl.maximum(top, tl.max(tl.where(broken[None, :] > 0, 0, tl.abs(ws[k])), 0))
    scale = scale_of(largest(top, SIZE))
    scaled = ()
    for k in tl.static_range(GROUPS):
        scaled = scaled + (tl.where(broken[None, :] > 0, 0, ws[k] * scale.down[None, :]),)
    shift = shift_of(scaled, js, eps, POSITIVE, GROUPS, SIZE)
    ws = ()
    for k in tl.static_range(GROUPS):
        diagonal = (i == js[k][None, :]) & theres[k][None, :]
        ws = ws + (scaled[k] + tl.where(diagonal, shift[None, :], 0),)

    limit = eps * (1 + SIZE / 16)
    turns, stays = 4 * eps * eps, 4 * limit * limit
    done, live = 0, tl.full([LANES], 1, tl.int1)
    while (done < sweeps) & (tl.max(live.to(tl.int32), 0) > 0):
        ws, live = sweep(ws, live, turns, stays, SIZE, GROUPS)
        done += 1

    norms, values = dots(ws, ws, GROUPS), ()
    for k in tl.static_range(GROUPS):
        value = (root(norms[k]) - shift) * scale.up
        values = values + (tl.where(theres[k], value, float("inf")),)
    for k in tl.static_range(GROUPS):
        rank = rank_of(values, js, k, SIZE, GROUPS)
        there, good = theres[k], broken == 0
        place = matrix * size + rank
        tl.store(values_ptr + place, tl.where(good, values[k], float("nan")), mask=there)
        if vectors_ptr is not None:
            length = tl.where(there, root(norms[k]), 1)
            vectors = tl.where(good[None, :], ratio(ws[k], length[None, :]), float("nan"))
            places = (matrix * size)[None, :] * size + i * size + rank[None, :]
            tl.store(vectors_ptr + places, vectors, mask=there[None, :] & (i < size))
