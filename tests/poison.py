"""Memory that shows when it was not written."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


@contextmanager
def poisoned(warn_only: bool = False) -> Iterator[None]:
    """Empty tensors are NaN, or the largest integer, within the block.

    Args:
        warn_only: Whether torch only warns of its own algorithms that are not deterministic, as some of a GPU are.
    """
    before = torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=warn_only)
    torch.utils.deterministic.fill_uninitialized_memory = True
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.utils.deterministic.fill_uninitialized_memory = before[1]


class Filled(TorchFunctionMode):
    """Every byte of an empty tensor is the given one: results that differ between two bytes were not all written."""

    EMPTY = (torch.empty, torch.empty_like, torch.empty_strided, torch.Tensor.new_empty, torch.Tensor.new_empty_strided)

    def __init__(self, byte: int) -> None:
        super().__init__()
        self.byte = byte

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func in self.EMPTY:
            storage = torch.empty(0, dtype=torch.uint8).set_(out.untyped_storage())
            storage.fill_(self.byte)
        return out
