"""What the machine can do: a copy of memory, and products of large matrices. Everything else is held to these."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch

from benchmarks import where
from neurokernels.bench import Row
from neurokernels.bench.ceilings import PRODUCTS, SIZE, precision

pytestmark = pytest.mark.proof


@pytest.mark.parametrize("gigabytes", [0.25, 4.0])
def bench_copy(race: Callable[..., Any], gigabytes: float) -> None:
    """Half of the bytes are read and half are written."""
    count = int(gigabytes * 2**30 / 8) if where.DEVICE == "cuda" else 2**20
    source = torch.randn(count, device=where.DEVICE)
    target = torch.empty_like(source)
    race(
        f"copy of {source.nbytes / 2**30:.2g} GiB",
        [Row("Tensor.copy_", lambda source, target: (target.copy_(source),))],
        op="copy",
        inputs=(source, target),
        params={"mode": "copy", "dtype": "float32"},
        nbytes=2 * source.nbytes,
        rounds=(10, 30),
    )


@pytest.mark.parametrize("name", PRODUCTS)
def bench_product(race: Callable[..., Any], name: str) -> None:
    dtype, setting = PRODUCTS[name]
    n = SIZE[where.DEVICE]
    a, b = (torch.randn(n, n, device=where.DEVICE).to(dtype) for _ in range(2))
    race(
        f"product {name} {n}x{n}x{n}",
        [Row("torch.matmul", lambda a, b: (a @ b,), scope=partial(precision, setting))],
        op="product",
        inputs=(a, b),
        params={"mode": "product", "dtype": name},
        flops=2.0 * n**3,
        product=name,
        rounds=(5, 20),
    )
