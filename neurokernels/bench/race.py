"""Contenders run in turn, A B C A B C, in one process: what disturbs the machine disturbs them all, and ratios hold."""

import gc
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from statistics import median
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from neurokernels.bench import ceilings, machine
from neurokernels.bench.clocks import Call, OutOfTime, Sampler, rotated, sampler, time_limit, torch_threads
from neurokernels.bench.goals import Goal
from neurokernels.bench.results import TAX, Group, RowResult
from neurokernels.bench.stats import summarise

#: Looks at what a row returned; says in a sentence what is wrong with it, or returns None.
Gate = Callable[[Any], str | None]

SAMPLE = 0.003  # seconds: long enough for the clock, shorter than the turns that a busy system gives to a process
LONG = 1.0  # seconds: a first call that takes longer has warmed up and needs no second one to be told so


@dataclass(frozen=True)
class Row:
    """A contender.

    Attributes:
        name: What it is called in tables.
        call: Called with the inputs of the race; what it returns goes to the gate.
        ours: Whether it is this library's: then a wrong result is a bug here.
        threads: CPU threads; None for the group's.
        package: The package whose version is recorded.
        nbytes: Bytes it has to move in a call; None for the group's.
        gate: Its own gate; None for the group's.
        scope: A context that it runs in, entered outside the clock.
        limit: Seconds its first call may take, compilation included.
        extra: Further figures, measured once.
        captures: Whether its calls may be tried in a CUDA graph.
        over: The row that this one adds something to. What that costs is its ``tax``: by how much it takes longer, as
            the median of the ratios within a round, which a machine that slows down for a while does not move.
    """

    name: str
    call: Call
    ours: bool = False
    threads: int | None = None
    package: str | None = None
    nbytes: float | None = None
    gate: Gate | None = None
    scope: Callable[[], AbstractContextManager[Any]] = nullcontext
    limit: float | None = None
    extra: Callable[[], dict[str, float]] = dict
    captures: bool = True
    over: str | None = None


@dataclass(frozen=True)
class Absent:
    """A contender that cannot take part, and why."""

    name: str
    reason: str
    package: str | None = None


@dataclass
class _Lane:
    """A row on its way through the race."""

    row: Row
    threads: int
    result: RowResult
    take: Sampler | None = None
    clock: str = "wall"
    calls: int = 1
    samples: list[float] = field(default_factory=list)

    def fail(self, status: str, reason: str) -> None:
        self.result, self.take = replace(self.result, status=status, reason=reason), None


def race(
    name: str,
    rows: Sequence[Row | Absent],
    *,
    op: str,
    inputs: tuple[Tensor, ...],
    gate: Gate | None = None,
    goals: Sequence[Goal] = (),
    params: Mapping[str, object] | None = None,
    threads: int = 1,
    nbytes: float | None = None,
    flops: float | None = None,
    product: str = "float32",
    clock: str = "auto",
    budget: float = 0.5,
    rounds: tuple[int, int] = (5, 100),
) -> Group:
    """Races rows against each other.

    Every row is called once and its results go through the gate: a row that is wrong is listed as FAIL, without a time.
    The others run in rounds, each for some milliseconds in turn. For each footprint and thread count among them a
    memory copy runs along: the ceiling.

    Args:
        name: The group's name, unique in its file.
        rows: The contenders.
        op: The op.
        inputs: Handed to every row; the size of the first is the group's size, its device the group's device.
        gate: Judges what rows return.
        goals: What is hoped for.
        params: What sets this group apart.
        threads: CPU threads of rows that do not say otherwise.
        nbytes: Bytes that a call has to move at least: every input and result once.
        flops: Floating-point operations that a call needs: then rows say TFLOP/s, and their share of what a product of
            large matrices reaches.
        product: Which one, of `neurokernels.bench.ceilings`.
        clock: ``wall``, ``events`` or ``graph``; ``auto`` is ``wall`` on a CPU and ``events`` on a GPU.
        budget: Seconds to spend per row, about.
        rounds: The least and the largest number of rounds.

    Returns:
        The group, with every row in the order given.
    """
    device = inputs[0].device.type
    if clock == "auto":
        clock = "events" if device == "cuda" else "wall"
    results: list[RowResult | _Lane] = []
    arguments = rotated(inputs)
    for row in rows:
        if isinstance(row, Absent):
            results.append(RowResult(row.name, "absent", package=row.package, reason=row.reason))
        else:
            results.append(_entered(row, arguments, gate, clock, threads, nbytes))
    lanes = [r for r in results if isinstance(r, _Lane)]
    copies = {key: _copy_lane(*key, inputs[0].device, clock) for key in dict.fromkeys(_footprints(lanes))}
    _run([*lanes, *copies.values()], budget, rounds)
    samples = {lane.row.name: lane.samples for lane in lanes}
    finished = [r if isinstance(r, RowResult) else _finished(r, copies, samples) for r in results]
    if flops is not None:
        finished = [ceilings.counted(row, flops, product, inputs[0].device) for row in finished]
    by_name = {row.name: row for row in finished}
    packages = [row.package for row in rows if row.package]
    return Group(
        name=name,
        op=op,
        size=inputs[0].numel(),
        device=device,
        threads=threads,
        params={key: str(value) for key, value in (params or {}).items()},
        rows=finished,
        goals=[goal.judge(by_name) for goal in goals],
        stamp=machine.stamp(packages),
    )


