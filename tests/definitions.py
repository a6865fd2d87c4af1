"""The public ops as their definitions in plain PyTorch, with the public signatures; autograd differentiates them."""

import math
from typing import Any

import torch
from torch import Tensor

from neurokernels import surrogate as surrogates
from neurokernels._core import covariance_reference
from neurokernels.ops.cca import reference as cca
from neurokernels.ops.lif.reference import definition, leaky_definition
from neurokernels.ops.lif.rule import Rule, compute_dtype
from neurokernels.ops.rsa import loss_reference as rsa
from neurokernels.ops.rsa import reference as dissimilarities


def lif(
    x: Tensor,
    *,
    decay: Any,
    threshold: Any = 1.0,
    gain: Any = 1.0,
    reset: str = "zero",
    v_reset: Any = 0.0,
    reset_at: str = "reach",
    floor: float | None = None,
    refractory: int = 0,
    surrogate: Any = "atan",
    detach_reset: bool = True,
    v0: Any = None,
    time_dim: int = 0,
    residual: str = "auto",
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Spikes, membrane and countdown of `neurokernels.lif`; ``residual`` changes nothing here."""
    chosen = surrogates.get(surrogate)
    v0, countdown = v0 if isinstance(v0, tuple) else (v0, None)
    rule = Rule(
        reset, reset_at == "above", floor is not None, refractory, detach_reset, chosen.shape, "none",
        *[math.nan] * 4, 0.0 if floor is None else floor, chosen.peak, chosen.slope, chosen.low, chosen.high,
    )  # fmt: skip
    x = x.movedim(time_dim, 0)
    parameters = (p.to(compute_dtype(x)) if isinstance(p, Tensor) else p for p in (decay, threshold, gain, v_reset))
    spikes, membrane, left = definition(x, *parameters, v0, countdown, rule, chosen)
    return spikes.movedim(0, time_dim), membrane, left


def leaky_integrate(
    x: Tensor, *, decay: Any, gain: Any = 1.0, floor: float | None = None, v0: Tensor | None = None, time_dim: int = 0
) -> Tensor:
    """The trace of `neurokernels.leaky_integrate`."""
    x = x.movedim(time_dim, 0)
    parameters = (p.to(compute_dtype(x)) if isinstance(p, Tensor) else p for p in (decay, gain))
    return leaky_definition(x, *parameters, v0, floor).movedim(0, time_dim)


def symmetric(a: Tensor) -> Tensor:
    """Half of the sum of a matrix and its transpose: a symmetric matrix, and the derivative of each one of a pair."""
    return (a + a.mT) / 2


def eigh(a: Tensor) -> tuple[Tensor, Tensor]:
    """Values and vectors of `neurokernels.eigh`; its derivatives are those of a function of the symmetric part."""
    return torch.linalg.eigh(symmetric(a.to(torch.promote_types(a.dtype, torch.float32))))


def covariance_spectrum(x: Tensor, *, k: int | None = None, correction: float = 1) -> Tensor:
    """Eigenvalues of the covariance matrix, descending: the D x D one always, whatever N is."""
    values = torch.linalg.eigvalsh(covariance_reference.definition(x, correction=correction)).flip(-1)
    return values[..., : min(x.shape[-2:]) if k is None else k]


def dcca_loss(
    x: Tensor,
    y: Tensor,
    *,
    reg: float | tuple[float, float] = 1e-4,
    objective: str = "nuclear",
    k: int | None = None,
    precision: str = "high",
) -> Tensor:
    """`neurokernels.dcca_loss` by covariances, in the widest dtype of the two; ``precision`` changes nothing here."""
    return -cca.definition(*_views(x, y), *_pair(reg), objective, k or 0)[0]


def canonical_correlations(x: Tensor, y: Tensor, *, reg: float | tuple[float, float] = 1e-4) -> Tensor:
    """`neurokernels.canonical_correlations` by covariances."""
    return cca.definition(*_views(x, y), *_pair(reg))[1]


def _views(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    wide = torch.promote_types(x.dtype, y.dtype)
    return x.to(wide), y.to(wide)


def _pair(reg: float | tuple[float, float]) -> tuple[float, float]:
    return reg if isinstance(reg, tuple) else (reg, reg)


def rdm(x: Tensor, *, metric: str = "correlation", precision: Tensor | None = None, condensed: bool = True) -> Tensor:
    """`neurokernels.rdm` pair by pair; the precision by its Cholesky factor, which autograd differentiates."""
    if precision is not None:
        whole = precision.to(compute_dtype(x))
        x = x.to(whole.dtype) @ torch.linalg.cholesky(symmetric(whole))
    return dissimilarities.definition(x, "sqeuclidean" if metric == "mahalanobis" else metric, condensed)


def similarity(z: Tensor, metric: str, mean: Tensor | None = None, precision: Tensor | None = None) -> Tensor:
    """Similarities or distances of patterns ``[..., N, D]``, or of folds of them for crossnobis."""
    d = z.shape[-1]
    if metric == "crossnobis":
        folds = z.shape[-3]
        p = torch.eye(d, dtype=z.dtype) if precision is None else precision
        total = z.new_zeros(*z.shape[:-3], z.shape[-2], z.shape[-2])
        for f in range(folds):
            rest = (z.sum(-3) - z[..., f, :, :]) / (folds - 1)
            one, other = (v[..., :, None, :] - v[..., None, :, :] for v in (z[..., f, :, :], rest))
            total = total + ((one @ p) * other).sum(-1) / (folds * d)
        return total
    z = z if mean is None else z - mean
    z = z - z.mean(-1, keepdim=True) if metric == "correlation" else z
    if metric in ("cosine", "correlation"):
        z = z / z.square().sum(-1, keepdim=True).sqrt()
    if metric in ("sqeuclidean", "mahalanobis"):
        gap = z[..., :, None, :] - z[..., None, :, :]
        return ((gap if precision is None else gap @ precision) * gap).sum(-1) / d
    return z @ z.mT


def rsa_loss(
    x: Any,
    target: Tensor | None = None,
    *,
    responses: Any = None,
    form: str = "li2019",
    metric: str | None = None,
    weights: Tensor | None = None,
    eps: float = 1e-5,
    scale: str = "code",
    pairs: str = "all",
    mean: Any = None,
    precision: Any = None,
    distances: bool = False,
    centre: bool = True,
    accuracy: str = "high",
) -> Tensor:
    """`neurokernels.rsa_loss` by N x N matrices."""
    metric = metric or ("linear" if form.startswith("cka") else "cosine")
    layers = x if isinstance(x, tuple) else (x,)
    means, precisions = (v if isinstance(v, tuple) else (v,) * len(layers) for v in (mean, precision))
    wide = torch.promote_types(layers[0].dtype, torch.float32)
    shares = (torch.zeros(len(layers)) if weights is None else weights).to(wide).softmax(-1)
    each = [similarity(z.to(wide), metric, m, p) for z, m, p in zip(layers, means, precisions, strict=True)]
    s = (torch.stack(each, -3) * shares[..., :, None, None]).sum(-3)
    n = s.shape[-1]
    if responses is not None:
        scans = responses if isinstance(responses, tuple) else (responses,)
        own = "sqeuclidean" if metric in ("mahalanobis", "crossnobis") else metric
        centred = [v - v.mean(-2, keepdim=True) if own == "cosine" and centre else v for v in scans]
        t = torch.stack([similarity(v.to(wide), own) for v in centred]).mean(0)
    else:
        assert target is not None
        t = target.to(wide)
        if t.shape[-2:] != (n, n):
            i, j = torch.triu_indices(n, n, 1)
            given, t = t, t.new_zeros(*t.shape[:-1], n, n)
            t[..., i, j] = given
        t = t.triu() + t.triu(1).mT
        t = 1 - t if distances else t
    if distances and metric in ("cosine", "correlation") and form != "li2019":
        s, t = 1 - s, 1 - t
    value = rsa.definition(s, t, form, eps, pairs == "disjoint")
    return value / 4 if scale == "paper" else value


def cka(x: Tensor, y: Tensor, *, debiased: bool = False) -> Tensor:
    """`neurokernels.cka` by N x N matrices."""
    x, y = (v.to(torch.promote_types(v.dtype, torch.float32)) for v in _views(x, y))
    return 1 - rsa.definition(x @ x.mT, y @ y.mT, "cka_debiased" if debiased else "cka")
