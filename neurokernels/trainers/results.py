"""The results of a sweep: a line per network in ``results.jsonl``, means over seeds, and tables of them."""

import json
import re
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import tyro
from rich.console import Console
from rich.table import Table

from neurokernels._core.files import write_whole
from neurokernels.trainers.loop import Row
from neurokernels.trainers.run import RunError, RunFolder

#: A heading line and the lines below it, cell by cell.
Lines = list[list[str]]


class Spread(NamedTuple):
    """Mean and standard deviation over seeds; 0 for a single seed."""

    mean: float
    sd: float

    def shown(self, digits: int) -> str:
        """``mean ± sd``, or the mean alone where nothing differs."""
        return f"{self.mean:.{digits}f} ± {self.sd:.{digits}f}" if self.sd else f"{self.mean:.{digits}f}"


def spread(values: Iterable[float]) -> Spread:
    """Over seeds."""
    found = list(values)
    return Spread(statistics.mean(found), statistics.stdev(found) if len(found) > 1 else 0.0)


def evaluations(row: Row) -> list[Row]:
    """Every evaluation of a network, the last one included, by epoch."""
    return [*row["trajectory"], row["result"]]


def result(name: str, numbers: Row, history: Sequence[Row], marked: str, **more: object) -> Row:
    """What ``result.json`` says of a finished network.

    Args:
        name: Of the run.
        numbers: What its numbers depend on.
        history: A row per epoch.
        marked: The column that evaluated epochs alone have.
        more: Further columns.
    """
    evaluated = [row for row in history if marked in row]
    ends = {"result": evaluated[-1], "trajectory": evaluated[:-1]}
    return {"name": name} | numbers | ends | more | {"seconds": round(sum(row["seconds"] for row in history), 1)}


def finished(out: Path) -> list[Row]:
    """The results of all finished networks in the folder of a sweep, none where it is not one."""
    folder = RunFolder(out)
    return [folder.read(f"{path.parent.name}/{path.name}") for path in sorted(out.glob("*/result.json"))]


def write_lines(folder: RunFolder, name: str, rows: Iterable[Row]) -> None:
    """Writes one JSON object per line."""
    folder.write(name, "".join(json.dumps(row) + "\n" for row in rows).encode())


def read_lines(out: Path, name: str) -> list[Row]:
    """What `write_lines` wrote.

    Raises:
        RunError: It is not there, or cannot be read.
    """
    try:
        return [json.loads(line) for line in (out / name).read_text().splitlines()]
    except (OSError, ValueError) as why:
        raise RunError(f"{out} holds no results of a sweep: {why}") from why


def publish(tables: Sequence[tuple[str, Lines]], below: Sequence[str], folder: RunFolder, console: Console) -> None:
    """Shows tables and remarks and writes them into ``summary.md``."""
    parts: list[str] = []
    for heading, lines in tables:
        table = Table(*lines[0])
        for line in lines[1:]:
            table.add_row(*line)
        console.print(f"\n{heading}", table, sep="\n", highlight=False, soft_wrap=True)
        rows = [f"| {' | '.join(line)} |" for line in [lines[0], ["---:"] * len(lines[0]), *lines[1:]]]
        parts += [heading[0].upper() + heading[1:], "", *rows, ""]
    console.print(*below, sep="\n", highlight=False, soft_wrap=True)
    folder.write("summary.md", "\n".join([*parts, *(f"- {line}" for line in below), ""]).encode())


def redraw(trainer: str, report: Callable[[Path, Console], Path], marks: Sequence[str], words: Sequence[str]) -> int:
    """The command ``python -m neurokernels.trainers.<trainer> FOLDER ...``.

    Args:
        trainer: Its name.
        report: Draws the picture and writes the tables of a folder with results; returns the picture's path.
        marks: What the tables are called in a page, in their order.
        words: Of the command line.

    Returns:
        The exit status.
    """

    def draw(folders: tyro.conf.Positional[tuple[Path, ...]], page: Path | None = None) -> None:
        """Draws tables and pictures of finished sweeps again.

        Args:
            folders: With the results that a sweep keeps.
            page: A Markdown file; what stands there between ``<!-- MARK NAME -->`` and ``<!-- end -->`` becomes that
                table of the folder NAME.
        """
        console = Console()
        for folder in folders:
            console.print(f"\npicture: {report(folder, console)}", highlight=False, soft_wrap=True)
            if page is not None:
                tables = (folder / "summary.md").read_text().split("\n\n")[1::2]
                text = page.read_text()
                for mark, table in zip(marks, tables, strict=False):
                    text = _filled(text, f"{mark} {folder.name}", table)
                write_whole({page: text.encode()})

    about = f"Draws tables and pictures of finished sweeps again. MARK is one of {', '.join(marks)}."
    try:
        tyro.cli(draw, args=list(words), prog=f"python -m neurokernels.trainers.{trainer}", description=about)
    except OSError as why:
        print(why, file=sys.stderr)
        return 2
    return 0


def _filled(text: str, mark: str, table: str) -> str:
    marks = rf"(?<=<!-- {re.escape(mark)} -->\n).*?(?=<!-- end -->)"
    return re.sub(marks, lambda _: f"\n{table}\n\n", text, count=1, flags=re.DOTALL)
