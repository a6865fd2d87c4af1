"""The definition of the similarity losses in plain PyTorch, and the reference backend: N x N matrices, in float64."""

import torch
from torch import Tensor

from neurokernels._core.covariance import compute_dtype
from neurokernels.ops.rsa import loss_rows
from neurokernels.ops.rsa.loss_forms import of_pairs
from neurokernels.ops.rsa.loss_leaves import Options
from neurokernels.ops.rsa.loss_rows import flat


def pairs_of(n: int, disjoint: bool, device: torch.device) -> tuple[Tensor, Tensor]:
    """The images of every pair: i < j row by row, or (0, 1), (2, 3) and so on."""
    if disjoint:
        return torch.arange(0, n, 2, device=device), torch.arange(1, n, 2, device=device)
    i, j = torch.triu_indices(n, n, 1, device=device)
    return i, j


def condensed_place(i: Tensor, j: Tensor, n: int) -> Tensor:
    """Where the pair i < j is in a condensed vector."""
    return i * n - i * (i + 1) // 2 + j - i - 1


def similarities(k: Tensor, o: Options) -> Tensor:
    """What is compared ``[B, N, N]``, from the products of features."""
    if o.metric != "sqeuclidean":
        return k
    own = k.diagonal(dim1=-2, dim2=-1)
    return own[..., :, None] + own[..., None, :] - 2 * k


def compared(s: Tensor, o: Options) -> Tensor:
    """Similarities, or distances: of a correlation 1 minus it."""
    flipped = o.distances and o.metric != "sqeuclidean" and o.form != "li2019"
    return 1 - s if flipped else s


def targets(target: Tensor, o: Options, i: Tensor, j: Tensor, n: int) -> Tensor:
    """The target of pairs ``[B, P]``."""
    if o.kind == "features":
        return compared(similarities(target @ target.mT, o)[:, i, j], o)
    t = target[:, condensed_place(i, j, n)] if o.kind == "condensed" else target[:, i, j]
    return 1 - t if o.distances and o.form == "li2019" else t


def from_pairs(ds: Tensor, o: Options, i: Tensor, j: Tensor, n: int) -> Tensor:
    """The derivative by the products of features ``[B, N, N]``, symmetric, from that by what is compared."""
    if o.metric != "sqeuclidean":
        ds = -ds / 2 if o.distances and o.form != "li2019" else ds / 2
    w = ds.new_zeros(len(ds), n, n)
    w[:, i, j] = ds
    w[:, j, i] = ds
    return torch.diag_embed(w.sum(-1)) - w if o.metric == "sqeuclidean" else w


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


def rsa_loss(
    x: Tensor, logits: Tensor | None, mean: Tensor | None, target: Tensor, o: Options, gradient: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:  # fmt: skip
    """The leaf op ``rsa_loss_fwd``."""
    n, compute = x.shape[-2], compute_dtype(x)
    rows = loss_rows.features(x.contiguous(), logits, mean, o, torch.float64)
    target = flat(target, 1 if o.kind == "condensed" else 2).double()
    signed = rows.f if rows.signs is None else rows.f * rows.signs
    k = signed @ rows.f.mT
    if o.form.startswith("cka"):
        if o.kind == "features":
            target = target @ target.mT
        else:
            upper = target.triu()
            target = upper + upper.triu(1).mT
        value, dk = alignment(k, target, o.form == "cka_debiased")
        value, dk = 1 - value, -dk
    else:
        i, j = pairs_of(n, o.disjoint, x.device)
        s = compared(similarities(k, o)[:, i, j], o)
        t = targets(target, o, i, j, n)
        if o.form == "li2019":
            s = s.clamp(-1, 1)
            t = t.clamp(-1, 1) if o.kind == "features" else t
        value, ds = of_pairs(s, t, o)
        dk = from_pairs(ds, o, i, j, n)
    value = value.to(compute).view(x.shape[:-2])
    if not gradient:
        return value, None, None
    dx, dlogits = loss_rows.gradients(rows, 2 * (dk @ signed), x, logits, o)
    return value, dx.to(compute), None if dlogits is None else dlogits.to(compute)


def cka(x: Tensor, y: Tensor, debiased: bool, gradient: bool) -> tuple[Tensor, Tensor, Tensor]:
    """The leaf op ``cka_fwd``."""
    compute = compute_dtype(x)
    fx, fy = (v - v.mean(-2, keepdim=True) for v in (x.contiguous().double(), y.contiguous().double()))
    k, t = fx @ fx.mT, fy @ fy.mT
    value, dk = alignment(k, t, debiased)
    value = value.to(compute)
    if not gradient:
        return value, value, value
    dt = alignment(t, k, debiased)[1]
    return value, (2 * (dk @ fx)).to(compute), (2 * (dt @ fy)).to(compute)
