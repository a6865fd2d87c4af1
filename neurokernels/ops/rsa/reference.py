"""The definition of the dissimilarities in plain PyTorch, differentiable and float64-able, and the reference backend.

Every metric is a sum of products of differences of prepared patterns, ``scale * sum_k (a_ik - a_jk)(b_ik - b_jk)``.
Here those differences are taken pair by pair, as many pairs at a time as `_AT_ONCE` numbers hold.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from neurokernels._core.covariance import compute_dtype

#: rsatoolbox's prior of a Poisson rate, and its weight.
PRIOR_LAMBDA, PRIOR_WEIGHT = 1.0, 0.1

_AT_ONCE = 1 << 22


def prepared(x: Tensor, metric: str) -> tuple[Tensor, Tensor]:
    """Patterns ``[..., N, M]`` whose products of differences are summed over M: twice the same one for most metrics.

    Args:
        x: ``[..., N, D]``, and ``[..., folds, N, D]`` for crossnobis, whose M is folds * D.
        metric: One of `rdm_leaves.METRICS`.
    """
    x = x.to(compute_dtype(x))
    if metric == "poisson":
        rate = (x + PRIOR_LAMBDA * PRIOR_WEIGHT) / (1 + PRIOR_WEIGHT)
        return rate, rate.log()
    if metric == "crossnobis":
        others = x.sum(-3, keepdim=True) - x
        return _side_by_side(others), _side_by_side(x)
    if metric in ("correlation", "cosine"):
        x = directions(x, metric)[0]
    return x, x


def directions(x: Tensor, metric: str) -> tuple[Tensor, Tensor]:
    """Patterns of length 1, less their mean over channels for correlation, and the lengths that they had.

    The mean is taken relative to the first channel: a constant pattern becomes 0 / 0, whatever the rounding.
    """
    if metric == "correlation":
        x = x - x[..., :1].detach()
        x = x - x.mean(-1, keepdim=True)
    length = (x * x).sum(-1, keepdim=True).sqrt()
    return x / length, length


def scale_of(x: Tensor, metric: str) -> float:
    """What a sum of products of differences is multiplied by, before a root is taken."""
    d = x.shape[-1]
    if metric == "crossnobis":
        return 1 / (x.shape[-3] * (x.shape[-3] - 1) * d)
    return {"correlation": 0.5, "cosine": 0.5, "euclidean": 1.0}.get(metric, 1 / d)


def _side_by_side(x: Tensor) -> Tensor:
    """``[..., folds, N, D]`` as ``[..., N, folds * D]``."""
    return x.transpose(-3, -2).flatten(-2)


def _fold(x: Tensor, like: Tensor) -> Tensor:
    """The inverse of `_side_by_side`."""
    return x.unflatten(-1, (like.shape[-3], like.shape[-1])).transpose(-3, -2)


def root(squares: Tensor) -> Tensor:
    """The square root, with the derivative 0 at 0."""
    zero = squares == 0
    return torch.where(zero, 0.0, torch.where(zero, 1.0, squares).sqrt())


def definition(x: Tensor, metric: str, condensed: bool = True) -> Tensor:
    """The dissimilarities as the contract defines them, differentiable by autograd."""
    (a, b), n = prepared(x, metric), x.shape[-2]
    i, j = torch.triu_indices(n, n, 1, device=x.device)
    d = ((a[..., i, :] - a[..., j, :]) * (b[..., i, :] - b[..., j, :])).sum(-1) * scale_of(x, metric)
    if metric == "euclidean":
        d = root(d)
    return d if condensed else square(d, n)


def square(d: Tensor, n: int) -> Tensor:
    """Pairs as a symmetric matrix ``[..., N, N]`` with zeros on its diagonal."""
    i, j = torch.triu_indices(n, n, 1, device=d.device)
    upper = d.new_zeros(*d.shape[:-1], n * n).index_copy(-1, i * n + j, d).unflatten(-1, (n, n))
    return upper + upper.mT


def place(i: Tensor, j: Tensor, n: int) -> Tensor:
    """Where pair (i, j) stands among all pairs i < j; anything for i = j."""
    low, high = torch.minimum(i, j), torch.maximum(i, j)
    return (low * (2 * n - low - 1) // 2 + high - low - 1).clamp(0, n * (n - 1) // 2 - 1)


# The reference backend ----------------------------------------------------------------------------------------------


def _pieces(total: int, each: int) -> Iterator[tuple[int, int]]:
    size = max(1, _AT_ONCE // max(each, 1))
    return ((start, min(start + size, total)) for start in range(0, total, size))


def rdm(x: Tensor, metric: str, condensed: bool) -> Tensor:
    """The leaf op ``rdm_fwd``."""
    *batch, n, _ = x.shape if metric != "crossnobis" else (*x.shape[:-3], *x.shape[-2:])
    d = x.new_empty((*batch, n * (n - 1) // 2), dtype=compute_dtype(x))
    a, b = prepared(x.contiguous(), metric)
    i, j = torch.triu_indices(n, n, 1, device=x.device)
    for start, end in _pieces(d.shape[-1], a.shape[:-2].numel() * a.shape[-1]):
        here, there = i[start:end], j[start:end]
        difference = a[..., here, :] - a[..., there, :]
        other = difference if a is b else b[..., here, :] - b[..., there, :]
        d[..., start:end] = (difference * other).sum(-1)
    d.mul_(scale_of(x, metric))
    if metric == "euclidean":
        d.sqrt_()
    return d if condensed else square(d, n)


def rdm_backward(g: Tensor, x: Tensor, d: Tensor, metric: str, condensed: bool) -> Tensor:
    """The leaf op ``rdm_bwd``."""
    x = x.contiguous()
    a, b = prepared(x, metric)
    da = _pulled(g.contiguous(), d, b, metric, condensed).mul_(scale_of(x, metric))
    if metric == "poisson":
        db = _pulled(g.contiguous(), d, a, metric, condensed).mul_(scale_of(x, metric))
        dx = (da + db / a) / (1 + PRIOR_WEIGHT)
    elif metric == "crossnobis":
        # Of a symmetric form of the folds: both factors give the same, and each fold is multiplied by all others.
        dx = 2 * _fold(da.copy_(_others(da, x)), x)
    elif metric == "euclidean":
        dx = da
    else:
        dx = da.mul_(2)
        if metric in ("correlation", "cosine"):
            dx = projected(dx, *directions(x.to(a.dtype), metric), metric)
    return x.new_empty(x.shape).copy_(dx)


def _others(g: Tensor, x: Tensor) -> Tensor:
    """For each fold the sum over all other ones, of what lies side by side."""
    folds = g.unflatten(-1, (x.shape[-3], x.shape[-1]))
    return (folds.sum(-2, keepdim=True) - folds).flatten(-2)


def projected(g: Tensor, u: Tensor, length: Tensor, metric: str) -> Tensor:
    """The gradient or tangent of a direction from, or to, that of the pattern: what is left of it across u."""
    if metric == "correlation":
        g = g - g.mean(-1, keepdim=True)
    return (g - u * (u * g).sum(-1, keepdim=True)) / length


def weights(g: Tensor, d: Tensor, start: int, end: int, n: int, metric: str, condensed: bool) -> Tensor:
    """Rows of the symmetric matrix ``[..., N, N]`` of the pairs' gradients, zero on the diagonal."""
    rows, columns = torch.arange(start, end, device=g.device)[:, None], torch.arange(n, device=g.device)
    if condensed:
        index = place(rows, columns, n)
        w, distances = g[..., index], d[..., index] if metric == "euclidean" else None
    else:
        w, distances = g[..., start:end, :] + g[..., :, start:end].mT, d[..., start:end, :]
    if metric == "euclidean" and distances is not None:
        w = torch.where(distances == 0, 0.0, w / distances)
    return w.masked_fill(rows == columns, 0.0)


