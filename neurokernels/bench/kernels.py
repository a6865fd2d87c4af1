"""Rows for the kernels alone, below autograd and the dispatcher, found by watching a call."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from neurokernels._core import backends, native
from neurokernels.bench.clocks import torch_threads
from neurokernels.bench.memory import LeafCall, leaf_calls
from neurokernels.bench.race import Row


def kernels(backend: str, call: Callable[..., Any], inputs: tuple[Tensor, ...], threads: int = 1) -> Row:
    """A row of the kernels that a call of ours runs, at the bytes that they have to move.

    On a CPU these are calls into the compiled core, again and again with the same memory: a memory copy allocates none
    either. On a GPU they are the leaf ops, since memory comes from a pool there.

    Args:
        backend: The backend that the call is forced to.
        call: What runs the kernels, backward pass included.
        inputs: The inputs of the race, which the call is handed.
        threads: CPU threads.

    Returns:
        The row; the gate is handed the first result of each leaf op.
    """

    def record(*inputs: Tensor) -> list[LeafCall]:
        with torch.enable_grad(), backends.backend(backend):
            return leaf_calls(lambda: call(*inputs))

    with torch_threads(threads):
        leaves = record(*inputs)
        run = _CoreCalls(leaves) if backend == "cpu" else _LeafCalls(record)
    nbytes = sum(leaf.nbytes for leaf in leaves)
    return Row(f"{backend} kernels", run, ours=True, threads=threads, nbytes=nbytes, scope=torch.no_grad)


class _LeafCalls:
    """Leaf ops, recorded once for each copy of the inputs."""

    def __init__(self, record: Callable[..., list[LeafCall]]) -> None:
        self._record = record
        self._leaves: dict[int, list[LeafCall]] = {}

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        copy = inputs[0].data_ptr()
        if copy not in self._leaves:
            self._leaves[copy] = self._record(*inputs)
        return tuple([leaf()[0] for leaf in self._leaves[copy]])


class _CoreCalls:
    """The core's calls know addresses only: this holds the memory behind them. Results are NaN until the first call."""

    def __init__(self, leaves: list[LeafCall]) -> None:
        self._calls: list[Callable[[], None]] = []
        recorder = _Recorder(native.core(), self._calls)
        with patch.object(native, "core", lambda: recorder), torch.no_grad():
            self._memory = leaves, [leaf() for leaf in leaves]
        self._results = tuple(out[0].fill_(math.nan) for out in self._memory[1])

    def __call__(self, *_: Tensor) -> tuple[Tensor, ...]:
        for call in self._calls:
            call()
        return self._results


class _Recorder:
    """Stands for the compiled core: notes calls and makes none."""

    def __init__(self, core: Any, calls: list[Callable[[], None]]) -> None:
        self._core, self._calls = core, calls

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *arguments: self._calls.append(partial(getattr(self._core, name), *arguments))
