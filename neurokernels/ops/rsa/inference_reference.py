"""Comparators and the bootstrap in plain PyTorch: the definition of the features, and the reference backend.

A comparator is the inner product of features of unit norm: pearson's are the dissimilarities without their mean,
cosine's the dissimilarities, spearman's their mid-ranks. Whitening by the covariance V of dissimilarities is the
Frobenius product of doubly centred matrices: ``d' V^-1 e ~ <H D H, H E H>``, so that nobody ever sees V (README).
"""

import torch
from torch import Tensor

from neurokernels._core.covariance import compute_dtype
from neurokernels.ops.rsa.inference_leaves import RANKS, TAUS, allocate_features, allocate_similarities, conditions

#: Elements of what is made for a part of the resamples or of the pairs.
BLOCK = 1 << 22
ROOT = 2**0.5


def pair_indices(n: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The conditions i and j of every pair i < j, row by row."""
    i, j = torch.triu_indices(n, n, 1, device=device)
    return i, j


def square(x: Tensor, diagonal: Tensor | None = None) -> Tensor:
    """Condensed ``[..., pairs]`` as symmetric matrices ``[..., N, N]``, of zero diagonal unless one is given."""
    n = conditions(x.shape[-1])
    i, j = pair_indices(n, x.device)
    places = torch.arange(i.numel(), device=x.device)
    ends = torch.arange(n, device=x.device)
    index = torch.zeros(n, n, dtype=torch.int64, device=x.device)
    index[i, j], index[j, i], index[ends, ends] = places, places, i.numel() + ends
    if diagonal is None:
        diagonal = x.new_zeros(()).expand(*x.shape[:-1], n)
    return torch.cat((x, diagonal), -1)[..., index]


def _doubly_centred(m: Tensor) -> Tensor:
    rows = m.mean(-1, keepdim=True)
    return m - rows - rows.mT + rows.mean(-2, keepdim=True)


def _vector(m: Tensor) -> Tensor:
    """The pairs of symmetric matrices times the root of 2, and their diagonals: the same inner products."""
    i, j = pair_indices(m.shape[-1], m.device)
    return torch.cat((ROOT * m[..., i, j], m.diagonal(dim1=-2, dim2=-1)), -1)


def centred(x: Tensor) -> Tensor:
    """Without the mean, which is taken relative to the first element: a constant becomes zeros."""
    x = x - x[..., :1].detach()
    return x - x.mean(-1, keepdim=True)


def linear(x: Tensor, method: str) -> Tensor:
    """The linear map from dissimilarities to features, before they are divided by their norm."""
    if method in ("pearson", "whitened_pearson"):
        x = centred(x)
    return _vector(_doubly_centred(square(x))) if method.startswith("whitened") else x


def adjoint(g: Tensor, method: str, pairs: int) -> Tensor:
    """The transpose of `linear`."""
    if method.startswith("whitened"):
        m = _doubly_centred(square(g[..., :pairs] / ROOT, g[..., pairs:]))
        i, j = pair_indices(m.shape[-1], g.device)
        g = 2 * m[..., i, j]
    return g if method in ("cosine", "whitened_cosine") else g - g.mean(-1, keepdim=True)


def _groups(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The order that sorts x, and of every place there the first and the last place with the same value."""
    values, order = x.sort(-1)
    places = torch.arange(x.shape[-1], device=x.device).expand(x.shape)
    new = torch.ones_like(values, dtype=torch.bool)
    new[..., 1:] = values[..., 1:] != values[..., :-1]
    first = torch.where(new, places, 0).cummax(-1).values
    last = torch.where(new.roll(-1, -1), places, x.shape[-1]).flip(-1).cummin(-1).values.flip(-1)
    return order, first, last


def doubled_ranks(x: Tensor) -> Tensor:
    """Twice the mid-ranks without their mean: integers, as ``x.dtype``; NaN throughout for an RDM with a NaN."""
    order, first, last = _groups(x)
    ranks = torch.empty_like(x).scatter_(-1, order, (first + last + 1 - x.shape[-1]).to(x.dtype))
    return torch.where(x.isnan().any(-1, keepdim=True), torch.nan, ranks)


def features(x: Tensor, method: str) -> tuple[Tensor, Tensor]:
    """The leaf op ``rdm_features``."""
    x, p = x.to(compute_dtype(x)).contiguous(), x.shape[-1]
    out, norm = allocate_features(x, method)
    found = linear(x, method) if method not in RANKS else doubled_ranks(x)
    if method == "rho_a":
        norm.fill_((p * (p * p - 1) / 3) ** 0.5)
    else:
        norm.copy_(torch.linalg.vector_norm(found, dim=-1))
    return torch.divide(found, norm[..., None], out=out), norm


def concordance(a: Tensor, b: Tensor, method: str) -> Tensor:
    """The leaf op ``rdm_concordance``: signs of all differences, a block of pairs at a time."""
    p = a.shape[-1]
    a, b = (doubled_ranks(v.to(compute_dtype(v))) for v in (a, b))
    total = a.new_zeros((*a.shape[:-1], b.shape[-2]), dtype=torch.float64)
    apart_a, apart_b = (v.new_zeros(v.shape[:-1], dtype=torch.float64) for v in (a, b))
    step = max(1, BLOCK // max(1, (a.shape[:-1].numel() + b.shape[:-1].numel()) * p))
    for start in range(0, p, step):
        s_a, s_b = ((v[..., None] - v[..., None, start : start + step]).sign().flatten(-2).double() for v in (a, b))
        total += s_a @ s_b.mT
        apart_a += s_a.abs().sum(-1)
        apart_b += s_b.abs().sum(-1)
    return _where_known(a, b, _tau(total, apart_a, apart_b, p * (p - 1.0), method)).to(a.dtype)


def _where_known(a: Tensor, b: Tensor, value: Tensor) -> Tensor:
    """NaN for RDMs that are NaN: signs of NaN are not."""
    gone = a[..., :, None, 0].isnan() | b[..., None, :, 0].isnan()
    return torch.where(gone if value.ndim == gone.ndim else gone.unsqueeze(-3), torch.nan, value)


def _tau(total: Tensor, a: Tensor, b: Tensor, all_pairs: Tensor | float, method: str) -> Tensor:
    """Kendall's tau of twice the concordant minus the discordant pairs; ``a`` and ``b`` are twice those not tied."""
    if method == "tau_a":
        return total / all_pairs
    return total / (a[..., :, None] * b[..., None, :]).sqrt()


# Resampling ---------------------------------------------------------------------------------------------------------


def bootstrap(a: Tensor, b: Tensor, counts: Tensor, method: str) -> Tensor:
    """The leaf op ``bootstrap_fwd``: a resample is a weight ``m_i m_j`` of every pair, and all are made by products."""
    a, b = (v.to(compute_dtype(v)).contiguous() for v in (a, b))
    out = allocate_similarities(a, b, counts.shape[0])
    n, pairs = counts.shape[0], a.shape[-1]
    if method in ("pearson", "whitened_pearson"):
        a, b = centred(a), centred(b)  # sums of squares about a mean that is near theirs lose no digits
    kind = _spearman if method in RANKS else _kendall if method in TAUS else _moments
    each = {_spearman: a.shape[-2] + b.shape[-2], _kendall: a.shape[-2] * b.shape[-2], _moments: 1}[kind]
    step = max(1, BLOCK // max(1, pairs * each * a.shape[:-2].numel()))
    # Ranks and counts are integers, of which float64 holds all sums; whitening takes large sums from each other.
    given = (a, b) if method in ("pearson", "cosine") else (a.double(), b.double())
    for start in range(0, n, step):
        m = counts[start : start + step].to(given[0].dtype)
        out[..., start : start + step, :, :] = kind(*given, m, _weights(m), method)
    return out


def _weights(m: Tensor) -> Tensor:
    """``m_i m_j`` of all pairs ``[n, pairs]``, made and laid out pair by pair: one pass over what is written."""
    (n, items), start = m.shape, 0
    rows, w = m.mT.contiguous(), m.new_empty((items * (items - 1) // 2, n))
    for i in range(items - 1):
        end = start + items - 1 - i
        torch.mul(rows[i + 1 :], rows[i], out=w[start:end])
        start = end
    return w.mT


def _moments(a: Tensor, b: Tensor, m: Tensor, w: Tensor, method: str) -> Tensor:
    """Pearson and cosine, whitened or not; ``w[n, pairs]`` weighs pairs, ``m[n, N]`` counts patterns."""
    wide, rows = method.startswith("whitened"), max(1, BLOCK // (a.shape[-1] * b.shape[-2]))
    total = w.sum(-1)
    cross = torch.cat([_cross(w, a[..., s : s + rows, :], b) for s in range(0, max(1, a.shape[-2]), rows)], -2)
    sums = (torch.cat((a.square(), b.square(), a, b), -2) @ w.mT).mT  # [..., n, 2 A + 2 B]
    square_a, square_b, mean_a, mean_b = sums.split((a.shape[-2], b.shape[-2]) * 2, -1)
    raw_a, raw_b = square_a, square_b
    if method in ("pearson", "whitened_pearson"):
        mean_a, mean_b = mean_a / total[:, None], mean_b / total[:, None]
        cross = cross - total[:, None, None] * mean_a[..., :, None] * mean_b[..., None, :]
        square_a, square_b = square_a - total[:, None] * mean_a.square(), square_b - total[:, None] * mean_b.square()
    if wide:
        size = m.sum(-1, keepdim=True)[..., None]  # of the resample
        rows_a, rows_b = (torch.einsum("ni,...rij->...nrj", m, square(v)) for v in (a, b))
        if method == "whitened_pearson":
            left = size - m[:, None, :]
            rows_a, rows_b = rows_a - mean_a[..., None] * left, rows_b - mean_b[..., None] * left
        h_a, h_b = (_diagonal(r, m, size) for r in (rows_a, rows_b))
        cross = cross / 2 - ((m[:, None, :] * h_a) @ rows_b.mT) / 2
        square_a, square_b = (
            s / 2 - (m[:, None, :] * h * r).sum(-1) / 2
            for s, h, r in ((square_a, h_a, rows_a), (square_b, h_b, rows_b))
        )
    else:
        square_a, square_b = (_unless_rounding(s, raw) for s, raw in ((square_a, raw_a), (square_b, raw_b)))
    return cross / (square_a[..., :, None] * square_b[..., None, :]).sqrt()


def _cross(w: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Sum over pairs of ``w x y`` for every two RDMs ``[..., n, A, B]``."""
    both = (a[..., :, None, :] * b[..., None, :, :]).flatten(-3, -2)
    return (both @ w.mT).mT.unflatten(-1, (a.shape[-2], b.shape[-2]))


def _unless_rounding(variance: Tensor, raw: Tensor) -> Tensor:
    """NaN where a sum of squares about the mean holds nothing but the rounding of one about zero."""
    return torch.where(variance > 64 * torch.finfo(raw.dtype).eps * raw, variance, torch.nan)


def _diagonal(rows: Tensor, m: Tensor, size: Tensor) -> Tensor:
    """The diagonal h of the smallest matrix G with ``G_ii + G_jj - 2 G_ij = d_ij`` for the pairs of a resample.

    It solves ``(M - 2 m_i + 2) h_i + sum_j m_j h_j = r_i``, r being the row sums and M the size of the resample: a
    diagonal and a matrix of rank 1. The pattern that was drawn most often, whose coefficient alone may be 0 or less,
    comes last.
    """
    m, c = m[:, None, :], (size - 2 * m[:, None, :] + 2)
    most = m.argmax(-1, keepdim=True)
    others = torch.ones_like(m).scatter(-1, most, 0)
    safe = torch.where(others > 0, c, 1)
    c0, m0 = c.gather(-1, most), m.gather(-1, most)
    r0 = rows.gather(-1, most.expand(*rows.shape[:-1], 1))
    share = others * m / safe
    total = (m0 * r0 + c0 * (share * rows).sum(-1, keepdim=True)) / (c0 + m0 + c0 * share.sum(-1, keepdim=True))
    h = others * (rows - total) / safe
    last = (total - (m * h).sum(-1, keepdim=True)) / m0
    return torch.where(others > 0, h, last)


def _spearman(a: Tensor, b: Tensor, m: Tensor, w: Tensor, method: str) -> Tensor:
    total = w.sum(-1)
    ranks_a, ranks_b = (weighted_ranks(v, w) for v in (a, b))  # [..., n, R, pairs]
    left = w[:, None, :] * ranks_a
    cross = left @ ranks_b.mT
    if method == "rho_a":
        return 3 * cross / (total**3 - total)[:, None, None]
    square_a, square_b = (left * ranks_a).sum(-1), (w[:, None, :] * ranks_b.square()).sum(-1)
    return cross / (square_a[..., :, None] * square_b[..., None, :]).sqrt()


def weighted_ranks(x: Tensor, w: Tensor) -> Tensor:
    """Twice the mid-ranks without their mean, of values repeated by their weights, ``[..., n, R, pairs]``."""
    order, first, last = (v.unsqueeze(-3).expand(*v.shape[:-2], w.shape[0], *v.shape[-2:]) for v in _groups(x))
    ends = w[:, None, :].expand(order.shape).gather(-1, order).cumsum(-1)
    begin, end = torch.where(first > 0, ends.gather(-1, (first - 1).clamp(min=0)), 0), ends.gather(-1, last)
    ranks = torch.empty_like(ends).scatter_(-1, order, begin + end - w.sum(-1)[:, None, None])
    return torch.where(x.isnan().any(-1)[..., None, :, None], torch.nan, ranks)


def _kendall(a: Tensor, b: Tensor, m: Tensor, w: Tensor, method: str) -> Tensor:
    """Quadratic forms of the signs of all differences, a block of pairs at a time."""
    a, b, p = doubled_ranks(a), doubled_ranks(b), a.shape[-1]
    total = w.sum(-1)
    cross, apart_a, apart_b = w.new_zeros(()), w.new_zeros(()), w.new_zeros(())
    step = max(1, BLOCK // (p * max(1, a.shape[:-1].numel() * b.shape[-2])))
    for start in range(0, p, step):
        part = w[:, start : start + step]
        s_a, s_b = ((v[..., start : start + step, None] - v[..., None, :]).sign() for v in (a, b))
        cross = cross + _quadratic(part, s_a[..., :, None, :, :] * s_b[..., None, :, :, :], w).movedim(-1, -3)
        apart_a, apart_b = (t + _quadratic(part, s.abs(), w).mT for t, s in ((apart_a, s_a), (apart_b, s_b)))
    return _where_known(a, b, _tau(cross, apart_a, apart_b, (total * (total - 1))[:, None, None], method))


def _quadratic(left: Tensor, s: Tensor, right: Tensor) -> Tensor:
    """``left_n' s right_n`` of matrices ``s[..., p, q]`` for every n, ``[..., n]``."""
    return ((left @ s) * right).sum(-1)
