"""The folder of a run: what it was asked to do, what it measured, and the checkpoint it goes on from."""

import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from neurokernels import __version__
from neurokernels.data.files import write_whole


class RunError(OSError):
    """A run folder cannot be used; the message says why and what to do."""


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
            RunError: The folder holds a run and ``resume`` is false, the run had other settings, or it cannot be written.
        """
        folder = cls(path)
        asked = json.loads(json.dumps({"trainer": trainer} | dict(settings)))
        if not folder.settings_file.exists():
            versions = {"neurokernels": __version__, "torch": torch.__version__}
            folder.write("settings.json", (json.dumps({"settings": asked, "versions": versions}, indent=2) + "\n").encode())
        elif not resume:
            raise RunError(f"{path} already holds a run: add --resume to go on with it, or choose another folder with --out")
        elif (then := folder._settings()) != asked:
            names = sorted(name for name in asked.keys() | then.keys() if asked.get(name) != then.get(name))
            differ = "; ".join(f"{name} was {then.get(name)!r} and is {asked.get(name)!r}" for name in names)
            raise RunError(
                f"{path} cannot be resumed with other settings: {differ}. Repeat the settings it was started with, or choose "
                "another folder with --out"
            )
        return folder

    @property
    def settings_file(self) -> Path:
        """What the run was asked to do."""
        return self.path / "settings.json"

    def _settings(self) -> dict[str, Any]:
        try:
            settings = json.loads(self.settings_file.read_text())["settings"]
            return dict(settings)
        except (OSError, ValueError, KeyError, TypeError) as why:
            raise RunError(f"{self.settings_file} cannot be read: {why}; choose another folder with --out") from why

    def write(self, name: str, content: bytes) -> Path:
        """Writes a file of the run, whole or not at all."""
        path = self.path / name
        try:
            write_whole({path: content})
        except OSError as why:
            raise RunError(f"{path} cannot be written: {why}; choose another folder with --out") from why
        return path

    def write_metrics(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Writes ``metrics.jsonl``: one JSON object per line."""
        self.write("metrics.jsonl", "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows).encode())

    def save(self, checkpoint: Mapping[str, Any]) -> None:
        """Writes the checkpoint: tensors, numbers, texts, and dicts and lists of them."""
        buffer = io.BytesIO()
        torch.save(dict(checkpoint), buffer)
        self.write("checkpoint.pt", buffer.getvalue())

    def load(self) -> dict[str, Any] | None:
        """The checkpoint, on the CPU; None where there is none yet."""
        path = self.path / "checkpoint.pt"
        if not path.exists():
            return None
        try:
            return dict(torch.load(path, map_location="cpu", weights_only=True))
        except Exception as why:  # torch raises a different type for every kind of damage
            raise RunError(f"{path} cannot be read ({why}); remove it to start this run anew") from why
