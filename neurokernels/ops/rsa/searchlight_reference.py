"""The searchlight in plain PyTorch, and the reference backend: RDMs of a part of the neighbourhoods at a time."""

from collections.abc import Iterator

import torch
from torch import Tensor

from neurokernels._core.covariance import compute_dtype
from neurokernels.ops.rsa.inference_leaves import TAUS
from neurokernels.ops.rsa.inference_reference import BLOCK, concordance, features, pair_indices

#: rsatoolbox's prior of a Poisson rate, and its weight.
PRIOR_LAMBDA, PRIOR_WEIGHT = 1.0, 0.1


def rates(x: Tensor) -> Tensor:
    """Counts with the prior of a rate of 1, which has a logarithm."""
    return (x + PRIOR_LAMBDA * PRIOR_WEIGHT) / (1 + PRIOR_WEIGHT)


def batches(offsets: Tensor, each: int) -> Iterator[tuple[Tensor, int]]:
    """Centres of neighbourhoods of one size, a few at a time, and that size; ``each`` is what one channel takes."""
    sizes = offsets.diff()
    for size in sizes.unique().tolist():
        yield from ((c, size) for c in (sizes == size).nonzero()[:, 0].split(max(1, BLOCK // max(1, size * each))))


def gathered(data: Tensor, indices: Tensor, offsets: Tensor, centres: Tensor, size: int) -> Tensor:
    """The channels of some centres ``[..., C, N, size]`` of data ``[..., N, V]``."""
    places = offsets[centres, None] + torch.arange(size, device=offsets.device)
    return data[..., indices[places]].movedim(-2, -3)


def rdm(x: Tensor, metric: str) -> Tensor:
    """Condensed RDMs ``[..., pairs]`` of patterns ``[..., N, D]`` (crossnobis: ``[..., folds, N, D]``)."""
    d = x.shape[-1]
    i, j = pair_indices(x.shape[-2], x.device)
    if metric in ("correlation", "cosine"):
        if metric == "correlation":
            x = x - x[..., :1]
            x = x - x.mean(-1, keepdim=True)
        x = x / torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        return 1 - (x @ x.mT)[..., i, j]
    if metric == "poisson":
        x = rates(x)
        return ((x[..., i, :] - x[..., j, :]) * (x[..., i, :].log() - x[..., j, :].log())).sum(-1) / d
    apart = x[..., i, :] - x[..., j, :]
    if metric == "crossnobis":
        folds = x.shape[-3]
        return (apart.sum(-3).square() - apart.square().sum(-3)).sum(-1) / (d * folds * (folds - 1))
    squares = apart.square().sum(-1)
    return squares.sqrt() if metric == "euclidean" else squares / d


def compared(rdms: Tensor, models: Tensor, method: str) -> Tensor:
    """RDMs ``[..., C, pairs]`` with models ``[M, pairs]``, or with their features, ``[..., C, M]``."""
    if method in TAUS:
        return concordance(rdms, models.expand(*rdms.shape[:-2], *models.shape), method)
    return features(rdms, method)[0] @ models.mT


def prepared(models: Tensor, method: str, dtype: torch.dtype) -> Tensor:
    """What `compared` takes."""
    return models.to(dtype) if method in TAUS else features(models.double(), method)[0].to(dtype)


def searchlight(data: Tensor, indices: Tensor, offsets: Tensor, models: Tensor, metric: str, method: str) -> Tensor:
    """The leaf op ``searchlight_fwd``."""
    data = data.to(compute_dtype(data)).contiguous()
    batch = data.shape[: -3 if metric == "crossnobis" else -2]
    out = data.new_empty((*batch, offsets.shape[0] - 1, models.shape[0]))
    models = prepared(models, method, data.dtype)
    for centres, size in batches(offsets, data.shape[:-1].numel() * data.shape[-2]):
        x = gathered(data, indices, offsets, centres, size)
        if metric == "crossnobis":
            x = x.movedim(-3, -4)  # [..., folds, C, N, size]
        out[..., centres, :] = compared(rdm(x, metric), models, method)
    return out
