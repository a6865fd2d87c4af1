"""Dissimilarity matrices on a GPU: patterns are prepared by torch, pairs are `triton_kernels`.

float32 products are three TF32 products each; of pairs that lie close together differences are summed up in float32.
"""

from typing import Any

import torch
from torch import Tensor

from neurokernels._core.covariance import compute_dtype
from neurokernels._core.triton import on_device
from neurokernels.ops.rsa import reference
from neurokernels.ops.rsa.rdm_leaves import allocate, centred
from neurokernels.ops.rsa.triton_kernels import distance_kernel, gradient_kernel

#: Where a distance is below this share of the distances of both patterns from their mean, its digits are made good.
_NEAR = 1 / 16


def _cdiv(a: int, b: int) -> int:
    return -(-a // b)


def _prepared(x: Tensor, metric: str) -> tuple[Tensor, Tensor, float]:
    """Factors ``[B, N, M]`` of the symmetric product, less the mean pattern, and what to multiply distances by.

    Poisson rates and their logarithms stand side by side, in both orders: their product is then symmetric.
    """
    a, b = reference.prepared(x.contiguous(), metric)
    scale = reference.scale_of(x, metric)
    if metric == "poisson":
        mean = torch.where(a.isfinite(), a, 0.0).mean(-2, keepdim=True)
        log = torch.where(mean > 0, mean, 1.0).log()
        a, b = a - mean, b - log
        a, b = torch.cat((a, b), -1), torch.cat((b, a), -1)
    elif metric == "crossnobis":
        # Folds are centred one by one; the sum of all other ones is then centred too.
        a, b, scale = centred(a), centred(b), 2 * scale
    else:
        a = b = centred(a)
        scale = 2 * scale
    n, m = a.shape[-2:]
    return a.reshape(-1, n, m).contiguous(), b.reshape(-1, n, m).contiguous(), scale


def _sizes(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(-1).mul_(0.5)


def _launch(kernel: Any, grid: tuple[int, ...], like: Tensor, **arguments: Any) -> None:
    if 0 in grid:
        return
    with on_device(like):
        kernel[grid](**arguments, num_warps=4, num_stages=2, enable_fp_fusion=True)


def _precision(x: Tensor) -> str:
    return "ieee" if x.dtype == torch.float64 else "tf32x3"


def rdm(x: Tensor, metric: str, condensed: bool) -> Tensor:
    """The leaf op ``rdm_fwd``."""
    out = allocate(x, metric, condensed)
    a, b, scale = _prepared(x, metric)
    items, n, m = a.shape
    double = out.dtype == torch.float64
    tile = 16 if n <= 16 else 32 if n <= 32 or double else 64
    tiles = _cdiv(n, tile)
    count = tiles * (tiles + 1) // 2
    _launch(
        distance_kernel, (items * count,), x,
        a=a, b=b, sizes=_sizes(a, b), out=out, n=n, m=m, blocks=count, tiles=tiles, scale=scale, near=_NEAR,
        ROOT=metric == "euclidean", REFINE=metric != "crossnobis", SQUARE=not condensed, PRECISION=_precision(out),
        TILE=tile, DEPTH=16 if double else 32,
    )  # fmt: skip
    return out


def rdm_backward(g: Tensor, x: Tensor, d: Tensor, metric: str, condensed: bool) -> Tensor:
    """The leaf op ``rdm_bwd``."""
    a, b, scale = _prepared(x, metric)
    items, n, m = a.shape
    out, double = torch.empty_like(a), a.dtype == torch.float64
    rows = 16 if n <= 16 else 32 if double else 64
    _launch(
        gradient_kernel, (items * _cdiv(n, rows), _cdiv(m, 64)), x,
        y=a, g=g.contiguous(), distances=d.contiguous() if metric == "euclidean" else out, sizes=_sizes(a, b), out=out,
        n=n, m=m, blocks=_cdiv(n, rows), near=_NEAR, ROOT=metric == "euclidean", SQUARE=not condensed,
        PRECISION=_precision(a), ROWS=rows, OTHERS=16 if double else 32, COLUMNS=64,
    )  # fmt: skip
    return x.new_empty(x.shape).copy_(_pulled(out, x, metric, scale))


def _pulled(out: Tensor, x: Tensor, metric: str, scale: float) -> Tensor:
    """From the gradient of a prepared pattern, before its scale, to that of the pattern."""
    compute, d = compute_dtype(x), x.shape[-1]
    if metric == "crossnobis":
        lead, folds, n = x.shape[:-3], x.shape[-3], x.shape[-2]
        return out.mul_(scale).reshape(*lead, n, folds, d).transpose(-3, -2)
    if metric == "poisson":
        out = out.mul_(scale / (1 + reference.PRIOR_WEIGHT)).reshape(*x.shape[:-1], 2 * d)
        return out[..., d:] + out[..., :d] / reference.prepared(x.contiguous(), metric)[0]
    out = out.reshape(x.shape)
    if metric == "euclidean":
        return out
    out = out.mul_(scale)
    if metric in ("correlation", "cosine"):
        out = reference.projected(out, *reference.directions(x.contiguous().to(compute), metric), metric)
    return out
