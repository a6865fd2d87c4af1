"""How fast a device multiplies large matrices: measured once in a process, for the rows that are held to it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache

import torch

from neurokernels.bench.clocks import sampler
from neurokernels.bench.results import RowResult

#: Products by name: the dtype of the factors, and what torch may make of float32 on a GPU.
PRODUCTS: dict[str, tuple[torch.dtype, str | None]] = {
    "bfloat16": (torch.bfloat16, None),
    "tf32": (torch.float32, "tf32"),
    "float32": (torch.float32, "ieee"),
    "float64": (torch.float64, None),
}
#: Rows and columns of the factors: enough to fill a GPU; on a CPU, where this is rehearsed, a moment.
SIZE = {"cuda": 8192, "cpu": 256}
TERAFLOPS = "TFLOP/s"


@contextmanager
def precision(setting: str | None) -> Iterator[None]:
    """What torch may make of products of float32 on a GPU, within the block; None leaves it as it is."""
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    matmul.fp32_precision = setting or before
    try:
        yield
    finally:
        matmul.fp32_precision = before


@cache
def product_rate(name: str, device: torch.device) -> float:
    """Operations per second of a large square product of normal numbers on a device: the best of several.

    Args:
        name: One of `PRODUCTS`.
        device: Where.
    """
    dtype, setting = PRODUCTS[name]
    n, gpu = SIZE[device.type], device.type == "cuda"
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    with precision(setting):
        take = sampler("events" if gpu else "wall", torch.matmul, [(a, b)], 2)[1]
        return 2 * float(n) ** 3 / min(take() for _ in range(5))


def counted(row: RowResult, flops: float, product: str, device: torch.device) -> RowResult:
    """A row with its TFLOP/s and their share of a product's, if it gave a time."""
    if row.timing is None:
        return row
    rate = flops / row.timing.best
    share = rate / product_rate(product, device)
    return replace(row, extra=row.extra | {TERAFLOPS: rate / 1e12, f"of a {product} product": share})
