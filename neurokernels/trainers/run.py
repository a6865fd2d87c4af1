"""The folder of a run: what it was asked to do, what it measured, and the checkpoint it goes on from."""

import io
import json
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from neurokernels import __version__
from neurokernels._core.files import write_whole

_ELSEWHERE = "choose another folder with --out"


class RunError(OSError):
    """A run cannot start or go on: its settings or its folder. The message says why and what to do."""


@dataclass(frozen=True)
class RunFolder:
    """A run folder: ``settings.json``, ``metrics.jsonl`` and ``checkpoint.pt``, every one whole or absent."""

    path: Path

    @classmethod
    def open(cls, path: Path, trainer: str, settings: Mapping[str, Any], *, resume: bool) -> "RunFolder":
        """Makes the folder of a new run, or goes back to that of an earlier one.

        Args:
            path: The folder.
            trainer: Name of the trainer.
            settings: Everything that its numbers depend on; values that JSON can hold.
            resume: Whether to go on from an earlier run with the same settings, if there is one.

        Raises:
            RunError: The folder holds a run and ``resume`` is false, the run had other settings, or it cannot be
                written.
        """
        folder = cls(path)
        asked = json.loads(json.dumps({"trainer": trainer} | dict(settings)))
        tools = {"neurokernels": __version__, "torch": torch.__version__, "threads": torch.get_num_threads()}
        earlier = folder._earlier()
        if earlier is None:
            text = json.dumps({"settings": asked, "made with": tools}, indent=2)
            folder.write("settings.json", f"{text}\n".encode())
            return folder
        if not resume:
            raise RunError(f"{path} holds a run already: add --resume to go on with it, or {_ELSEWHERE}")
        if differ := _differences(earlier["settings"], asked):
            raise RunError(
                f"{path} cannot be resumed with other settings: {differ}; repeat those it has, or {_ELSEWHERE}"
            )
        if differ := _differences(earlier["made with"], tools):
            warnings.warn(
                f"{path} goes on with other tools, so to the same numbers but for rounding: {differ}", stacklevel=2
            )
        return folder

    def _earlier(self) -> dict[str, dict[str, Any]] | None:
        """The settings file of an earlier run."""
        path = self.path / "settings.json"
        try:
            found = json.loads(path.read_text())
            return {part: dict(found[part]) for part in ("settings", "made with")}
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError, KeyError, TypeError) as why:
            raise RunError(f"{path} cannot be read: {why}; {_ELSEWHERE}") from why

    def write(self, name: str, content: bytes) -> Path:
        """Writes a file of the run, whole or not at all."""
        path = self.path / name
        try:
            write_whole({path: content})
        except OSError as why:
            raise RunError(f"{path} cannot be written: {why}; {_ELSEWHERE}") from why
        return path

    def read(self, name: str) -> Any:
        """The content of a JSON file of the run; None where there is none yet."""
        path = self.path / name
        try:
            return json.loads(path.read_text())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as why:
            raise RunError(f"{path} cannot be read: {why}; {_ELSEWHERE}") from why

    def write_metrics(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Writes ``metrics.jsonl``: one JSON object per line."""
        self.write("metrics.jsonl", "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows).encode())

    def save(self, checkpoint: Mapping[str, Any], name: str = "checkpoint.pt") -> None:
        """Writes a checkpoint: tensors, numbers, texts, and dicts and lists of them."""
        buffer = io.BytesIO()
        torch.save(dict(checkpoint), buffer)
        self.write(name, buffer.getvalue())

    def load(self, name: str = "checkpoint.pt") -> dict[str, Any] | None:
        """What `save` wrote, on the CPU; None where there is none yet."""
        path = self.path / name
        if not path.exists():
            return None
        try:
            return dict(torch.load(path, map_location="cpu", weights_only=True))
        except Exception as why:  # torch raises a different type for every kind of damage
            damage = type(why).__name__  # its text would advise to load it without safety
            raise RunError(f"{path} is damaged ({damage}); remove it to start this run anew") from why


def _differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    names = sorted(name for name in then.keys() | now.keys() if then.get(name) != now.get(name))
    return ", ".join(f"{name} was {then.get(name)!r} and is {now.get(name)!r}" for name in names)
