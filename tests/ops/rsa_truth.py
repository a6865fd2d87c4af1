"""Comparators and resamples by definition: loops over pairs in NumPy that share no code with the library."""

from itertools import combinations

import numpy as np
import torch

METHODS = ("pearson", "cosine", "spearman", "kendall", "rho_a", "tau_a", "whitened_cosine", "whitened_pearson")
SMOOTH = ("pearson", "cosine", "whitened_cosine", "whitened_pearson")
RSATOOLBOX = {
    "pearson": "corr", "cosine": "cosine", "spearman": "spearman", "kendall": "kendall", "rho_a": "rho-a",
    "tau_a": "tau-a", "whitened_cosine": "cosine_cov", "whitened_pearson": "corr_cov",
}  # fmt: skip


def rdms(count, conditions, seed=0, ties=0, dtype=torch.float64):
    """Random RDMs; every other one takes only so many values, if ties are asked for."""
    x = torch.rand(count, conditions * (conditions - 1) // 2, dtype=torch.float64, generator=_generator(seed)) + 0.2
    if ties:
        x[::2] = (x[::2] * ties).ceil()
    return x.to(dtype)


def counts(n, conditions, seed=0):
    """How often resamples draw each condition."""
    draws = torch.randint(conditions, (n, conditions), generator=_generator(seed))
    return torch.stack([torch.bincount(row, minlength=conditions) for row in draws])


def _generator(seed):
    return torch.Generator().manual_seed(seed)


def covariance(conditions, sigma=None):
    """V of all pairs: the squared covariance of differences, element by element (Diedrichsen et al. 2020)."""
    sigma = np.eye(conditions) if sigma is None else sigma
    pairs = list(combinations(range(conditions), 2))
    v = np.empty((len(pairs),) * 2)
    for p, (i, j) in enumerate(pairs):
        for q, (k, m) in enumerate(pairs):
            v[p, q] = (sigma[i, k] - sigma[i, m] - sigma[j, k] + sigma[j, m]) ** 2
    return v


def mid_ranks(x):
    """One more than how many are smaller, and half of the others that are equal."""
    return np.array([1 + sum(x < v) + (sum(x == v) - 1) / 2 for v in x])


def similarity(x, y, method, v=None):
    """One comparator of two vectors of pairs; ``v`` is their covariance, for the whitened ones."""
    n = len(x)
    if method in ("kendall", "tau_a"):
        signs = [(np.sign(x[p] - x[q]), np.sign(y[p] - y[q])) for p, q in combinations(range(n), 2)]
        total = sum(a * b for a, b in signs)
        if method == "tau_a":
            return total / len(signs)
        return total / np.sqrt(float(sum(a != 0 for a, _ in signs)) * sum(b != 0 for _, b in signs))
    if method in ("spearman", "rho_a"):
        x, y = mid_ranks(x), mid_ranks(y)
    if method in ("pearson", "spearman", "rho_a", "whitened_pearson"):
        x, y = x - x.mean(), y - y.mean()
    if method == "rho_a":
        return 12 * (x @ y) / (n**3 - n)
    if method.startswith("whitened"):
        x, y, w = x, y, np.linalg.inv(v)
        return (x @ w @ y) / np.sqrt((x @ w @ x) * (y @ w @ y))
    return (x @ y) / np.sqrt((x @ x) * (y @ y))


def drawn(x, conditions, count):
    """The RDM of a resample, pair by pair, and which of the pairs are of two different conditions."""
    square = np.zeros((conditions, conditions))
    square[np.triu_indices(conditions, 1)] = x
    square += square.T
    who = np.repeat(np.arange(conditions), count)
    pairs = list(combinations(range(len(who)), 2))
    return np.array([square[who[p], who[q]] for p, q in pairs]), np.array([who[p] != who[q] for p, q in pairs])


def resampled(x, y, conditions, count, method):
    """One comparator of two RDMs in a resample."""
    (x, seen), (y, _) = drawn(x, conditions, count), drawn(y, conditions, count)
    v = covariance(int(count.sum()))[seen][:, seen] if method.startswith("whitened") else None
    return similarity(x[seen], y[seen], method, v)


def every(a, b, one):
    """``one(x, y)`` of every two rows."""
    return torch.tensor([[one(x, y) for y in b.double().numpy()] for x in a.double().numpy()])
