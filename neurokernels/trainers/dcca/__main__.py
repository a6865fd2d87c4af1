"""``python -m neurokernels.trainers.dcca FOLDER ...``: tables and pictures of finished sweeps, drawn again."""

import sys
from collections.abc import Sequence

from neurokernels.trainers.dcca.report import report
from neurokernels.trainers.results import redraw


def main(arguments: Sequence[str]) -> int:
    """Runs the command; returns its exit status."""
    return redraw("dcca", report, ("accuracy", "differences", "correlations"), arguments)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
