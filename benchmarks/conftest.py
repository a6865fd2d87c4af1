"""The ``race`` of benchmark files: `neurokernels.bench.race`, recorded and shown."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from neurokernels import bench
from neurokernels.bench import machine, tables
from neurokernels.bench.report import terminal

_GROUPS = pytest.StashKey[list[bench.Group]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_GROUPS] = []


@pytest.fixture(scope="session")
def _machine() -> bench.Machine:
    return machine.describe()


@pytest.fixture
def race(request: pytest.FixtureRequest, _machine: bench.Machine) -> Callable[..., bench.Group]:
    """`neurokernels.bench.race`; the group is saved to ``RESULTS/MACHINE/NAME.json`` at once, and printed.

    A goal that is missed is said plainly and fails nothing. A row of ours that is wrong fails the benchmark.
    """
    name = request.path.stem.removeprefix("bench_")
    path = request.config.getoption("--benchmark-results") / _machine.slug / f"{name}.json"

    def run(title: str, rows: list[bench.Row | bench.Absent], **options: object) -> bench.Group:
        group = bench.race(title, rows, **options)
        bench.save(bench.Results(bench.results.SCHEMA, name, _machine, [group]), path)
        request.config.stash[_GROUPS].append(group)
        with _uncaptured(request.config):
            terminal().print("\n", tables.rich_table(group))
        wrong = [row for row in group.rows if row.ours and row.status in ("FAIL", "error")]
        assert not wrong, "; ".join(f"{row.name}: {row.status}: {row.reason}" for row in wrong)
        return group

    return run


@contextmanager
def _uncaptured(config: pytest.Config) -> Iterator[None]:
    manager = config.pluginmanager.getplugin("capturemanager")
    with manager.global_and_fixture_disabled():
        yield


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    judged = [(group.name, goal) for group in config.stash[_GROUPS] for goal in group.goals]
    if judged:
        terminalreporter.section("goals")
        for name, goal in judged:
            terminalreporter.line(f"{name}: {tables.verdict(goal)}", green=goal.met, red=not goal.met)
