"""The loop that every trainer shares: seeded, shown, and checkpointed so that a resumed run gives the same numbers.

A checkpoint holds everything that the next step depends on: models, optimisers, schedulers, every generator, the order
of the epoch and how far it went. It is written after every epoch, every minute, and when the run is interrupted.
"""

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor

from neurokernels.trainers.run import RunFolder

Row = dict[str, Any]
_SHOW_SECONDS = 0.5


class Interrupted(Exception):
    """The run was asked to stop and has saved where it was."""

    def __init__(self, number: int, where: str) -> None:
        super().__init__(where)
        self.number = number


class Parts:
    """Something whose state is that of its parts: a base of what learns."""

    def parts(self) -> dict[str, Any]:
        """Everything that training changes, by name; each has ``state_dict`` and ``load_state_dict``."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """The states of all parts."""
        return {name: part.state_dict() for name, part in self.parts().items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state_dict`."""
        for name, part in self.parts().items():
            part.load_state_dict(state[name])


class Loop:
    """Epochs of shuffled batches.

    Args:
        folder: Where checkpoints and metrics go.
        state: Everything that changes while training, by name: what has ``state_dict`` and ``load_state_dict``, or a
            `torch.Generator`.
        examples: How many training examples there are.
        batch: Examples per step.
        epochs: How many epochs to train.
        seed: Seed of the order of the examples.
        checkpoint_seconds: Longest time between two checkpoints.
    """

    def __init__(
        self,
        folder: RunFolder,
        state: Mapping[str, Any],
        *,
        examples: int,
        batch: int,
        epochs: int,
        seed: int,
        checkpoint_seconds: float = 60.0,
    ) -> None:
        self.folder, self.examples, self.batch, self.epochs = folder, examples, batch, epochs
        self.checkpoint_seconds = checkpoint_seconds
        self.history: list[Row] = []
        self._order_generator = torch.Generator().manual_seed(seed)
        self._state = {**state, "order": self._order_generator}
        self._epoch, self._at, self._seconds = 0, 0, 0.0
        self._order: Tensor | None = None
        self._sums: dict[str, Tensor] = {}

    def restore(self) -> bool:
        """Goes back to the folder's checkpoint; says whether there was one."""
        saved = self.folder.load()
        if saved is None:
            return False
        for name, part in self._state.items():
            if isinstance(part, torch.Generator):
                part.set_state(saved["state"][name])
            else:
                part.load_state_dict(saved["state"][name])
        torch.set_rng_state(saved["rng"])
        if saved["cuda_rng"] and torch.cuda.is_available():
            torch.cuda.set_rng_state_all(saved["cuda_rng"])
        self._epoch, self._at, self._seconds = saved["epoch"], saved["at"], saved["seconds"]
        self._order, self._sums, self.history = saved["order"], saved["sums"], saved["history"]
        self.folder.write_metrics(self.history)  # a kill can come between the checkpoint and the metrics
        return True

    def save(self) -> None:
        """Writes the checkpoint."""
        parts = {
            name: part.get_state() if isinstance(part, torch.Generator) else part.state_dict()
            for name, part in self._state.items()
        }
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
        self.folder.save(
            {
                "state": parts, "rng": torch.get_rng_state(), "cuda_rng": cuda,
                "epoch": self._epoch, "at": self._at, "seconds": self._seconds,
                "order": self._order, "sums": self._sums, "history": self.history,
            }
        )  # fmt: skip

    def run(
        self,
        step: Callable[[Tensor], Mapping[str, Tensor]],
        finish: Callable[[int, Mapping[str, float]], list[Row]],
        console: Console,
    ) -> list[Row]:
        """Trains up to the last epoch.

        Args:
            step: Trains on the examples with these indices, ``[n]`` int64 on the CPU; returns their mean metrics as 0-d
                tensors, which are read when they are shown.
            finish: Given the epoch (from 1) and the means of the metrics over it, evaluates, and returns the rows of
                the epoch for ``metrics.jsonl``.
            console: Where progress is shown.

        Returns:
            The rows of all epochs, also those before a checkpoint.

        Raises:
            Interrupted: SIGINT or SIGTERM came; the checkpoint is written. A second signal ends the program at once.
            FloatingPointError: A metric is no longer finite.
        """
        with signals() as received, progress(console) as bar:
            task = bar.add_task("", total=self.epochs * self.examples, completed=self._epoch * self.examples + self._at)
            saved = shown = started = time.monotonic()
            while self._epoch < self.epochs:
                if self._order is None:
                    self._order = torch.randperm(self.examples, generator=self._order_generator)
                while self._at < self.examples:
                    self._train(step, self._order[self._at : self._at + self.batch])
                    now = time.monotonic()
                    self._seconds, started = self._seconds + now - started, now
                    if received:
                        self.save()
                        where = f"epoch {self._epoch + 1} of {self.epochs}, {self._at:,} of {self.examples:,} examples"
                        raise Interrupted(received[0], where)
                    if now - saved >= self.checkpoint_seconds:
                        self.save()
                        saved = now
                    if now - shown >= _SHOW_SECONDS:
                        bar.update(
                            task, completed=self._epoch * self.examples + self._at, description=self._described()
                        )
                        shown = now
                self._close_epoch(finish, console)
                saved = time.monotonic()
            bar.update(task, completed=self.epochs * self.examples)
        return self.history

    def _train(self, step: Callable[[Tensor], Mapping[str, Tensor]], indices: Tensor) -> None:
        for name, value in step(indices).items():
            total = value.detach().double() * len(indices)
            self._sums[name] = self._sums[name].to(total.device) + total if name in self._sums else total
        self._at += len(indices)

    def _means(self) -> dict[str, float]:
        return {name: float(total) / self._at for name, total in self._sums.items()}

    def _described(self) -> str:
        return f"epoch {self._epoch + 1}  " + "  ".join(f"{name} {value:.4f}" for name, value in self._means().items())

    def _close_epoch(self, finish: Callable[[int, Mapping[str, float]], list[Row]], console: Console) -> None:
        epoch, means, started = self._epoch + 1, self._means(), time.monotonic()
        rows = finish(epoch, means)
        seconds = self._seconds + time.monotonic() - started
        for row in rows:
            broken = [name for name, value in row.items() if isinstance(value, float) and not math.isfinite(value)]
            if broken:
                raise FloatingPointError(f"{', '.join(broken)} is not finite after epoch {epoch}: {row}")
            self.history.append({"epoch": epoch, **row, "seconds": round(seconds, 3)})
            shown = "  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{v}" for k, v in row.items())
            console.print(f"epoch {epoch:3d}  {shown}  {seconds:.1f} s", highlight=False, soft_wrap=True)
        self._epoch, self._at, self._seconds, self._order, self._sums = epoch, 0, 0.0, None, {}
        self.save()
        self.folder.write_metrics(self.history)


@contextmanager
def signals() -> Iterator[list[int]]:
    """Collects the first SIGINT or SIGTERM instead of dying of it; handlers can be set in the main thread alone."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    before: dict[int, Any] = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)
        signal.signal(number, before[number] if before[number] is not None else signal.SIG_DFL)

    for number in before:
        signal.signal(number, note)
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)


def progress(console: Console) -> Progress:
    """A bar with counts and the time that is left, which goes away at the end."""
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(),
        console=console, refresh_per_second=2, transient=True,
    )  # fmt: skip
