"""The table of a run: test accuracy per seed and network, and what a batch costs."""

import json
import statistics
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from neurokernels.bench import Group
from neurokernels.trainers.loop import Row
from neurokernels.trainers.run import RunFolder


def summarise(title: str, final: Sequence[Row], timing: Sequence[Group], folder: RunFolder, console: Console) -> None:
    """Shows the table and writes ``summary.md`` and ``summary.json``.

    Args:
        title: What the table shows.
        final: Rows of the last epoch, of every seed and network.
        timing: The races of `race_networks`.
        folder: Where the files go.
        console: Where the table is shown.
    """
    lines = _lines(final)
    costs = [_cost(group) for group in timing]
    table = Table(*lines[0])
    for line in lines[1:]:
        table.add_row(*line)
    console.print(f"\n{title}", table, *costs, sep="\n", highlight=False, soft_wrap=True)
    rows = [f"| {' | '.join(line)} |" for line in [lines[0], ["---:"] * len(lines[0]), *lines[1:]]]
    folder.write("summary.md", "\n".join([title, "", *rows, "", *costs, ""]).encode())
    folder.write("summary.json", (json.dumps({"title": title, "final": list(final)}, indent=1) + "\n").encode())


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
        f"{row.name} {row.timing.median * 1e3:.2f} ms" if row.timing else f"{row.name} has no time: {row.reason}"
        for row in group.rows
    ]
    times = {row.name: row.timing.median for row in group.rows if row.timing}
    ratio = [f"{times['plain'] / times['fused']:.1f} x"] if len(times) == 2 else []
    return f"{group.name}: {', '.join(shown + ratio)} (threads: {group.threads}; medians of interleaved rounds)"
