"""How one sample is timed: by the wall clock on a CPU, by device time on a GPU; and the limits a row runs under."""

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle, islice
from time import perf_counter
from types import FrameType
from typing import Any

import torch
from torch import Tensor

Call = Callable[..., Any]
Sampler = Callable[[], float]


def sampler(
    clock: str, call: Call, arguments: Sequence[tuple[Tensor, ...]], calls: int, captures: bool = True
) -> tuple[str, Sampler]:
    """What takes one sample: the seconds of ``calls`` calls, divided by their number.

    Nothing synchronises between the calls. Arguments are taken in turn.

    Args:
        clock: ``wall``; ``events``: device time between two CUDA events; ``graph``: the same around the replay of a
            CUDA graph of the calls, which leaves out the time that Python takes to launch them.
        call: What is timed.
        arguments: Its arguments, one tuple for each copy of the inputs.
        calls: Calls in a sample.
        captures: Whether a graph may be tried: not of what works behind torch's back, as other libraries do.

    Returns:
        The clock in use (``events`` where a call cannot be captured into a graph) and the sampler.
    """

    def run() -> None:
        for chosen in islice(cycle(arguments), calls):
            call(*chosen)

    if clock == "wall":
        return clock, lambda: _wall(run) / calls
    if clock == "graph" and captures:
        graph = _capture(run)
        if graph is not None:
            return clock, lambda: _events(graph.replay) / calls
    return "events", lambda: _events(run) / calls


def _wall(run: Callable[[], None]) -> float:
    start = perf_counter()
    run()
    return perf_counter() - start


def _events(run: Callable[[], None]) -> float:
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    run()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3


def _capture(run: Callable[[], None]) -> torch.cuda.CUDAGraph | None:
    """A graph of the run, or None where it does what a graph cannot hold.

    Whether it waits for the GPU is found out before: a capture that fails leaves torch's allocator in its pool.
    """
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    before = torch.cuda.get_sync_debug_mode()
    with torch.cuda.stream(side):  # workspaces are allocated in a stream's first call, which must not be the capture
        run()
        torch.cuda.set_sync_debug_mode("error")
        try:
            run()
        except RuntimeError:
            return None
        finally:
            torch.cuda.set_sync_debug_mode(before)
            torch.cuda.synchronize()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            run()
    except RuntimeError:
        torch.cuda.synchronize()
        return None
    return graph


def rotated(inputs: tuple[Tensor, ...]) -> list[tuple[Tensor, ...]]:
    """Copies of the inputs to take in turn, so that none is found in a GPU's L2 cache when its turn comes.

    On a CPU the inputs alone: a network's activations come out of its caches too, and the ceiling is measured alike.
    """
    if not inputs or inputs[0].device.type != "cuda":
        return [inputs]
    cache = torch.cuda.get_device_properties(inputs[0].device).L2_cache_size
    footprint = sum(x.untyped_storage().nbytes() for x in inputs)
    copies = min(64, 1 + -(-2 * cache // max(footprint, 1)))
    return [inputs] + [
        tuple(x.detach().clone().requires_grad_(x.requires_grad) for x in inputs) for _ in range(copies - 1)
    ]


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Sets torch's thread count within the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class OutOfTime(Exception):
    """A row took longer than its limit."""


class _Alarm(BaseException):
    """Not an Exception: compilers catch these, and go on."""


@contextmanager
def time_limit(seconds: float | None) -> Iterator[None]:
    """Ends the block when the time is up, where the system has alarms and this is the main thread; else lets it run.

    Raises:
        OutOfTime: The block took longer.
    """
    on_main = threading.current_thread() is threading.main_thread()
    if seconds is None or not on_main or not hasattr(signal, "setitimer"):
        yield
        return
    rang = False

    def ring(number: int, frame: FrameType | None) -> None:
        nonlocal rang
        rang = True
        raise _Alarm

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    except BaseException as error:
        if rang:  # whatever the block made of the alarm
            raise OutOfTime(f"not done in {seconds:g} s") from error
        raise
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
