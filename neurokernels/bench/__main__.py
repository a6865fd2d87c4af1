"""``python -m neurokernels.bench report``."""

import sys
from pathlib import Path

import tyro

from neurokernels.bench.report import report


def _report(results: Path = Path("benchmarks/results"), out: Path = Path("docs/benchmarks")) -> None:
    """Make tables and plots of stored benchmark results.

    Args:
        results: Folder of results, one sub-folder for each machine.
        out: Folder to write Markdown and plots to.
    """
    report(results, out)


if __name__ == "__main__":
    try:
        tyro.extras.subcommand_cli_from_dict({"report": _report}, prog="python -m neurokernels.bench")
    except ValueError as error:
        sys.exit(str(error))
