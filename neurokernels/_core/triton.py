"""Whether Triton can run a call, and how its kernels are launched. Imports nothing of Triton."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import cache
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from torch import Tensor


@cache
def _installed() -> bool:
    return find_spec("triton") is not None


def interpreted() -> bool:
    """Whether Triton runs its kernels in Python, on CPU tensors (``TRITON_INTERPRET=1``)."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


def refuses(x: Tensor) -> str | None:
    """Why Triton cannot run a call on this tensor, or None. Imports nothing."""
    if not _installed():
        return "triton is not installed (pip install neurokernels[gpu])"
    if x.device.type == "cpu":
        if not interpreted():
            return "it serves cuda tensors; on the CPU only Triton's interpreter does (TRITON_INTERPRET=1), for tests"
    elif x.device.type != "cuda":
        return f"it serves cuda tensors and this one is on {x.device.type}"
    return None


class Series(NamedTuple):
    """A tensor seen as ``[T, outer, inner]``, as a kernel takes it: a pointer (or None) and three strides."""

    pointer: Any
    time: int
    outer: int
    inner: int


def _seen_as_two(shape: Sequence[int], strides: list[Sequence[int]]) -> tuple[int, list[tuple[int, int]]] | None:
    """The inner size, and (outer, inner) strides per tensor, if each can step through the dimensions as through two."""
    merged: list[tuple[int, tuple[int, ...]]] = []
    for size, *steps in zip(shape, *strides, strict=True):
        if size == 1:
            continue
        if merged and all(outer == size * inner for outer, inner in zip(merged[-1][1], steps, strict=True)):
            merged[-1] = merged[-1][0] * size, tuple(steps)
        else:
            merged.append((size, tuple(steps)))
    if len(merged) > 2:
        return None
    nothing = (1, (0,) * len(strides))
    (_, outer), (inner_size, inner) = [nothing] * (2 - len(merged)) + merged
    return inner_size, list(zip(outer, inner, strict=True))


@contextmanager
def arranged(inputs: Sequence[Tensor | None], outputs: Sequence[Tensor | None]) -> Iterator[tuple[int, list[Series]]]:
    """Tensors ``[T, *neurons]`` of one shape as `Series`, without a copy wherever two strides can describe the neurons.

    Where they cannot, inputs are copied, and outputs are written to a contiguous tensor and copied on leaving.

    Yields:
        The size of the inner dimension, and a series for each input and output, in order; None gives a series of
        nothing.
    """
    tensors = [*inputs, *outputs]
    given = [t for t in tensors if t is not None]
    seen = _seen_as_two(given[0].shape[1:], [t.stride()[1:] for t in given])
    copies: list[tuple[Tensor, Tensor]] = []
    if seen is None:
        fresh = [None if o is None else torch.empty_like(o, memory_format=torch.contiguous_format) for o in outputs]
        copies = [(o, f) for o, f in zip(outputs, fresh, strict=True) if o is not None and f is not None]
        tensors = [*(None if i is None else i.contiguous() for i in inputs), *fresh]
        given = [t for t in tensors if t is not None]
        seen = _seen_as_two(given[0].shape[1:], [t.stride()[1:] for t in given])
    assert seen is not None, "contiguous tensors have one stride"
    strides = iter(seen[1])
    yield seen[0], [Series(None, 0, 0, 0) if t is None else Series(t, t.stride(0), *next(strides)) for t in tensors]
    for output, written in copies:
        output.copy_(written)


#: From so many neurons on, a GPU is full even if each thread takes two.
MANY = 1 << 17


def launch(kernel: Any, like: Tensor, total: int, *, pairs: bool, **arguments: Any) -> None:
    """Runs a kernel over ``total`` neurons on the device of ``like`` and torch's current stream.

    Few neurons go to programs of one warp, so that they spread over the whole GPU. Many go to programs of four, where a
    thread may take a pair: twice the registers, but half of the address arithmetic and of the memory instructions.

    Args:
        kernel: A Triton kernel; its arguments ``total`` and ``BLOCK`` are filled in.
        like: A tensor on the device that runs it.
        total: Number of neurons; nothing runs if it is zero.
        pairs: Whether a pair per thread fits the registers.
        arguments: The kernel's other arguments.
    """
    if total == 0:
        return
    warps = 4 if total >= MANY else 1
    size = 32 * warps * (2 if pairs and total >= MANY else 1)
    elsewhere = like.is_cuda and like.get_device() != torch.cuda.current_device()
    with torch.cuda.device(like.device) if elsewhere else nullcontext():
        # A fused multiply-add rounds once where the definition rounds twice, and flips spikes.
        kernel[(-(-total // size),)](**arguments, total=total, BLOCK=size, num_warps=warps, enable_fp_fusion=False)