def _entered(
    row: Row, arguments: list[tuple[Tensor, ...]], gate: Gate | None, clock: str, threads: int, nbytes: float | None
) -> _Lane:
    """A row's lane after its first call, the gate and the warm-up; without a sampler where it is out of the race."""
    version = row.package and f"{row.package} {machine.version_of(row.package) or '(no version)'}"
    waiting = RowResult(
        row.name, "absent", row.ours, row.threads or threads, version, "not run", nbytes=row.nbytes or nbytes
    )
    lane = _Lane(row, waiting.threads, waiting)
    try:
        with row.scope(), torch_threads(lane.threads):
            start = perf_counter()
            with time_limit(row.limit):
                outputs = row.call(*arguments[0])
            first = perf_counter() - start
            judge = row.gate or gate
            wrong = judge(outputs) if judge else None
            del outputs
            if wrong:
                lane.fail("FAIL", wrong)
                return lane
            lane.result = replace(lane.result, extra=row.extra())
            lane.calls = 1 if first > LONG and clock == "wall" and not row.limit else _calls(row, arguments, clock)
            lane.clock, lane.take = sampler(clock, row.call, arguments, lane.calls, row.captures)
    except OutOfTime as late:
        lane.fail("absent", f"its first call was {late}")
    except Exception as error:
        lane.fail("error", f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}")
    return lane


def _calls(row: Row, arguments: list[tuple[Tensor, ...]], clock: str) -> int:
    """Calls that fill a sample."""
    _, once = sampler("wall" if clock == "wall" else "events", row.call, arguments, len(arguments))
    cost = once()
    if cost < 10 * SAMPLE:  # a slower row is warm enough
        cost = once()
    return max(1, math.ceil(SAMPLE / cost))


def _footprints(lanes: list[_Lane]) -> list[tuple[int, int]]:
    return [(lane.threads, int(lane.result.nbytes)) for lane in lanes if lane.take and lane.result.nbytes]


def _copy_lane(threads: int, nbytes: int, device: torch.device, clock: str) -> _Lane:
    """A memory copy that reads half of the bytes and writes the other half."""
    source = torch.ones(max(1, nbytes // 2), dtype=torch.uint8, device=device)
    target = torch.ones_like(source)  # written once, so that its pages are there
    row = Row("memory copy", lambda source, target: target.copy_(source), nbytes=nbytes)
    return _entered(row, rotated((source, target)), None, clock, threads, nbytes)


def _run(lanes: list[_Lane], budget: float, rounds: tuple[int, int]) -> None:
    """Takes the samples, round by round; the cost of a round sets their number."""
    lanes = [lane for lane in lanes if lane.take]
    if not lanes:
        return
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        done, total = 0, rounds[0]
        while done < total:
            for lane in lanes:
                _sample(lane)
            done += 1
            if done == 1:
                cost = sum(lane.samples[0] * lane.calls * (1 + (lane.calls > 1)) for lane in lanes)
                total = min(max(int(budget * len(lanes) / cost), rounds[0]), rounds[1])
    finally:
        if collecting:
            gc.enable()


def _sample(lane: _Lane) -> None:
    if lane.take is None:
        return
    with lane.row.scope(), torch_threads(lane.threads):
        if lane.calls > 1:
            lane.take()  # untimed: what ran before has left its own data in the caches
        lane.samples.append(lane.take())


def _finished(lane: _Lane, copies: dict[tuple[int, int], _Lane], samples: dict[str, list[float]]) -> RowResult:
    if not lane.samples:
        return lane.result
    timing = summarise(lane.samples, lane.calls, lane.clock)
    nbytes = lane.result.nbytes
    copy = copies.get((lane.threads, int(nbytes))) if nbytes else None
    ceiling = nbytes / min(copy.samples) if nbytes and copy and copy.samples else None
    base = samples.get(lane.row.over or "")
    tax = {TAX: median(a / b for a, b in zip(lane.samples, base, strict=True)) - 1} if base else {}
    return replace(lane.result, status="ok", reason=None, timing=timing, ceiling=ceiling, extra=lane.result.extra | tax)
