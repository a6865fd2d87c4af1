"""Comparators and the bootstrap on the compiled core (csrc/cpu/rsa_ranks.h); products of resamples are torch's."""

from torch import Tensor

from neurokernels._core import native
from neurokernels._core.covariance import compute_dtype
from neurokernels._core.covariance_cpu import DTYPES
from neurokernels.ops.rsa import inference_reference as reference
from neurokernels.ops.rsa.inference_leaves import (
    METHODS,
    RANKS,
    TAUS,
    allocate_features,
    allocate_similarities,
    conditions,
)


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
