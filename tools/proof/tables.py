"""Tables and plots of a machine's results, beside them: ``proof/report.md`` and a plot for each op."""

import sys
from pathlib import Path

from neurokernels.bench.report import collect, page


def main(results: Path, slug: str) -> None:
    """Writes the page of one machine."""
    files = collect(results).get(slug)
    if not files:
        sys.exit(f"{results}: no results of {slug}")
    for path in page(f"Benchmarks on {slug}", files, results / slug / "proof" / "report.md"):
        print(f"wrote {path}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
