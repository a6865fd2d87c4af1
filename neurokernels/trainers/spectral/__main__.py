"""``python -m neurokernels.trainers.spectral FOLDER ...``: tables and pictures of finished sweeps, drawn again."""

import sys
from collections.abc import Sequence

from neurokernels.trainers.results import redraw
from neurokernels.trainers.spectral.report import report


def main(arguments: Sequence[str]) -> int:
    """Runs the command; returns its exit status."""
    return redraw("spectral", report, ("table", "trajectory"), arguments)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
