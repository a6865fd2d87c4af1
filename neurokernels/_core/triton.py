"""Whether Triton can run a call, and how its kernels are launched. Imports nothing of Triton."""

import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache, partial
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from torch import Tensor

from neurokernels._core import tuned


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
    """A tensor seen as ``[T, outer, inner]``, as a kernel takes it: a pointer, or None, and strides in elements."""

    pointer: Any
    time: int
    outer: int
    inner: int


class Seen(NamedTuple):
    """Series of one shape: the size of their inner dimension, or None if there is no outer one, and the series."""

    inner: int | None
    series: list[Series]


def _seen(tensors: Sequence[Tensor | None]) -> Seen | None:
    """Tensors ``[T, *neurons]`` as series, if each can step through its neurons as through two dimensions."""
    given = [t for t in tensors if t is not None]
    if all(t.is_contiguous() for t in given):
        total = given[0].shape[1:].numel()
        return Seen(None, [Series(None, 0, 0, 0) if t is None else Series(t, total, 0, 1) for t in tensors])
    merged: list[tuple[int, tuple[int, ...]]] = []
    dimensions = zip(given[0].shape[1:], *(t.stride()[1:] for t in given), strict=True)
    for size, *strides in dimensions if given[0].numel() else ():
        if size == 1:
            continue
        if merged and all(outer == size * inner for outer, inner in zip(merged[-1][1], strides, strict=True)):
            merged[-1] = merged[-1][0] * size, tuple(strides)
        else:
            merged.append((size, tuple(strides)))
    if len(merged) > 2:
        return None
    nothing = (1, (0,) * len(given))
    (_, outer), (inner_size, inner) = [nothing] * (2 - len(merged)) + merged
    steps = iter(zip(outer, inner, strict=True))
    series = [Series(None, 0, 0, 0) if t is None else Series(t, t.stride(0), *next(steps)) for t in tensors]
    return Seen(inner_size if len(merged) == 2 else None, series)


@contextmanager
def arranged(inputs: Sequence[Tensor | None], outputs: Sequence[Tensor | None]) -> Iterator[Seen]:
    """Tensors ``[T, *neurons]`` of one shape as series, without a copy wherever two strides can describe the neurons.

    Where they cannot, inputs are copied, and outputs are written to a contiguous tensor and copied on leaving.

    Yields:
        The series of the inputs and then of the outputs, one of nothing for None.
    """
    copies: list[tuple[Tensor, Tensor]] = []
    seen = _seen([*inputs, *outputs])
    if seen is None:
        fresh = [None if o is None else torch.empty_like(o, memory_format=torch.contiguous_format) for o in outputs]
        copies = [(o, f) for o, f in zip(outputs, fresh, strict=True) if o is not None and f is not None]
        seen = _seen([*(None if i is None else i.contiguous() for i in inputs), *fresh])
    assert seen is not None, "one stride describes the neurons of a contiguous tensor"
    yield seen
    for output, written in copies:
        output.copy_(written)


def on_device(like: Tensor) -> AbstractContextManager[None]:
    """The context in which kernels run on the device of a tensor: of no cost where that is the current one."""
    elsewhere = like.is_cuda and like.get_device() != torch.cuda.current_device()
    return torch.cuda.device(like.device) if elsewhere else nullcontext()


def launch_product(
    kernel: Any, grid: tuple[int, ...], like: Tensor, warps: int, stages: int = 2, **arguments: Any
) -> None:
    """Runs a kernel that multiplies matrices, on torch's current stream of a device; nothing if the grid is empty.

    Args:
        kernel: A Triton kernel.
        grid: Programs.
        like: A tensor on the device that runs it.
        warps: Of a program.
        stages: Tiles that are loaded ahead.
        arguments: The kernel's arguments, and further options of a launch.
    """
    if 0 in grid:
        return
    with on_device(like):
        # A fused multiply-add is what a product of matrices wants; Triton's own default depends on its version.
        kernel[grid](**arguments, num_warps=warps, num_stages=stages, enable_fp_fusion=True)


#: The same with all registers there are: without a limit the assembler picks a lower one, and may spill a few so that
#: more programs fit a GPU.
launch_wide = partial(launch_product, maxnreg=255)


def _pairs_align(total: int, seen: Seen) -> bool:
    """Whether Triton sees that neurons 2 i and 2 i + 1 lie side by side in every row of every series.

    Where it does not, series and states would be laid out differently over threads, and every load pass shared memory.
    """
    sizes = [total, seen.inner or 0]
    for series in seen.series:
        if series.pointer is not None:
            if series.inner != 1 or series.pointer.data_ptr() % 16:
                return False
            sizes += [series.time, series.outer]
    return all(size % 16 == 0 for size in sizes)


def launch(kernel: Any, like: Tensor, total: int, seen: Seen, *, pairs: bool, **arguments: Any) -> None:
    """Runs a kernel over ``total`` neurons on the device of ``like`` and torch's current stream.

    Few neurons go to programs of one warp, so that they spread over the whole GPU. Many go to programs of four, where a
    thread may take a pair: twice the registers, but half of the address arithmetic and of the memory instructions.

    Args:
        kernel: A Triton kernel; its arguments ``total``, ``inner`` and ``BLOCK`` are filled in.
        like: A tensor on the device that runs it.
        total: Number of neurons; nothing runs if it is zero.
        seen: The series that are among the arguments.
        pairs: Whether the registers hold a pair per thread, if that is thought faster for so many neurons.
        arguments: The kernel's other arguments.
    """
    if total == 0:
        return
    config = tuned.choice("lif_triton", like, total)
    warps = config["warps"]
    size = 32 * warps * (2 if pairs and config["pairs"] and _pairs_align(total, seen) else 1)
    with on_device(like):
        kernel[(-(-total // size),)](
            **arguments, total=total, inner=seen.inner, BLOCK=size, num_warps=warps,
            enable_fp_fusion=False,  # a fused multiply-add rounds once where the definition rounds twice: flips spikes
        )  # fmt: skip
