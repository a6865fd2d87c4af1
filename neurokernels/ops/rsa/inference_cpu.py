"""Comparators and the bootstrap on the compiled core (csrc/cpu/rsa_ranks.h); products of resamples are torch's."""

import torch
from torch import Tensor

from neurokernels._core import native
from neurokernels._core.covariance import compute_dtype
from neurokernels._core.covariance_cpu import DTYPES
from neurokernels.ops.rsa import inference_reference as reference
from neurokernels.ops.rsa.inference_leaves import (
    METHODS,
    METRICS,
    RANKS,
    TAUS,
    allocate_features,
    allocate_similarities,
    conditions,
)
from neurokernels.ops.rsa.searchlight_reference import rates

#: Bytes of a line of a cache, to whose multiples rows of a searchlight's data are filled up.
_LINE = 64


def _dense(x: Tensor) -> Tensor:
    return x.to(compute_dtype(x)).contiguous()


def features(x: Tensor, method: str) -> tuple[Tensor, Tensor]:
    """The leaf op ``rdm_features``."""
    out, norm = allocate_features(x, method)
    if norm.numel():
        native.fresh(out)
        x = _dense(x)
        native.core().rdm_features(
            DTYPES[x.dtype], x.data_ptr(), norm.numel(), x.shape[-1], conditions(x.shape[-1]), METHODS.index(method),
            out.data_ptr(), norm.data_ptr(), native.threads(),
        )  # fmt: skip
    return out, norm


def concordance(a: Tensor, b: Tensor, method: str) -> Tensor:
    """The leaf op ``rdm_concordance``."""
    out = allocate_similarities(a, b)
    if out.numel():
        a, b = _dense(a), _dense(b)
        native.core().rdm_concordance(
            DTYPES[a.dtype], a.data_ptr(), b.data_ptr(), out.shape[:-2].numel(), *out.shape[-2:], a.shape[-1],
            METHODS.index(method), out.data_ptr(), native.threads(),
        )  # fmt: skip
    return out


def bootstrap(a: Tensor, b: Tensor, counts: Tensor, method: str) -> Tensor:
    """The leaf op ``bootstrap_fwd``: ranks are the core's; pearson, cosine and the whitened ones are products."""
    if method not in RANKS + TAUS:
        return reference.bootstrap(a, b, counts, method)
    out = allocate_similarities(a, b, counts.shape[0])
    if out.numel() == 0:
        return out
    a, b, counts = _dense(a), _dense(b), counts.contiguous()
    sets = (v.reshape(-1, *v.shape[-2:]) for v in (a, b))
    for x, y, into in zip(*sets, out.view(-1, *out.shape[-3:]), strict=True):
        native.core().rdm_resample(
            DTYPES[x.dtype], x.data_ptr(), y.data_ptr(), len(x), len(y), conditions(x.shape[-1]), counts.data_ptr(),
            len(counts), METHODS.index(method), into.data_ptr(), native.threads(),
        )  # fmt: skip
    return out


def searchlight(data: Tensor, indices: Tensor, offsets: Tensor, models: Tensor, metric: str, method: str) -> Tensor:
    """The leaf op ``searchlight_fwd`` (csrc/cpu/rsa_searchlight.h): neighbourhoods gather rows of one channel each."""
    data = data.to(compute_dtype(data))
    folds = metric == "crossnobis"
    batch, n, channels = data.shape[: -3 if folds else -2], data.shape[-2], data.shape[-1]
    out = data.new_empty((*batch, len(offsets) - 1, len(models)))
    if out.numel() == 0:
        return out
    if metric == "poisson":
        data = rates(data)
        data = torch.stack((data, data.log()), -3)
    elif not folds:
        data = data.unsqueeze(-3)
    parts, line = data.shape[-3], _LINE // data.element_size()
    panel = data.new_zeros((*batch, channels, parts, -(-n // line) * line))
    panel[..., :n] = data.movedim(-1, -3)
    # A tau ranks what models say; the others are inner products with their features.
    given = models.double().contiguous() if method in TAUS else features(models.double(), method)[0]
    native.core().searchlight(
        DTYPES[data.dtype], panel.data_ptr(), batch.numel(), channels, parts, panel.shape[-1], n, indices.data_ptr(),
        offsets.data_ptr(), len(offsets) - 1, METRICS.index(metric), given.data_ptr(), len(models),
        METHODS.index(method), out.data_ptr(), native.threads(),
    )  # fmt: skip
    return out
