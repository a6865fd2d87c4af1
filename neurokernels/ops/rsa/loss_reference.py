"""The definition of the similarity losses in plain PyTorch, and the reference backend: N x N matrices, in float64."""

import torch
from torch import Tensor

from neurokernels._core.covariance import compute_dtype
from neurokernels.ops.rsa import loss_pairs, loss_rows
from neurokernels.ops.rsa.loss_forms import log_odds
from neurokernels.ops.rsa.loss_leaves import Options
from neurokernels.ops.rsa.loss_rows import flat


def definition(s: Tensor, t: Tensor, form: str, eps: float = 1e-5, disjoint: bool = False) -> Tensor:
    """The loss of matrices ``[..., N, N]`` of one kind, as its formula says, differentiable by autograd."""
    n = s.shape[-1]
    if form == "cka":
        h = torch.eye(n, dtype=s.dtype) - 1 / n
        return 1 - _normalised([(h @ a @ h * b).sum((-2, -1)) for a, b in ((s, t), (s, s), (t, t))])
    if form == "cka_debiased":
        off = 1 - torch.eye(n, dtype=s.dtype)
        return 1 - _normalised([_unbiased(a * off, b * off) for a, b in ((s, t), (s, s), (t, t))])
    i, j = (torch.arange(k, n, 2) for k in (0, 1)) if disjoint else torch.triu_indices(n, n, 1)
    s, t = s[..., i, j], t[..., i, j]
    if form == "li2019":
        return (log_odds(s, eps) - log_odds(t, eps)).square().mean(-1)
    if form == "mse":
        return (s - t).square().mean(-1)
    if form == "pearson":
        s, t = s - s.mean(-1, keepdim=True), t - t.mean(-1, keepdim=True)
    return 1 - _normalised([(s * t).sum(-1), s.square().sum(-1), t.square().sum(-1)])


def _normalised(products: list[Tensor]) -> Tensor:
    both, one, other = products
    return both / (one * other).sqrt()


def _unbiased(k: Tensor, t: Tensor) -> Tensor:
    """HSIC_1 of Song et al. 2012, equation 5, times N (N - 3); diagonals are zero."""
    n = k.shape[-1]
    sums = k.sum((-2, -1)) * t.sum((-2, -1)) / ((n - 1) * (n - 2))
    return (k * t).sum((-2, -1)) + sums - 2 / (n - 2) * (k.sum(-1) * t.sum(-1)).sum(-1)


def rsa_loss(
    x: Tensor, logits: Tensor | None, mean: Tensor | None, target: Tensor, o: Options, gradient: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:  # fmt: skip
    """The leaf op ``rsa_loss_fwd``; both accuracies are float64 here."""
    compute = compute_dtype(x)
    rows = loss_rows.features(x, logits, mean, o, torch.float64)
    target = flat(target, 1 if o.kind == "condensed" else 2).double()
    if o.disjoint:
        value, df = loss_pairs.by_disjoint(rows, target, o, gradient)
    else:
        value, df = loss_pairs.by_matrices(rows, target, o)
    value = value.to(compute).view(x.shape[:-2])
    if not gradient:
        return value, None, None
    assert df is not None
    dx, dlogits = loss_rows.gradients(rows, df, x, logits, o)
    return value, dx.to(compute), None if dlogits is None else dlogits.to(compute)


def cka(x: Tensor, y: Tensor, debiased: bool, of_x: bool, of_y: bool) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """The leaf op ``cka_fwd``."""
    compute = compute_dtype(x)
    x, y = x.contiguous().double(), y.contiguous().double()
    fx, fy = (v - v.mean(-2, keepdim=True) for v in (x, y))
    k, t = fx @ fx.mT, fy @ fy.mT
    value, dk = loss_pairs.alignment(k, t, debiased)
    dx = (2 * (dk @ fx)).to(compute) if of_x else None
    dy = (2 * (loss_pairs.alignment(t, k, debiased)[1] @ fy)).to(compute) if of_y else None
    return value.to(compute), dx, dy
