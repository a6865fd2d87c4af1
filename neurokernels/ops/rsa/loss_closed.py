"""Losses that need no N x N matrix: sums over pairs, and gradients, from Grams of units.

With features F, ``K = F J F'``, and those R of the target, ``L = R R'``, everything is in ``G = F'F``, ``C = R'F``,
``H = R'R``, the squares a and b of patterns (the diagonals of K and L) and the sums of patterns. A dense target T takes
the place of L, a tile of it at a time. Every gradient is of one kind:

    dF = (cK K F + cL L F + diag(w) F + 1 v') J

with numbers cK and cL, one number w for every image and one v for every unit.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from neurokernels._core.covariance import compute_dtype
from neurokernels.ops.rsa import loss_pairs
from neurokernels.ops.rsa.loss_forms import Sums, of_sums
from neurokernels.ops.rsa.loss_leaves import Options
from neurokernels.ops.rsa.loss_pairs import is_flipped
from neurokernels.ops.rsa.loss_rows import Rows, inner

#: Images of a tile of a dense target.
TILE = 1024


class Target(NamedTuple):
    """What a loss wants to know of a target matrix M (L, or T without its diagonal), by item.

    ``product`` is M F ``[B, N, D]`` of a dense target, or C ``[B, M, D]``; ``features`` are R, None if it is dense.
    ``rows[B, N]`` are the sums of rows of M without its diagonal, ``own[B, N]`` the diagonal, and ``squares[B]`` the
    sum of squares of M without its diagonal; all three float64.
    """

    features: Tensor | None
    product: Tensor
    rows: Tensor
    own: Tensor
    squares: Tensor


class Gradient(NamedTuple):
    """cK and cL ``[B]``, w ``[B, N]`` and v ``[B, D]`` or None, float64: see the docstring of the module."""

    by_own: Tensor
    by_target: Tensor
    by_image: Tensor
    by_unit: Tensor | None


def sum_of(a: Tensor, *dims: int) -> Tensor:
    """A sum in float64, over the last dimension if none is named; torch adds float32 up pairwise."""
    return a.sum(dims or -1).double()


# Targets ------------------------------------------------------------------------------------------------------------


def from_features(
    r: Tensor, f: Tensor, distances: bool, gram: Tensor | None = None, product: Tensor | None = None
) -> Target:
    """Responses whose similarities are R R', or whose squared distances are the target; these are centred then."""
    n, own, total = r.shape[1], inner(r, r), sum_of(r, 1)
    gram = (r.mT @ r if gram is None else gram).double()
    product = r.mT @ f if product is None else product
    if distances:
        squares = 2 * (n * sum_of(own * own) + sum_of(own).square()) + 4 * sum_of(gram.square(), -2, -1)
        return Target(r, product, n * own + sum_of(own)[:, None], own, squares)
    rows = (r @ total[..., None].to(r.dtype)).squeeze(-1).double() - own
    return Target(r, product, rows, own, sum_of(gram.square(), -2, -1) - sum_of(own * own))


def block_of(t: Tensor, rows: slice, columns: slice, n: int) -> Tensor:
    """A tile above the diagonal of a square target, or of a condensed one, of one item."""
    if t.ndim == 2:
        return t[rows, columns]
    i = torch.arange(rows.start, rows.stop, device=t.device)[:, None]
    j = torch.arange(columns.start, columns.stop, device=t.device)[None, :]
    place = i * n - i * (i + 1) // 2 + j - i - 1
    return t.take(place.clamp_(0, t.numel() - 1))


