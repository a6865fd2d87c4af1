"""The ``race`` of benchmark files: `neurokernels.bench.race`, recorded and shown; and ``follow``, for traces."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch

from benchmarks import where
from neurokernels import bench
from neurokernels.bench import machine, tables
from neurokernels.bench.report import terminal

_DONE = pytest.StashKey[list[bench.Group | bench.Trace]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_DONE] = []


@pytest.fixture(scope="session")
def _machine() -> bench.Machine:
    return machine.describe()


@pytest.fixture
def _record(request: pytest.FixtureRequest, _machine: bench.Machine) -> Callable[[bench.Group | bench.Trace], None]:
    """Saves to ``RESULTS/MACHINE/NAME.json`` at once, and prints."""
    name = request.path.stem.removeprefix("bench_")
    path = request.config.getoption("--benchmark-results") / _machine.slug / f"{name}.json"

    def record(done: bench.Group | bench.Trace) -> None:
        is_trace = isinstance(done, bench.Trace)
        entries = ([], [done]) if is_trace else ([done], [])
        bench.save(bench.Results(bench.results.SCHEMA, name, _machine, *entries), path)
        request.config.stash[_DONE].append(done)
        with _uncaptured(request.config):
            terminal().print("\n", tables.rich_trace(done) if is_trace else tables.rich_table(done))

    return record


@pytest.fixture
def race(_record: Callable[..., None]) -> Callable[..., bench.Group]:
    """`neurokernels.bench.race`, recorded.

    A goal that is missed is said plainly and fails nothing. A row of ours that is wrong fails the benchmark.
    """

    def run(title: str, rows: list[bench.Row | bench.Absent], **options: object) -> bench.Group:
        if where.REHEARSAL:
            options |= {"budget": 0.0, "rounds": (1, 1)}
        elif where.DEVICE == "cuda":
            torch.cuda.empty_cache()
            options.setdefault("budget", 0.3)
        group = bench.race(title, rows, **options)
        _record(group)
        wrong = [row for row in group.rows if row.ours and row.status in ("FAIL", "error")]
        assert not wrong, "; ".join(f"{row.name}: {row.status}: {row.reason}" for row in wrong)
        return group

    return run


@pytest.fixture
def follow(_record: Callable[..., None]) -> Callable[..., bench.Trace]:
    """Makes a `neurokernels.bench.Trace` of its arguments, stamped with now, and records it."""

    def run(name: str, **fields: object) -> bench.Trace:
        trace = bench.Trace(name, **fields, stamp=machine.stamp())
        _record(trace)
        return trace

    return run


@contextmanager
def _uncaptured(config: pytest.Config) -> Iterator[None]:
    manager = config.pluginmanager.getplugin("capturemanager")
    with manager.global_and_fixture_disabled():
        yield


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    judged = [(done.name, goal) for done in config.stash[_DONE] for goal in done.goals]
    if judged:
        terminalreporter.section("goals")
        for name, goal in judged:
            terminalreporter.line(f"{name}: {tables.verdict(goal)}", green=goal.met, red=not goal.met)
