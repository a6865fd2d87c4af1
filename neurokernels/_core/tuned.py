"""Configurations of kernels by op, architecture, dtype and size class: looked up, never tuned on a user's call.

``tuned.json`` beside this holds them; ``tools/tune.py`` measures candidates on a GPU and writes it. A row whose
``measured`` is null was reasoned and not measured.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

TABLE = Path(__file__).with_name("tuned.json")


@cache
def _rows() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(TABLE.read_text())["rows"]
    return rows


@cache
def _arch(device: int) -> str:
    major, minor = torch.cuda.get_device_capability(device)
    return f"sm_{major}{minor}"


def choice(op: str, like: Tensor, size: int) -> dict[str, Any]:
    """The configuration for a call.

    Args:
        op: A key of the table, for example ``"lif"``.
        like: A tensor of the dtype, on the device.
        size: What the op's size classes are in; the table says what that is.
    """
    if op in _forced:
        return _forced[op]
    return _choice(op, _arch(like.get_device()) if like.is_cuda else "any", _name(like.dtype), size)


@contextmanager
def forced(op: str, config: dict[str, Any]) -> Iterator[None]:
    """Every call of an op takes this configuration within the block, in every thread: for tuning and for tests."""
    _forced[op] = config
    try:
        yield
    finally:
        del _forced[op]


_forced: dict[str, dict[str, Any]] = {}


@cache
def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


@lru_cache(maxsize=4096)
def _choice(op: str, arch: str, dtype: str, size: int) -> dict[str, Any]:
    """The first row of the op, the architecture (or any) and the dtype (or any) that is not too small."""
    fitting = (
        row
        for row in _rows()
        if row["op"] == op
        and row["arch"] in (arch, "any")
        and row["dtype"] in (dtype, "any")
        and (row["up_to"] is None or size <= row["up_to"])
    )
    for row in fitting:
        config: dict[str, Any] = row["config"]
        return config
    raise KeyError(f"tuned.json has no row for {op} in {dtype} of size {size} on {arch}")
