"""``python -m neurokernels.trainers.similarity FOLDER ...``: tables and pictures of finished sweeps, drawn again."""

import sys
from collections.abc import Sequence

from neurokernels.trainers.results import redraw
from neurokernels.trainers.similarity.report import report


def main(arguments: Sequence[str]) -> int:
    """Runs the command; returns its exit status."""
    return redraw("similarity", report, ("accuracy", "differences", "similarities", "sessions"), arguments)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
