"""Whitening by the covariance of conditions, and pairs that nobody measured: products and solves of N x N matrices.

With C the contrasts of all pairs, dissimilarities have the covariance V = (C S C')^2, squared element by element, for
patterns of covariance S (Diedrichsen et al. 2020). For every G with ``G_ii + G_jj - 2 G_ij = d_ij`` the smallest
``tr(S^-1 G S^-1 G)`` is ``d' V^-1 d``, to a factor; the G that has it is ``-Q D Q' / 2`` with
``Q = I - 1 1' S^-1 / (1' S^-1 1)``. So ``d' V^-1 e = tr(P D P E) / 2`` with ``P = S^-1 Q``, and
``V^-1 d`` are the pairs of ``P D P``, all of it to a factor that cosines do not see.
"""

import torch
from torch import Tensor

from neurokernels._core.covariance import compute_dtype, full_precision
from neurokernels._core.products import product
from neurokernels.ops.rsa.inference_reference import ROOT, centred, pair_indices, square


def _map(sigma_k: Tensor) -> Tensor:
    """M with ``M' M = P``: the inverse of the Cholesky factor of S, and then the projection."""
    with full_precision(sigma_k):
        n = sigma_k.shape[-1]
        lower = torch.linalg.cholesky(sigma_k)
        rows = torch.linalg.solve_triangular(lower, torch.eye(n, dtype=lower.dtype, device=lower.device), upper=False)
        ones = rows.sum(-1, keepdim=True)
        return rows - ones * ((ones.mT @ rows) / ones.square().sum())


def whitened(x: Tensor, sigma_k: Tensor, method: str) -> Tensor:
    """RDMs ``[..., R, pairs]`` to vectors ``[..., R, pairs + N]`` whose products are those by V^-1."""
    x = x.to(compute_dtype(x))
    if method == "whitened_pearson":
        x = centred(x)
    m = _map(sigma_k).expand(*x.shape[:-1], *sigma_k.shape)
    g = product(product(m, square(x)), m.mT)
    i, j = pair_indices(g.shape[-1], g.device)
    return torch.cat((ROOT * g[..., i, j], g.diagonal(dim1=-2, dim2=-1)), -1)


def filled(x: Tensor, seen: Tensor, sigma_k: Tensor | None, method: str) -> Tensor:
    """RDMs ``[R, pairs]`` with the pairs that were not seen ``[pairs]`` put where they cost nothing.

    With them, ``d' V^-1 d`` is that of the pairs that were seen, by the part of V that is theirs. Of whitened_pearson
    the mean over the latter is gone.
    """
    x = x.to(compute_dtype(x))
    if method == "whitened_pearson":
        measured = x[:, seen]
        x = x - (measured[:, :1] + centred_mean(measured))
    x = torch.where(seen, x, 0)
    with full_precision(x):
        return _filled_by_rows(x, seen) if sigma_k is None else _filled_by_pairs(x, seen, sigma_k)


def centred_mean(x: Tensor) -> Tensor:
    """The mean relative to the first element."""
    return (x - x[:, :1]).mean(-1, keepdim=True)


def _filled_by_rows(x: Tensor, seen: Tensor) -> Tensor:
    """For independent conditions: G is 0 at unseen pairs, and its diagonal h solves ``(D + 2 + A) h = r``.

    A says which pairs were seen, D how many of every condition were, and r are the row sums.
    """
    adjacent, rows = square(seen.to(x.dtype)), square(x).sum(-1)
    matrix = adjacent + torch.diag(adjacent.sum(-1) + 2)
    h = torch.linalg.solve(matrix, rows.mT).mT
    i, j = pair_indices(h.shape[-1], x.device)
    return torch.where(seen, x, h[:, i] + h[:, j])


def _filled_by_pairs(x: Tensor, seen: Tensor, sigma_k: Tensor) -> Tensor:
    """For any covariance: a system of as many equations as there are unseen pairs."""
    m = _map(sigma_k)
    p = m.mT @ m
    i, j = (index[~seen] for index in pair_indices(p.shape[-1], x.device))
    inverse = p[i[:, None], i] * p[j[:, None], j] + p[i[:, None], j] * p[j[:, None], i]
    known = (p @ square(x) @ p)[:, i, j]
    missing = -torch.linalg.solve(inverse, known.mT).mT
    return torch.zeros_like(x).masked_scatter(~seen.expand_as(x), missing) + x
