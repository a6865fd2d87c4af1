"""Runs steps, each in a process group of its own with a time limit and a log; what goes wrong in one stays in it."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from proof.plan import ROOT, Phase, Step

_PATIENCE = 3.0  # seconds between asking a process to end and ending it


@dataclass(frozen=True)
class Outcome:
    """What became of a step.

    Attributes:
        step: Its name.
        part: Its part.
        stage: Its stage.
        status: ``passed``; ``failed``; ``timed out``; ``absent``: it could not run, and proves nothing.
        seconds: How long it took.
        reason: In a sentence, why it did not pass.
        code: Its exit status.
        log: The file with what it printed.
    """

    step: str
    part: str
    stage: str
    status: str
    seconds: float = 0.0
    reason: str = ""
    code: int | None = None
    log: str = ""


@dataclass
class _Running:
    step: Step
    process: subprocess.Popen[bytes]
    log: IO[bytes]
    path: Path
    start: float = field(default_factory=time.monotonic)


def run(phase: Phase, logs: Path, done: Callable[[Outcome], None]) -> list[Outcome]:
    """Runs the steps of a phase.

    Args:
        phase: The steps.
        logs: The folder of logs.
        done: Called with each outcome, as soon as there is one.
    """
    outcomes: list[Outcome] = []

    def finish(outcome: Outcome) -> None:
        outcomes.append(outcome)
        done(outcome)

    groups = [phase.steps] if phase.together else [(step,) for step in phase.steps]
    for steps in groups:
        waiting = [one for step in steps if (one := _start(step, logs, finish))]
        try:
            while waiting:
                time.sleep(0.05)
                waiting = [one for one in waiting if not _ended(one, finish)]
        finally:
            for one in waiting:  # somebody interrupts the whole
                _kill(one)
    return outcomes


def _start(step: Step, logs: Path, finish: Callable[[Outcome], None]) -> _Running | None:
    if step.absent:
        finish(Outcome(step.name, step.part, step.stage, "absent", reason=step.absent))
        return None
    logs.mkdir(parents=True, exist_ok=True)
    path = logs / f"{step.name}.log"
    log = path.open("wb")
    log.write(f"$ {' '.join(step.command)}\n".encode())
    log.flush()
    try:
        process = subprocess.Popen(
            step.command, cwd=ROOT, env=os.environ | step.environment, stdin=subprocess.DEVNULL, stdout=log,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    except OSError as error:
        log.close()
        finish(Outcome(step.name, step.part, step.stage, "failed", reason=f"it could not be started: {error}"))
        return None
    return _Running(step, process, log, path)


def _ended(one: _Running, finish: Callable[[Outcome], None]) -> bool:
    seconds, code = time.monotonic() - one.start, one.process.poll()
    if code is None and seconds < one.step.limit:
        return False
    late = code is None
    _kill(one)  # what it left behind in its group, too
    step, where = one.step, os.path.relpath(one.path, ROOT)
    if late:
        status, reason = "timed out", f"not done in {step.limit:g} s"
    else:
        status, reason = ("passed", "") if code == 0 else ("failed", f"exit status {code}: {last_line(one.path)}")
    finish(Outcome(step.name, step.part, step.stage, status, round(seconds, 1), reason, code, where))
    return True


def _kill(one: _Running) -> None:
    group = one.process.pid  # it leads a session, and so a group
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, number)
        if number == signal.SIGTERM and one.process.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                one.process.wait(_PATIENCE)
    with contextlib.suppress(subprocess.TimeoutExpired):  # a driver may hold it
        one.process.wait(_PATIENCE)
    one.log.close()


def last_line(log: Path) -> str:
    """The last line of a log that says something."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines()]
    said = [line for line in lines[1:] if line and not set(line) <= set("=-_ ")]
    return said[-1][:200] if said else "it printed nothing"
