"""What pytest needs for the proof: parts, shards, a deadline, and a record on disk of every test as soon as it is done.

Loaded by ``-p proof.plugin``. Each line of the record is a JSON object: a `Record`.
"""

import json
import math
import time
import zlib
from collections.abc import Generator
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest


@dataclass
class Record:
    """What became of a test, and how far its results were from float64 where `accuracy.check` judged them.

    Attributes:
        test: Its node id.
        outcome: ``passed``, ``failed``, ``skipped`` or ``late``: the time was up.
        seconds: How long it took.
        ulps: The largest error, in units in the last place of the result's dtype, relative to the largest entry.
        share: The largest error over what the rule allowed.
        message: Why it did not pass.
    """

    test: str
    outcome: str
    seconds: float = 0.0
    ulps: float = 0.0
    share: float = 0.0
    message: str = ""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of the proof."""
    group = parser.getgroup("proof")
    group.addoption("--part", help="of tests/gpu, those of this part alone")
    group.addoption("--shard", default="0/1", metavar="I/N", help="every N-th test, from the I-th on")
    group.addoption("--deadline", type=float, default=math.inf, metavar="SECONDS", help="after it, tests are left out")
    group.addoption("--record", type=Path, metavar="FILE", help="where a line is written for every test")
    group.addoption("--rehearse", action="store_true", help="GPU tests and benchmarks on the CPU, in little")


class Proof:
    """The hooks, with what they know of a session."""

    def __init__(self, config: pytest.Config) -> None:
        self.start = time.monotonic()
        self.deadline = config.getoption("--deadline")
        self.record: Path | None = config.getoption("--record")
        self.now: Record | None = None
        self.spent, self.done = 0.0, 0

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Leaves out what belongs to other parts and shards."""
        part, (i, n) = config.getoption("--part"), map(int, config.getoption("--shard").split("/"))
        mine = [item for item in items if part is None or part_of(item) == part]
        mine = [item for item in mine if zlib.crc32(item.nodeid.encode()) % n == i]
        if config.getoption("--rehearse") and config.getoption("--benchmark"):
            mine = list({item.function: item for item in reversed(mine)}.values())[::-1]  # of each race the first group
        kept = set(map(id, mine))
        config.hook.pytest_deselected(items=[item for item in items if id(item) not in kept])
        items[:] = mine

    def pytest_collection_finish(self) -> None:
        """From here on the accuracy rule tells what it sees; earlier, Triton would not know where it is to run."""
        from neurokernels._core import accuracy

        check = accuracy.check

        def watched(value: Any, reference: Any, exact: Any, **options: Any) -> None:
            if self.now is not None:
                import torch

                eps = torch.finfo(value.dtype).eps
                ours, theirs = accuracy.error(value, exact)[0], accuracy.error(reference, exact)[0]
                allowed = max(options.get("factor", accuracy.FORWARD) * theirs, options.get("ulps", 4.0) * eps)
                self.now.ulps = max(self.now.ulps, min(ours / eps, 1e300))
                self.now.share = max(self.now.share, min(ours / allowed, 1e300)) if allowed else self.now.share
            check(value, reference, exact, **options)

        accuracy.check = watched

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, Any, Any]:
        """One line for each test, once it is over."""
        self.now = Record(item.nodeid, "passed")
        done = yield
        if self.now.outcome in ("passed", "failed"):
            self.spent, self.done = self.spent + self.now.seconds, self.done + 1
        if self.record:
            self.record.parent.mkdir(parents=True, exist_ok=True)
            with self.record.open("a") as file:
                file.write(json.dumps(asdict(self.now)) + "\n")
        self.now = None
        return done

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self) -> None:
        """Leaves a test out when the time is up."""
        # One that takes as long as those before it on the average has to end in time, too.
        typical = self.spent / self.done if self.done else 0.0
        if time.monotonic() - self.start + typical > self.deadline and self.now:
            self.now.outcome = "late"
            pytest.skip(f"left out: {self.deadline:g} s are over")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Notes time and outcome of a phase of a test."""
        if self.now is None:
            return
        self.now.seconds = round(self.now.seconds + report.duration, 3)
        if report.outcome != "passed" and self.now.outcome in ("passed", "skipped"):
            self.now.outcome = report.outcome
        if report.outcome != "passed":
            self.now.message = _message(report)

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """No test at all is fine for a shard: another one has them."""
        if exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED:
            session.exitstatus = pytest.ExitCode.OK


def part_of(item: pytest.Item) -> str:
    """The part of the proof that a test belongs to: that of its parameter, or in its file's name."""
    callspec = getattr(item, "callspec", None)
    named = callspec.params.get("case") if callspec else None
    return getattr(named, "part", None) or item.path.stem.removeprefix("test_").removesuffix("_gpu")


def _message(report: pytest.TestReport) -> str:
    if isinstance(report.longrepr, tuple):
        return str(report.longrepr[2])[:500]
    crash = getattr(report.longrepr, "reprcrash", None)
    return str(crash.message if crash else report.longrepr)[:500]


def pytest_configure(config: pytest.Config) -> None:
    """Enters the hooks; a rehearsal makes benchmarks small before they are read."""
    if config.getoption("--rehearse"):
        from benchmarks import where

        where.rehearse()
        import_module("tests.conftest")  # with which the interpreter takes half the time
    config.pluginmanager.register(Proof(config), "neurokernels proof")
