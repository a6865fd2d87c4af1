"""The Triton backend of the covariance, and what spectra share with it: launches of `covariance_triton_kernels`.

How sums are split depends on shapes alone, so that results are the same on every GPU.
"""

from typing import Any

import torch
from torch import Tensor

from neurokernels._core import tuned
from neurokernels._core.covariance_triton_kernels import (
    Samples,
    centre_kernel,
    gather_kernel,
    mean_kernel,
    rank_update_kernel,
    scatter_kernel,
    sums_kernel,
)
from neurokernels._core.triton import launch_product

#: So many programs are worth a second pass that adds up their parts: about two for each multiprocessor of a large GPU.
ENOUGH = 256

#: No part of a sum has fewer rows.
SHORTEST = 128

_COLUMNS = 128


def _cdiv(a: int, b: int) -> int:
    return -(-a // b)


def _power(size: int, low: int, high: int) -> int:
    """The least power of two that is not below ``size``, between two bounds."""
    return min(max(1 << max(size - 1, 0).bit_length(), low), high)


def _split(n: int, programs: int, rows: int) -> tuple[int, int]:
    """Rows per part, a multiple of ``rows``, and the number of parts, so that there are enough programs."""
    parts = max(1, min(ENOUGH // max(programs, 1), n // SHORTEST))
    span = _cdiv(_cdiv(n, parts), rows) * rows
    return span, max(1, _cdiv(n, span))


def _samples(x: Tensor) -> tuple[Samples, torch.Size, tuple[int, int, int]]:
    """Samples as the kernels see them, their leading dimensions, and B, N and D."""
    *batch, n, d = x.shape
    items = torch.Size(batch).numel()
    flat = x.reshape(items, n, d)
    return Samples(flat, *flat.stride()), torch.Size(batch), (items, n, d)


def _precision(x: Tensor) -> str:
    """float32 is float32 unless the user allows TF32; half precision goes to tensor cores, as three TF32 products."""
    if x.dtype in (torch.bfloat16, torch.float16):
        return "tf32x3"
    return "tf32" if x.dtype == torch.float32 and torch.backends.cuda.matmul.fp32_precision == "tf32" else "ieee"


def _mean(x: Tensor, samples: Samples, batch: torch.Size, sizes: tuple[int, int, int]) -> Tensor:
    items, n, d = sizes
    mean = x.new_empty((*batch, d), dtype=torch.promote_types(x.dtype, torch.float32))
    blocks = _cdiv(d, _COLUMNS)
    span, parts = _split(n, blocks * items, 16)
    sums = mean if parts == 1 else mean.new_empty(items, parts, d)
    shared: dict[str, Any] = {
        "x": samples, "sums": sums, "mean": mean, "n": n, "d": d, "blocks": blocks, "parts": parts, "COLUMNS": _COLUMNS
    }  # fmt: skip
    launch_product(sums_kernel, (items * blocks, parts), x, 4, **shared, span=span, ROWS=16)
    if parts > 1:
        launch_product(mean_kernel, (items * blocks,), x, 4, **shared)
    return mean


def centred(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """`neurokernels._core.covariance.centred`; x is read twice, the result written once."""
    samples, batch, (items, n, d) = arranged = _samples(x)
    out = x.new_empty(x.shape, dtype=dtype)
    mean = _mean(x, *arranged)
    blocks, across = _cdiv(n, 32), _cdiv(d, _COLUMNS)
    squares = mean.new_empty(items, blocks * across)
    launch_product(
        centre_kernel, (items * blocks, across), x, 4,
        x=samples, mean=mean, out=out, squares=squares, n=n, d=d, blocks=blocks, ROWS=32, COLUMNS=_COLUMNS,
    )  # fmt: skip
    return out, mean, squares.sum(-1, dtype=torch.float64).to(mean.dtype).reshape(batch)


def covariance_forward(x: Tensor, correction: float) -> tuple[Tensor, Tensor]:
    """The covariance matrix and the mean, from x alone: it is centred as it is loaded."""
    samples, batch, (items, n, d) = arranged = _samples(x)
    dtype = torch.promote_types(x.dtype, torch.float32)
    out = x.new_empty((*batch, d, d), dtype=dtype)
    mean = _mean(x, *arranged)
    config = tuned.choice("covariance", out, d)
    tile, rows = config["tile"], config["rows"]
    tiles = _cdiv(d, tile)
    count = tiles * (tiles + 1) // 2
    span, parts = _split(n, count * items, rows)
    work = out if parts == 1 else out.new_empty(items, parts, count, tile, tile)
    shared: dict[str, Any] = {
        "out": out, "work": work, "d": d, "blocks": count, "tiles": tiles, "parts": parts,
        "scale": 1 / (n - correction), "TILE": tile,
    }  # fmt: skip
    launch_product(
        scatter_kernel, (items * count, parts), x, config["warps"], config["stages"],
        **shared, x=samples, mean=mean, n=n, span=span, PRECISION=_precision(x), ROWS=rows,
    )  # fmt: skip
    if parts > 1:
        launch_product(gather_kernel, (items * count,), x, 4, **shared)
    return out, mean


def covariance_backward(g: Tensor, x: Tensor, mean: Tensor, correction: float) -> Tensor:
    """``(x - mean) (g + g') / (N - correction)``.

    A plain product of two matrices: the vendor's library runs it several times as fast as a Triton kernel in float32,
    and what fusion would save, x and g once more through memory, is small beside 2 N D^2 operations. The mean is
    subtracted first and not as a correction afterwards, which would lose the digits that an offset of x takes.
    """
    centred = x.to(mean.dtype).contiguous() - mean[..., None, :]
    centred -= centred.mean(-2, keepdim=True)  # a rounding of the mean is the same in every sample: it would stay
    return (centred @ ((g + g.mT) / (x.shape[-2] - correction))).to(x.dtype)


def rank_update(y: Tensor, scale: Tensor, v: Tensor, x: Tensor, mean: Tensor, trend: Tensor) -> Tensor:
    """``(y * scale) v' + trend * (x - mean)`` in one pass: the gradient of x from that of k eigenvalues and the trace.

    Args:
        y: ``[..., N, k]``, float32, or float64 for float64 x.
        scale: ``[..., k]``.
        v: ``[..., D, k]``.
        x: ``[..., N, D]``.
        mean: ``[..., D]``.
        trend: ``[...]``; a tensor, so that no number has to come from the GPU.

    Returns:
        ``[..., N, D]`` in the dtype of x.
    """
    samples, _, (items, n, d) = _samples(x)
    out, k = x.new_empty(x.shape), y.shape[-1]
    config = tuned.choice("rank_update", mean, k)
    rows, columns = config["rows"], config["columns"]
    launch_product(
        rank_update_kernel, (items * _cdiv(n, rows), _cdiv(d, columns)), x, config["warps"], config["stages"],
        y=y.contiguous(), scale=scale.contiguous(), v=v.contiguous(), x=samples, mean=mean.contiguous(),
        trend=trend.contiguous(), out=out, n=n, d=d, k=k, blocks=_cdiv(n, rows),
        PRECISION="ieee" if mean.dtype == torch.float64 else "tf32x3", ROWS=rows, COLUMNS=columns, RANK=config["rank"],
    )  # fmt: skip
    return out
