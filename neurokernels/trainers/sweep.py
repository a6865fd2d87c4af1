"""Trains the networks of a sweep, one after the other or several at a time, each in a folder of its own."""

import multiprocessing
import sys
from collections.abc import Callable, Sequence
from contextlib import closing, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from rich.console import Console

from neurokernels import backend
from neurokernels.bench.clocks import torch_threads
from neurokernels.trainers.loop import Interrupted, Row, progress, signals
from neurokernels.trainers.run import RunError, RunFolder

_LOG = "log.txt"
#: Trains one network of a sweep, given the run, its folder and where to say something; returns ``result.json``.
Train = Callable[[Any, RunFolder, Console], Row]


@dataclass(frozen=True)
class Sweep:
    """What a trainer sweeps over.

    Attributes:
        trainer: Its name.
        settings: Has ``runs()``, each with a ``name``, ``numbers(run)``, ``epochs``, ``jobs``, ``threads``,
            ``backend`` and ``resume``.
        prepare: Given the settings, loads what all networks need; a function of a module, as processes of their own
            call it too.
        collect: Given the sweep's folder, puts together the results of finished networks.
    """

    trainer: str
    settings: Any
    prepare: Callable[[Any], Train]
    collect: Callable[[Path], object]

    def run(self, out: Path, console: Console, train: Train | None = None) -> None:
        """Trains every network that is not finished yet.

        Args:
            out: Folder of the sweep.
            console: Where progress is shown.
            train: What ``prepare`` would return, if it is there already.

        Raises:
            RunError: The folder holds one of the networks already and ``resume`` is false, or with other settings.
                Or a network broke down: its numbers are no longer finite.
            Interrupted: The sweep was asked to stop; every network in training has saved where it was.
        """
        runs = self.settings.runs()
        for run in runs:
            numbers = self.settings.numbers(run)
            RunFolder.open(out / run.name, self.trainer, numbers, resume=self.settings.resume)
        due = [run for run in runs if _result(run, out) is None]
        if len(due) < len(runs):
            console.print(f"{len(runs) - len(due)} of {len(runs)} networks are finished already", highlight=False)
        if self.settings.jobs > 1:
            self._several(due, out, console)
        elif due:
            self._one_by_one(due, out, console, train or self.prepare(self.settings))

    def _one_by_one(self, due: Sequence[Any], out: Path, console: Console, train: Train) -> None:
        for run in due:
            console.print(f"\n[bold]{run.name}[/bold]", highlight=False)
            try:
                train(run, RunFolder(out / run.name), console)
            except FloatingPointError as why:
                raise RunError(f"{run.name} broke down: {why}") from why
            self.collect(out)

    def _several(self, due: Sequence[Any], out: Path, console: Console) -> None:
        """Trains ``jobs`` networks at a time; one that breaks down does not stop the others."""
        waiting, done, broken = list(due), 0, list[str]()
        epochs = self.settings.epochs
        with signals() as received, progress(console) as bar, closing(_Crew(self, out)) as crew:
            task = bar.add_task("epochs", total=epochs * len(due))
            while crew.active or (waiting and not received):
                while waiting and not received and len(crew.active) < self.settings.jobs:
                    crew.start(waiting.pop(0))
                for run, status in crew.ended():
                    if status == 0:
                        done += 1
                        console.print(f"{done} of {len(due)}: {_line(run, out)}", highlight=False, soft_wrap=True)
                        self.collect(out)
                    elif not received:
                        broken.append(f"{run.name} ended with status {status}: {_last_words(run, out)}")
                        console.print(broken[-1], style="bold", highlight=False, soft_wrap=True)
                if received:
                    crew.stop()
                bar.update(task, completed=done * epochs + crew.epochs())
        if received:
            raise Interrupted(received[0], f"a sweep, {done} of {len(due)} networks finished")
        if broken:
            raise RunError("\n".join(broken))


class _Crew:
    """Processes, each of which trains one network and writes what it says into the network's folder."""

    def __init__(self, sweep: Sweep, out: Path) -> None:
        self.sweep, self.out = sweep, out
        self.active: dict[BaseProcess, Any] = {}
        self._asked: set[BaseProcess] = set()

    def start(self, run: Any) -> None:
        """Puts a network into a process of its own."""
        context = multiprocessing.get_context("spawn")  # a forked child of a process with OpenMP threads may hang
        process = context.Process(target=_one, args=(self.sweep, run, self.out))
        process.start()
        self.active[process] = run

    def ended(self) -> list[tuple[Any, int | None]]:
        """The networks whose processes ended in the last half second, with their exit status."""
        ready = wait([process.sentinel for process in self.active], timeout=0.5)
        over = [process for process in self.active if process.sentinel in ready]
        for process in over:
            process.join()
        return [(self.active.pop(process), process.exitcode) for process in over]

    def epochs(self) -> int:
        """How far the networks in training are, together."""
        files = [self.out / run.name / "metrics.jsonl" for run in self.active.values()]
        return sum(len(file.read_text().splitlines()) for file in files if file.exists())

    def stop(self) -> None:
        """Asks all processes to save and end, once: a second signal would end them before they have saved."""
        for process in self.active.keys() - self._asked:
            process.terminate()
            self._asked.add(process)

    def close(self) -> None:
        """Leaves no process behind."""
        self.stop()
        for process in self.active:
            process.join()


def _result(run: Any, out: Path) -> Row | None:
    found: Row | None = RunFolder(out / run.name).read("result.json")
    return found


def _last_words(run: Any, out: Path) -> str:
    log = out / run.name / _LOG
    lines = log.read_text().strip().splitlines() if log.exists() else []
    return f"{lines[-1] if lines else 'it said nothing'} ({log})"


def _line(run: Any, out: Path) -> str:
    row = _result(run, out) or {"result": {}}
    numbers = "  ".join(f"{k} {v:.4g}" for k, v in row["result"].items() if isinstance(v, float))
    return f"{run.name}  {numbers}"


def _one(sweep: Sweep, run: Any, out: Path) -> None:
    """What a process of its own does."""
    folder, settings = RunFolder(out / run.name), sweep.settings
    with (
        (folder.path / _LOG).open("a") as log, redirect_stdout(log), redirect_stderr(log),
        backend(settings.backend), torch_threads(settings.threads),
    ):  # fmt: skip
        try:
            sweep.prepare(settings)(run, folder, Console(file=log, width=200))
        except Interrupted as stop:
            print(f"stopped in {stop}", file=log)
            sys.exit(128 + stop.number)
        except (OSError, FloatingPointError) as why:
            print(why, file=log)
            sys.exit(2)