def from_dense(t: Tensor, f: Tensor) -> Target:
    """A square or condensed target ``[B, ...]``: its upper triangle is read, and stands for both halves."""
    items, n, _ = f.shape
    product, rows = torch.zeros_like(f), f.new_zeros(items, n, dtype=torch.float64)
    squares = f.new_zeros(items, dtype=torch.float64)
    own = t.diagonal(dim1=-2, dim2=-1).double() if t.ndim == 3 else torch.ones_like(rows)
    edges = [slice(i, min(i + TILE, n)) for i in range(0, n, TILE)]
    for b in range(items):
        out, x, sums = product[b], f[b], rows[b]
        for k, i in enumerate(edges):
            corner = block_of(t[b], i, i, n).triu(1)
            corner = corner + corner.mT
            torch.addmm(out[i], corner, x[i], out=out[i])
            sums[i] += sum_of(corner)
            squares[b] += sum_of(corner.square(), 0, 1)
            for j in edges[k + 1 :]:
                block = block_of(t[b], i, j, n)
                torch.addmm(out[i], block, x[j], out=out[i])
                torch.addmm(out[j], block.mT, x[i], out=out[j])
                one = block.new_ones(max(block.shape))
                sums[i] += block @ one[: block.shape[1]]
                sums[j] += block.mT @ one[: block.shape[0]]
                squares[b] += 2 * sum_of(block.square(), 0, 1)
    return Target(None, product, rows, own, squares)


# Choices ------------------------------------------------------------------------------------------------------------

#: What an element of an N x N matrix costs besides products, in floating point operations: some twenty passes.
_PASSES = 400


#: So few images always are matrices: there the number of calls is what counts.
FEW = 64


def prefers_matrices(n: int, d: int, m: int | None) -> bool:
    """Whether N x N matrices are cheaper than Grams of d units, and of the m of a target (None if it is dense).

    They are never taken where they would be larger than the features, unless there are few images.
    """
    by_matrices = n * n * (4 * d + 2 * (m or 0) + _PASSES)
    by_grams = 4 * n * d * d + (4 * n * m * d + 2 * n * m * m if m else 2 * n * n * d)
    return n <= FEW or (by_matrices <= by_grams and n <= d)


