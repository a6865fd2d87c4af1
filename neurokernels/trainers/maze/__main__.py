"""``python -m neurokernels.trainers.maze FOLDER ...``: tables and pictures of finished sweeps, drawn again."""

import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from neurokernels.trainers.maze.report import report
from neurokernels.trainers.results import redraw


def main(arguments: Sequence[str]) -> int:
    """Runs the command; returns its exit status."""
    return redraw("maze", _first, ("table", "differences"), arguments)


def _first(out: Path, console: Console) -> Path:
    """The picture of the whole sweep; the others lie beside it."""
    return report(out, console)[0]


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
