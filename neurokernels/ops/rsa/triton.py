"""Dissimilarity matrices on a GPU: patterns are prepared by torch, pairs are `triton_kernels`.

float32 products are three TF32 products each; of pairs that lie close together differences are summed up in float32.
"""

from typing import Any

import torch
from torch import Tensor

from neurokernels._core import tuned
from neurokernels._core.covariance import compute_dtype
from neurokernels._core.triton import launch_product
from neurokernels.ops.rsa import reference
from neurokernels.ops.rsa.rdm_leaves import allocate, centred
from neurokernels.ops.rsa.triton_kernels import (
    close_gradient_kernel,
    distance_kernel,
    gradient_kernel,
    refine_kernel,
)

#: Where a distance is below this share of the distances of both patterns from their mean, its digits are made good.
_NEAR = 1 / 16


def _cdiv(a: int, b: int) -> int:
    return -(-a // b)


def _flat(x: Tensor) -> Tensor:
    return x.reshape(-1, *x.shape[-2:]).contiguous()


def _factors(a: Tensor, b: Tensor, x: Tensor, metric: str) -> tuple[Tensor, Tensor, float]:
    """Factors ``[B, N, M]`` of the symmetric product, less the mean pattern, and what to multiply distances by.

    Poisson rates and their logarithms stand side by side, in both orders: their product is then symmetric.
    """
    scale = reference.scale_of(x, metric)
    if metric == "poisson":
        mean = torch.where(a.isfinite(), a, 0.0).mean(-2, keepdim=True)
        a, b = a - mean, b - torch.where(mean > 0, mean, 1.0).log()
        return _flat(torch.cat((a, b), -1)), _flat(torch.cat((b, a), -1)), scale
    if metric == "crossnobis":
        # Folds are centred one by one; the sum of all other ones is then centred too.
        return _flat(centred(a)), _flat(centred(b)), 2 * scale
    a = _flat(centred(a))
    return a, a, 2 * scale


def _sizes(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(-1).mul_(0.5)


def _precision(x: Tensor) -> str:
    return "ieee" if x.dtype == torch.float64 else "tf32x3"


def _upper(n: int, tile: int) -> tuple[int, int]:
    """Tiles of the upper triangle, and of a side."""
    tiles = _cdiv(n, tile)
    return tiles * (tiles + 1) // 2, tiles


def rdm(x: Tensor, metric: str, condensed: bool) -> Tensor:
    """The leaf op ``rdm_fwd``."""
    out = allocate(x, metric, condensed)
    first, second = reference.prepared(x.contiguous(), metric)
    a, b, scale = _factors(first, second, x, metric)
    items, n, m = a.shape
    shared: dict[str, Any] = {
        "sizes": _sizes(a, b), "out": out, "n": n, "scale": scale, "ROOT": metric == "euclidean",
        "SQUARE": not condensed,
    }  # fmt: skip
    config = tuned.choice("rdm", out, n)
    count, tiles = _upper(n, config["tile"])
    launch_product(
        distance_kernel, (items * count,), x, config["warps"], config["stages"],
        **shared, a=a, b=b, m=m, blocks=count, tiles=tiles, PRECISION=_precision(out), TILE=config["tile"],
        DEPTH=config["depth"],
    )  # fmt: skip
    if metric != "crossnobis":
        count, tiles = _upper(n, 32)
        launch_product(
            refine_kernel, (items * count,), x, 4,
            **shared, a=_flat(first), b=_flat(second), m=first.shape[-1], blocks=count, tiles=tiles,
            direct=reference.scale_of(x, metric), near=_NEAR, TILE=32,
        )  # fmt: skip
    return out


def rdm_backward(g: Tensor, x: Tensor, d: Tensor, metric: str, condensed: bool) -> Tensor:
    """The leaf op ``rdm_bwd``."""
    first, second = reference.prepared(x.contiguous(), metric)
    a, b, scale = _factors(first, second, x, metric)
    items, n, m = a.shape
    out, root = torch.empty_like(a), metric == "euclidean"
    shared: dict[str, Any] = {
        "g": g.contiguous(), "distances": d.contiguous() if root else out, "sizes": _sizes(a, b), "out": out,
        "n": n, "m": m, "near": _NEAR, "SQUARE": not condensed,
    }  # fmt: skip
    config = tuned.choice("rdm", out, n)
    rows = config["tile"]
    launch_product(
        gradient_kernel, (items * _cdiv(n, rows), _cdiv(m, 64)), x, config["warps"], config["stages"],
        **shared, y=a, blocks=_cdiv(n, rows), ROOT=root, PRECISION=_precision(a), ROWS=rows, OTHERS=config["depth"],
        COLUMNS=64,
    )  # fmt: skip
    if root:
        launch_product(
            close_gradient_kernel, (items * _cdiv(n, 16), _cdiv(m, 16)), x, 4,
            **shared, y=_flat(first), blocks=_cdiv(n, 16), ROWS=16, COLUMNS=16,
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