def prefers_matrices_of_views(n: int, d: int, m: int) -> bool:
    """The same for two views whose gradients are both wanted."""
    cheaper = 4 * n * (d + m + _PASSES // 2) <= 4 * (d * d + m * m) + 6 * d * m
    return n <= FEW or (cheaper and n <= max(d, m))


# Losses -------------------------------------------------------------------------------------------------------------


class _Own(NamedTuple):
    """The side of the network: F, J, a, and its sum over images, G, and the sums ``<K, K>``, ``<K, M>`` float64."""

    f: Tensor
    signs: Tensor | None
    squares: Tensor
    total: Tensor
    gram: Tensor
    kk: Tensor
    km: Tensor


def _own(f: Tensor, signs: Tensor | None, target: Target, gram: Tensor | None = None) -> _Own:
    gram = f.mT @ f if gram is None else gram
    square = gram.double().square()
    if target.features is None:
        km = sum_of(inner(f, target.product, signs))
    else:
        product = target.product.double().square()
        km = sum_of(product if signs is None else product * signs, -2, -1)
    if signs is not None:
        square = square * signs[:, None] * signs
    return _Own(f, signs, inner(f, f, signs), sum_of(f, 1), gram, sum_of(square, -2, -1), km)


def _of_distances(x: _Own, t: Target, pairs: int, o: Options) -> tuple[Tensor, Gradient]:
    """Squared distances, with features that are centred."""
    n, a, dense = x.f.shape[1], x.squares, t.features is None
    total = sum_of(a)
    xx = n * sum_of(a * a) + total.square() + 2 * x.kk
    xy = sum_of(a * t.rows) - x.km if dense else sum_of(a * t.rows) + 2 * x.km
    value, (by_x, by_xx, by_xy) = of_sums(Sums(n * total, xx, sum_of(t.rows) / 2, t.squares / 2, xy), pairs, o)
    w = 2 * n * by_x[:, None] + 4 * by_xx[:, None] * (n * a + total[:, None]) + 2 * by_xy[:, None] * t.rows
    return value, Gradient(8 * by_xx, -2 * by_xy if dense else 4 * by_xy, w, None)


def _of_similarities(x: _Own, t: Target, pairs: int, o: Options) -> tuple[Tensor, Gradient]:
    """Products of patterns, or 1 minus them."""
    a, dense = x.squares, t.features is None
    signed = x.total if x.signs is None else x.total * x.signs
    own = (sum_of(signed * x.total) - sum_of(a)) / 2
    sums = Sums(
        own, (x.kk - sum_of(a * a)) / 2, sum_of(t.rows) / 2, t.squares / 2,
        x.km / 2 if dense else (x.km - sum_of(a * t.own)) / 2,
    )  # fmt: skip
    if is_flipped(o):
        y, yy = (sums.y, sums.yy) if dense else (pairs - sums.y, pairs - 2 * sums.y + sums.yy)
        xy = y - sums.xy if dense else pairs - own - sums.y + sums.xy
        value, (by_x, by_xx, by_xy) = of_sums(Sums(pairs - own, pairs - 2 * own + sums.xx, y, yy, xy), pairs, o)
        by_x = -by_x - 2 * by_xx - (0 if dense else by_xy)
        by_xy = -by_xy if dense else by_xy
    else:
        value, (by_x, by_xx, by_xy) = of_sums(sums, pairs, o)
    w = -by_x[:, None] - 2 * by_xx[:, None] * a
    if not dense:
        w = w - by_xy[:, None] * t.own
    return value, Gradient(2 * by_xx, by_xy, w, by_x[:, None] * x.total)


def _of_alignment(x: _Own, t: Target, debiased: bool) -> tuple[Tensor, Gradient]:
    """1 minus CKA; features are centred, and so are those of the target."""
    n, a, dense = x.f.shape[1], x.squares, t.features is None
    total = sum_of(a)
    if debiased:
        # Sums of rows without their diagonal are -a; the target's are its own.
        both, rows = (n - 1) * (n - 2), t.rows
        part = x.km if dense else x.km - sum_of(a * t.own)
        h = part - total * sum_of(rows) / both + 2 / (n - 2) * sum_of(a * rows)
        aa = x.kk - n / (n - 2) * sum_of(a * a) + total.square() / both
        bb = t.squares + sum_of(rows).square() / both - 2 / (n - 2) * sum_of(rows * rows)
    else:
        h = x.km if not dense else x.km + sum_of(a * t.own)
        aa, full = x.kk, t.rows + t.own
        bb = t.squares + sum_of(t.own.square()) - 2 / n * sum_of(full.square()) + (sum_of(full) / n).square()
    scale = (aa * bb).rsqrt()
    by_h, by_aa = -scale, h * scale / (2 * aa)
    w = torch.zeros_like(a)
    if debiased:
        w = by_aa[:, None] * 4 * (total[:, None] / both - n / (n - 2) * a)
        slope = 2 / (n - 2) * 2 * rows - (2 * sum_of(rows) / both)[:, None]
        w = w + by_h[:, None] * (slope if dense else slope - 2 * t.own)
    elif dense:
        w = by_h[:, None] * 2 * t.own
    return 1 - h * scale, Gradient(4 * by_aa, 2 * by_h, w, None)


def _gradient(x: _Own, t: Target, g: Gradient, centred: bool) -> Tensor:
    """The gradient of the features, in the memory of M F if that is there."""

    def numbers(a: Tensor) -> Tensor:
        return a.to(x.f.dtype)[(...,) + (None,) * (3 - a.ndim)]

    left = x.gram if x.signs is None else x.gram * x.signs[:, None]
    left = numbers(g.by_own) * left
    if t.features is None:
        out = t.product.mul_(numbers(g.by_target)).baddbmm_(x.f, left)
    else:
        out = torch.bmm(x.f, left).baddbmm_(t.features, numbers(g.by_target) * t.product)
    out.addcmul_(x.f, numbers(g.by_image))
    if g.by_unit is not None:
        out += g.by_unit.to(out.dtype)[:, None, :]
    if centred:
        out -= sum_of(out, 1).div_(out.shape[1]).to(out.dtype)[:, None, :]
    return out if x.signs is None else out.mul_(x.signs)


def by_grams(rows: Rows, target: Tensor, o: Options, gradient: bool) -> tuple[Tensor, Tensor | None]:
    """The loss ``[B]``, float64, and the gradient of the features; overwrites neither, but may centre the features."""
    f, n = rows.f, rows.f.shape[1]
    aligned, centred = o.form.startswith("cka"), o.form.startswith("cka") or o.metric == "sqeuclidean"
    if aligned:
        f = f - sum_of(f, 1).div_(n).to(f.dtype)[:, None, :]
        if o.kind == "features":
            target = target - sum_of(target, 1).div_(n).to(f.dtype)[:, None, :]
    t = from_features(target, f, o.metric == "sqeuclidean") if o.kind == "features" else from_dense(target, f)
    x = _own(f, rows.signs, t)
    if aligned:
        value, g = _of_alignment(x, t, o.form == "cka_debiased")
    else:
        of = _of_distances if o.metric == "sqeuclidean" else _of_similarities
        value, g = of(x, t, n * (n - 1) // 2, o)
    return value, _gradient(x, t, g, centred) if gradient else None


def of_sums_over_pairs(rows: Rows, target: Tensor, o: Options, gradient: bool) -> tuple[Tensor, Tensor | None]:
    """Losses that are sums over pairs, by N x N matrices or without them."""
    n, d = rows.f.shape[1:]
    m = target.shape[2] if o.kind == "features" else None
    if prefers_matrices(n, d, m):
        value, df = loss_pairs.by_matrices(rows, target, o)
        return value, df if gradient else None
    if m is not None and m > n:  # their Gram would be the larger matrix
        target, o = loss_pairs.square(target, o._replace(distances=False), n), o._replace(kind="square")
        target = 1 - target if loss_pairs.is_flipped(o) else target
    return by_grams(rows, target, o, gradient)


# CKA of two views ---------------------------------------------------------------------------------------------------

Found = tuple[Tensor, Tensor | None, Tensor | None]


def cka(x: Tensor, y: Tensor, debiased: bool, of_x: bool, of_y: bool) -> Found:
    """CKA ``[B]`` of centred views ``[B, N, D]``, and those of the gradients that are wanted."""
    if prefers_matrices_of_views(x.shape[1], x.shape[2], y.shape[2]):
        k, t = x @ x.mT, y @ y.mT
        value, dk = loss_pairs.alignment(k, t, debiased)
        dx = (dk @ x).mul_(2) if of_x else None
        return value, dx, (loss_pairs.alignment(t, k, debiased)[1] @ y).mul_(2) if of_y else None
    gram_x, gram_y, cross = x.mT @ x, y.mT @ y, y.mT @ x
    target = from_features(y, x, False, gram_y, cross)
    own = _own(x, None, target, gram_x)
    value, g = _of_alignment(own, target, debiased)
    dx, dy = _gradient(own, target, g, True).neg_() if of_x else None, None
    if of_y:
        target = from_features(x, y, False, gram_x, cross.mT)
        own = _own(y, None, target, gram_y)
        dy = _gradient(own, target, _of_alignment(own, target, debiased)[1], True).neg_()
    return 1 - value, dx, dy


def finished_cka(found: Found, x: Tensor, y: Tensor) -> Found:
    """What `cka` of flattened views gave, in the shapes of the views and the dtype that they compute in."""
    value, dx, dy = found
    value = value.to(compute_dtype(x)).view(x.shape[:-2])
    return value, None if dx is None else dx.view(x.shape), None if dy is None else dy.view(y.shape)
