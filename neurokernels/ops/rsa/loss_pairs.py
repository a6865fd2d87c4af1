"""Losses whose pairs are all at hand: as N x N matrices, where there are few images, or as disjoint pairs."""

import torch
from torch import Tensor

from neurokernels.ops.rsa.loss_forms import of_pairs
from neurokernels.ops.rsa.loss_leaves import Options
from neurokernels.ops.rsa.loss_rows import Rows, inner


def condensed_place(i: Tensor, j: Tensor, n: int) -> Tensor:
    """Where the pair i < j is in a condensed vector."""
    return i * n - i * (i + 1) // 2 + j - i - 1


def is_flipped(o: Options) -> bool:
    """Whether 1 minus the similarity is compared."""
    return o.distances and o.metric != "sqeuclidean" and o.form != "li2019"


def of_targets(t: Tensor, o: Options) -> Tensor:
    """A dense target as it is compared."""
    return 1 - t if o.distances and o.form == "li2019" else t


def bounded(s: Tensor, o: Options) -> Tensor:
    """Similarities of unit patterns without what rounding put beyond 1, where it matters; NaN stays."""
    return s.clamp(-1, 1) if o.form == "li2019" else s


# N x N --------------------------------------------------------------------------------------------------------------


def similarities(k: Tensor, o: Options) -> Tensor:
    """What is compared ``[B, N, N]``, from the products of features."""
    if o.metric != "sqeuclidean":
        return 1 - k if is_flipped(o) else bounded(k, o)
    own = k.diagonal(dim1=-2, dim2=-1)
    return own[..., :, None] + own[..., None, :] - 2 * k


def hsic(k: Tensor, t: Tensor, debiased: bool) -> tuple[Tensor, Tensor]:
    """HSIC of two symmetric matrices ``[B, N, N]`` but for a constant, and the symmetric derivative by the first one.

    The debiased one is HSIC_1 of Song et al. 2012: diagonals do not count.
    """
    n = k.shape[-1]
    if not debiased:
        slope = t - t.mean(-1, keepdim=True)
        slope = slope - slope.mean(-2, keepdim=True)
        return (k * slope).sum((-2, -1)), slope
    off = 1 - torch.eye(n, dtype=k.dtype, device=k.device)
    k, t = k * off, t * off
    rows = t.sum(-1)
    slope = t + (rows.sum(-1) / ((n - 1) * (n - 2)))[..., None, None]
    slope = (slope - (rows[..., :, None] + rows[..., None, :]) / (n - 2)) * off
    return (k * slope).sum((-2, -1)), slope


def alignment(k: Tensor, t: Tensor, debiased: bool) -> tuple[Tensor, Tensor]:
    """CKA of two kernels, and the derivative by the first one."""
    (h, dh), (a, da), (b, _) = (hsic(*pair, debiased) for pair in ((k, t), (k, k), (t, t)))
    scale = (a * b).rsqrt()
    value = h * scale
    return value, scale[..., None, None] * dh - (value / a)[..., None, None] * da


def square(target: Tensor, o: Options, n: int) -> Tensor:
    """The target as a symmetric matrix ``[B, N, N]`` as it is compared."""
    if o.kind == "features":
        return similarities(target @ target.mT, o)
    if o.kind == "condensed":
        given, target = target, target.new_zeros(len(target), n, n)
        i, j = torch.triu_indices(n, n, 1, device=target.device)
        target[:, i, j] = given
    upper = target.triu()
    return of_targets(upper + upper.triu(1).mT, o)


def by_matrices(rows: Rows, target: Tensor, o: Options) -> tuple[Tensor, Tensor]:
    """The loss ``[B]`` and the gradient of the features."""
    n = rows.f.shape[1]
    signed = rows.f if rows.signs is None else rows.f * rows.signs
    k = signed @ rows.f.mT
    if o.form.startswith("cka"):
        value, dk = alignment(k, square(target, o, n), o.form == "cka_debiased")
        return 1 - value, (dk @ signed).mul_(-2)
    i, j = torch.triu_indices(n, n, 1, device=k.device)
    t = of_targets(target, o) if o.kind == "condensed" else square(target, o, n)[:, i, j]
    value, ds = of_pairs(similarities(k, o)[:, i, j], t, o)
    if o.metric != "sqeuclidean":
        ds = -ds / 2 if is_flipped(o) else ds / 2
    dk = ds.new_zeros(k.shape)
    dk[:, i, j] = ds
    dk[:, j, i] = ds
    if o.metric == "sqeuclidean":
        dk = torch.diag_embed(dk.sum(-1)) - dk
    return value, (dk @ signed).mul_(2)


# Disjoint pairs -----------------------------------------------------------------------------------------------------


def _halves(f: Tensor, signs: Tensor | None, o: Options) -> Tensor:
    """What is compared of images (0, 1), (2, 3) and so on ``[B, N / 2]``."""
    one, two = f[:, ::2], f[:, 1::2]
    if o.metric == "sqeuclidean":
        one = two = one - two
    s = inner(one, two, signs).to(f.dtype)
    return 1 - s if is_flipped(o) else bounded(s, o)


def by_disjoint(rows: Rows, target: Tensor, o: Options, gradient: bool) -> tuple[Tensor, Tensor | None]:
    """The loss ``[B]`` of disjoint pairs and the gradient of the features."""
    n = rows.f.shape[1]
    if o.kind == "features":
        t = _halves(target, None, o)
    else:
        i = torch.arange(0, n, 2, device=target.device)
        t = of_targets(target[:, condensed_place(i, i + 1, n)] if o.kind == "condensed" else target[:, i, i + 1], o)
    value, ds = of_pairs(_halves(rows.f, rows.signs, o), t, o)
    if not gradient:
        return value, None
    df, by = torch.empty_like(rows.f), (-ds if is_flipped(o) else ds)[..., None]
    one, two = rows.f[:, ::2], rows.f[:, 1::2]
    if o.metric == "sqeuclidean":
        df[:, ::2] = (one - two) * (2 * by)
        df[:, 1::2] = -df[:, ::2]
    else:
        df[:, ::2], df[:, 1::2] = two * by, one * by
    return value, df if rows.signs is None else df.mul_(rows.signs)
