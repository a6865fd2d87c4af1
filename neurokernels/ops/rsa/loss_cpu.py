"""The similarity losses on the compiled core (csrc/cpu/rsa_loss.h) and torch's products of matrices.

Patterns are made units by the core. Losses that are sums over pairs are `loss_closed`; li2019 goes through tiles of
pairs: similarities by a product, loss and derivative in place by the core, two more products for the gradient.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from neurokernels._core import native
from neurokernels._core.covariance import compute_dtype
from neurokernels._core.covariance_cpu import DTYPES, centred, matrices
from neurokernels.ops.rsa import loss_closed, loss_pairs, loss_rows
from neurokernels.ops.rsa.loss_leaves import Options
from neurokernels.ops.rsa.loss_rows import Rows, flat

#: Images of a tile: its similarities stay in the cache of several cores, and its products are large enough for BLAS.
TILE = 1024

#: Up to so many images are one tile, half of whose similarities are computed twice.
WHOLE = 512


def rsa_loss(
    x: Tensor, logits: Tensor | None, mean: Tensor | None, target: Tensor, o: Options, gradient: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:  # fmt: skip
    """The leaf op ``rsa_loss_fwd``."""
    compute = compute_dtype(x)
    if x.shape[:-2].numel() == 0:
        return _nothing(x, logits, gradient)
    target = flat(target, 1 if o.kind == "condensed" else 2)
    rows = _features(x, logits, mean, o)
    if o.disjoint:
        value, df = loss_pairs.by_disjoint(rows, target, o, gradient)
    elif o.form == "li2019":
        value, df = _log_odds(rows.f, target, o, gradient)
    else:
        value, df = loss_closed.of_sums_over_pairs(rows, target, o, gradient)
    value = value.to(compute).view(x.shape[:-2])
    if df is None:
        return value, None, None
    return value, *_gradients(rows, df, x, logits, o)


def _nothing(x: Tensor, logits: Tensor | None, gradient: bool) -> tuple[Tensor, Tensor | None, Tensor | None]:
    compute = compute_dtype(x)
    dx, dlogits = (None if t is None else t.new_empty(t.shape, dtype=compute) for t in (x, logits))
    return x.new_empty(x.shape[:-2], dtype=compute), dx if gradient else None, dlogits if gradient else None


# Patterns -----------------------------------------------------------------------------------------------------------


def _features(x: Tensor, logits: Tensor | None, mean: Tensor | None, o: Options) -> Rows:
    compute = compute_dtype(x)
    if not loss_rows.is_unit(o):
        return loss_rows.features(x, logits, mean, o, compute)
    x, given = matrices(x)
    items, n, d = given[1:4]
    f = x.new_empty((items, n, d), dtype=compute)
    native.fresh(f)
    norms = f.new_empty((items, n, len(o.widths)))
    roots = loss_rows.roots_of(logits, items, len(o.widths), f)
    if mean is not None:
        mean = flat(mean, 1)
        mean = mean if mean.stride(-1) == 1 or d == 1 else mean.contiguous()
    native.core().rsa_unit_rows(
        DTYPES[x.dtype], *given, 0 if mean is None else mean.data_ptr(), 0 if mean is None else mean.stride(0),
        o.widths, o.metric == "correlation", roots.data_ptr(), f.data_ptr(), norms.data_ptr(), native.threads(),
    )  # fmt: skip
    return Rows(f, None, roots, norms)


def _gradients(
    rows: Rows, df: Tensor, x: Tensor, logits: Tensor | None, o: Options
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    if rows.norms is None:
        return loss_rows.gradients(rows, df, x, logits, o)
    df = df.contiguous()
    shares = df.new_empty(rows.norms.shape, dtype=torch.float64)
    native.core().rsa_unit_rows_gradient(
        DTYPES[df.dtype], *df.shape, o.widths, o.metric == "correlation", rows.roots.data_ptr(), rows.norms.data_ptr(),
        rows.f.data_ptr(), df.data_ptr(), shares.data_ptr(), native.threads(),
    )  # fmt: skip
    return df.view(x.shape), None if logits is None else loss_rows.logit_gradient(shares.sum(1), rows.roots, logits)


# Tiles of pairs -----------------------------------------------------------------------------------------------------


class _Target(NamedTuple):
    """A dense target of tiles: its memory, items, rows (0 if it is condensed) and images, and the place of a tile."""

    tensor: Tensor
    row: int
    images: int
    is_tile: bool


def _log_odds(f: Tensor, target: Tensor, o: Options, gradient: bool) -> tuple[Tensor, Tensor | None]:
    """The loss ``[B]`` of unit features, float64, and their gradient."""
    items, n, _ = f.shape
    if n <= min(WHOLE, TILE):
        s = torch.bmm(f, f.mT)
        t = torch.bmm(target, target.mT) if o.kind == "features" else target
        sums = _core(s, t, (0, 0), True, n, o, gradient)
        return sums, torch.bmm(s, f) if gradient else None
    sums = f.new_zeros(items, dtype=torch.float64)
    df = f.new_empty(f.shape) if gradient else None
    if df is not None:
        native.fresh(df)
    count = max(-(-n // TILE), 3)
    edges = [slice(n * k // count, n * (k + 1) // count) for k in range(count)]
    most = (-(-n // count)) ** 2
    room, other = f.new_empty(most), f.new_empty(most if o.kind == "features" else 0)
    for b in range(items):
        for k, i in enumerate(edges):
            for j in edges[k:]:
                sums[b] += _tile(f[b], None if df is None else df[b], target[b], i, j, room, other, o)
    return sums, df


def _tile(
    f: Tensor, df: Tensor | None, target: Tensor, i: slice, j: slice, room: Tensor, other: Tensor, o: Options
) -> Tensor:
    """The loss of the pairs of two blocks of images, whose part of the gradient is added."""
    a, b = f[i], f[j]
    s = torch.mm(a, b.mT, out=room[: len(a) * len(b)].view(len(a), len(b)))
    start = i.start, j.start
    if o.kind == "features":
        target, start = torch.mm(target[i], target[j].mT, out=other[: s.numel()].view(s.shape)), (0, 0)
    sums = _core(s[None], target[None], start, i == j, len(f), o, df is not None)
    if df is not None:
        # Tiles come row by row: the first one that reaches a block of images is that of the first row.
        if i == j:
            torch.addmm(df[i], s, a, beta=1 if i.start else 0, out=df[i])
        else:
            torch.addmm(df[i], s, b, out=df[i])
            torch.addmm(df[j], s.mT, a, beta=1 if i.start else 0, out=df[j])
    return sums[0]


def _core(
    s: Tensor, t: Tensor, start: tuple[int, int], diagonal: bool, images: int, o: Options, gradient: bool
) -> Tensor:
    """The sums of a tile, which becomes the derivative."""
    t = t if t.stride(-1) == 1 or t.shape[-1] == 1 else t.contiguous()
    sums = s.new_empty(len(s), dtype=torch.float64)
    pairs = images * (images - 1) // 2
    native.core().rsa_log_odds(
        DTYPES[s.dtype], s.data_ptr(), *s.shape, s.stride(0), s.stride(1), diagonal, t.data_ptr(), t.stride(0),
        0 if t.ndim == 2 else t.stride(1), images, *start, o.eps, o.factor / pairs,
        o.distances and o.kind != "features", o.kind == "features", gradient, sums.data_ptr(), native.threads(),
    )  # fmt: skip
    return sums


# CKA ----------------------------------------------------------------------------------------------------------------


def cka(x: Tensor, y: Tensor, debiased: bool, of_x: bool, of_y: bool) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """The leaf op ``cka_fwd``."""
    compute, batch = compute_dtype(x), x.shape[:-2]
    if batch.numel() == 0:
        dx, dy = (v.new_empty(v.shape, dtype=compute) for v in (x, y))
        return x.new_empty(batch, dtype=compute), dx, dy
    fx, fy = (flat(centred(v, compute)[0]) for v in (x, y))
    return loss_closed.finished_cka(loss_closed.cka(fx, fy, debiased, of_x, of_y), x, y)