def _pulled(g: Tensor, d: Tensor, y: Tensor, metric: str, condensed: bool) -> Tensor:
    """``sum_j w_ij (y_i - y_j)`` for every i."""
    n, out = y.shape[-2], torch.empty_like(y)
    for start, end in _pieces(n, y.numel()):
        w = weights(g, d, start, end, n, metric, condensed)
        difference = y[..., start:end, None, :] - y[..., None, :, :]
        out[..., start:end, :] = (w[..., None] * difference).sum(-2)
    return out


# Forward mode, for every backend ------------------------------------------------------------------------------------


def tangent(dx: Tensor, x: Tensor, metric: str, condensed: bool) -> Tensor:
    """The tangent of the dissimilarities, pair by pair."""
    x, dx, n = x.contiguous(), dx.to(compute_dtype(x)).contiguous(), x.shape[-2]
    a, b = prepared(x, metric)
    if metric == "poisson":
        da = dx / (1 + PRIOR_WEIGHT)
        db = da / a
    elif metric in ("correlation", "cosine"):
        da = db = projected(dx, *directions(x.to(a.dtype), metric), metric)
    else:
        da, db = prepared(dx, metric)
    i, j = torch.triu_indices(n, n, 1, device=x.device)
    pieces = []
    for start, end in _pieces(i.numel(), a.shape[:-2].numel() * a.shape[-1]):
        left, right, dleft, dright = (y[..., i[start:end], :] - y[..., j[start:end], :] for y in (a, b, da, db))
        slope = (dleft * right + left * dright).sum(-1)
        if metric == "euclidean":
            squares = (left * right).sum(-1)
            slope = torch.where(squares == 0, 0.0, slope / (2 * squares.sqrt()))
        pieces.append(slope)
    out = torch.cat(pieces, -1) * scale_of(x, metric)
    return out if condensed else square(out, n)
