"""The table of a run: test accuracy per seed and network, and what a batch costs."""

import json
import statistics
from collections.abc import Mapping, Sequence
from itertools import pairwise

from rich.console import Console
from rich.table import Table

from neurokernels.bench import Group
from neurokernels.trainers.loop import Row
from neurokernels.trainers.run import RunFolder


def summarise(
    title: str, histories: Mapping[int, Sequence[Row]], timing: Sequence[Group], folder: RunFolder, console: Console
) -> None:
    """Shows the table and writes ``summary.md`` and ``summary.json``.

    Args:
        title: What the table shows.
        histories: Rows of ``metrics.jsonl`` of every seed.
        timing: The races of `race_networks`.
        folder: Where the files go.
        console: Where the table is shown.
    """
    final = [
        {"seed": seed} | row for seed, rows in histories.items() for row in rows if row["epoch"] == rows[-1]["epoch"]
    ]
    lines = _lines(final)
    below = [*_agreement(histories), *(_cost(group) for group in timing)]
    table = Table(*lines[0])
    for line in lines[1:]:
        table.add_row(*line)
    console.print(f"\n{title}", table, *below, sep="\n", highlight=False, soft_wrap=True)
    rows = [f"| {' | '.join(line)} |" for line in [lines[0], ["---:"] * len(lines[0]), *lines[1:]]]
    text = "\n".join([title, "", *rows, "", *(f"- {line}" for line in below), ""])
    folder.write("summary.md", text.encode())
    folder.write("summary.json", (json.dumps({"title": title, "final": final}, indent=1) + "\n").encode())


def _agreement(histories: Mapping[int, Sequence[Row]]) -> list[str]:
    """How far the two curves are apart, beside how much one of them moves from epoch to epoch."""
    apart: list[float] = []
    moves: list[float] = []
    for rows in histories.values():
        fused, plain = ([100 * row["test_accuracy"] for row in rows if row["network"] == n] for n in ("fused", "plain"))
        apart += [a - b for a, b in zip(fused, plain, strict=False)]
        moves += [abs(after - before) for before, after in pairwise(plain)]
    if not moves:
        return []
    spread = f"mean {statistics.mean(apart):+.2f}, mean size {statistics.mean(map(abs, apart)):.2f} points"
    change = f"from one epoch to the next plain changes by {statistics.median(moves):.2f} (median)"
    return [f"test accuracy, fused minus plain, all epochs and seeds: {spread}; {change}"]


def _lines(final: Sequence[Row]) -> list[list[str]]:
    """Headings, a line per seed, and the mean over seeds."""
    accuracy: dict[str, dict[int, float]] = {}
    for row in final:
        accuracy.setdefault(row["network"], {})[row["seed"]] = 100 * row["test_accuracy"]
    columns = [list(of_seed.values()) for of_seed in accuracy.values()]
    seeds = [str(seed) for seed in next(iter(accuracy.values()))]
    lines = [
        ["seed", *accuracy],
        *([seed, *map("{:.2f}".format, some)] for seed, *some in zip(seeds, *columns, strict=True)),
    ]
    if len(seeds) > 1:
        spreads = [f"{statistics.mean(c):.2f} ± {statistics.stdev(c):.2f}" for c in columns]
        lines.append(["mean ± sd", *spreads])
    return lines


def _cost(group: Group) -> str:
    shown = [
        f"{row.name} {row.timing.best * 1e3:.2f} ms" if row.timing else f"{row.name} has no time: {row.reason}"
        for row in group.rows
    ]
    times = {row.name: row.timing.best for row in group.rows if row.timing}
    ratio = [f"{times['plain'] / times['fused']:.1f} x"] if len(times) == 2 else []
    return f"{group.name}: {', '.join(shown + ratio)} (threads: {group.threads}; best of interleaved rounds)"
