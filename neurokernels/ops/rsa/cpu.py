"""The CPU kernels of dissimilarity matrices: hands addresses, sizes and strides to the C++ core (csrc/cpu/rdm.h)."""

from typing import Any

import torch
from torch import Tensor

from neurokernels._core import native
from neurokernels._core.covariance_cpu import DTYPES
from neurokernels.ops.rsa.rdm_leaves import METRICS, allocate


def _patterns(x: Tensor, metric: str) -> tuple[Tensor, tuple[Any, ...]]:
    """Patterns with dense channels and one stride for all leading dimensions, and how the core sees them."""
    *batch, n, d = x.shape
    folds = batch.pop() if metric == "crossnobis" else 1
    items = torch.Size(batch).numel()
    x = x if d < 2 or x.stride(-1) == 1 else x.contiguous()
    flat = x.reshape(items, folds, n, d)
    item, fold, row, _ = flat.stride()
    return flat, (flat.data_ptr(), items, folds, n, d, item, fold, row)


def rdm(x: Tensor, metric: str, condensed: bool) -> Tensor:
    """The leaf op ``rdm_fwd``."""
    out = allocate(x, metric, condensed)
    if out.numel():
        native.fresh(out)
        _held, given = _patterns(x, metric)
        native.core().rdm(
            DTYPES[x.dtype], METRICS.index(metric), given, not condensed, out.data_ptr(), native.threads()
        )
    return out


def rdm_backward(g: Tensor, x: Tensor, d: Tensor, metric: str, condensed: bool) -> Tensor:
    """The leaf op ``rdm_bwd``."""
    dx = x.new_empty(x.shape)
    if dx.numel():
        native.fresh(dx)
        _held, given = _patterns(x, metric)
        g = g.contiguous()
        distances = d.contiguous() if metric == "euclidean" else None
        native.core().rdm_gradient(
            DTYPES[x.dtype], METRICS.index(metric), given, not condensed, g.data_ptr(),
            0 if distances is None else distances.data_ptr(), dx.data_ptr(), native.threads(),
        )  # fmt: skip
    return dx
