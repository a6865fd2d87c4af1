"""Pictures of results: time against size with the ceiling that memory sets, what rows add to others, and traces."""

import math
from collections import defaultdict
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from neurokernels.bench.results import TAX, Group, Results, RowResult, Trace

OURS, OTHERS = "#c0392b", ("#34495e", "#2980b9", "#16a085", "#8e44ad", "#d68910", "#7f8c8d", "#2c7a3f")
MARKERS = "osD^vPX"


def pictures(results: Results, folder: Path) -> dict[Path, str]:
    """Every picture of a file of results: the PNG files, each with a line that says what it shows."""
    return (
        dict.fromkeys(plot(results, folder), "Time per element against size")
        | dict.fromkeys(taxes(results, folder), "Time per step, and what is added to the plain one")
        | dict.fromkeys(traces(results, folder), "Figures along a run, with the bounds of the goals")
    )


def plot(results: Results, folder: Path) -> list[Path]:
    """One picture for each op and device that was raced at two sizes or more: a panel for each set of parameters.

    Returns:
        The paths of the PNG files.
    """
    panels: dict[tuple[str, str], dict[str, list[Group]]] = defaultdict(lambda: defaultdict(list))
    for group in results.groups:
        panels[group.op, group.device][_family(group)].append(group)
    paths = []
    for (op, device), families in panels.items():
        curves = {name: groups for name, groups in families.items() if len({g.size for g in groups}) > 1}
        if curves:
            title = f"{op} on {_chip(results, device)}; lower is better"
            paths.append(_picture(curves, folder / f"{op}-{device}.png", title))
    return paths


def taxes(results: Results, folder: Path) -> list[Path]:
    """One picture for each op and device with rows that add to others: bars of the median time, a panel for a group."""
    found: dict[tuple[str, str], list[Group]] = defaultdict(list)
    for group in results.groups:
        if any(TAX in row.extra for row in group.rows):
            found[group.op, group.device].append(group)
    paths = []
    for (op, device), groups in found.items():
        heights = [2 + sum(row.timing is not None for row in group.rows) for group in groups]
        figure = Figure(figsize=(8, 0.7 + 0.32 * sum(heights)), layout="constrained", dpi=120)
        panels = figure.subplots(len(groups), squeeze=False, height_ratios=heights)
        for ax, group in zip(panels.flat, groups, strict=True):
            _bars(ax, group)
        figure.suptitle(f"{op} on {_chip(results, device)}; lower is better", fontsize=11)
        paths.append(_saved(figure, folder / f"{op}-{device}-tax.png"))
    return paths


def traces(results: Results, folder: Path) -> list[Path]:
    """One picture for each op and device that was followed through runs: a panel for a figure, a line for a run."""
    found: dict[tuple[str, str], list[Trace]] = defaultdict(list)
    for trace in results.traces:
        found[trace.op, trace.device].append(trace)
    paths = []
    for (op, device), runs in found.items():
        names = list(dict.fromkeys(name for run in runs for name in run.curves))
        figure = Figure(figsize=(4.2 * len(names), 4.3), layout="constrained", dpi=120)
        for ax, name in zip(figure.subplots(1, len(names), squeeze=False).flat, names, strict=True):
            _followed(ax, name, runs)
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
        figure.suptitle(f"{op} on {_chip(results, device)}", fontsize=11)
        paths.append(_saved(figure, folder / f"{op}-{device}-trace.png"))
    return paths


def _saved(figure: Figure, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Software": None})
    return path


def _bars(ax: Axes, group: Group) -> None:
    rows = [row for row in reversed(group.rows) if row.timing]  # the first one on top
    times = [row.timing.median * 1e3 for row in rows if row.timing]
    bars = ax.barh([row.name for row in rows], times, color=[OURS if row.ours else OTHERS[5] for row in rows])
    ax.bar_label(bars, [f"{row.extra[TAX]:+.0%}" if TAX in row.extra else "" for row in rows], padding=3, fontsize=9)
    ax.set_title(group.name, fontsize=10)
    ax.set_xlabel("ms, median")
    ax.margins(x=0.12)


def _followed(ax: Axes, name: str, runs: list[Trace]) -> None:
    colours = (OURS, *OTHERS)
    for i, run in enumerate(runs):
        if name in run.curves:
            ax.plot(run.at, run.curves[name], color=colours[i % len(colours)], marker=MARKERS[i % 7], markersize=4,
                    linewidth=1.4, label=run.name)  # fmt: skip
    bounds = {run.bounds[name] for run in runs if name in run.bounds}
    for bound in bounds:
        ax.axhline(bound, color="black", linestyle=":")
    if bounds:
        ax.set_yscale("log")
    ax.set_title(name, fontsize=10)
    ax.set_xlabel(runs[0].axis)
    ax.grid(True, which="major", alpha=0.25)


def _chip(results: Results, device: str) -> str:
    return results.machine.cpu if device == "cpu" else results.machine.gpu or device


def _family(group: Group) -> str:
    """What groups have in common that differ in size only."""
    threads = f"{group.threads} thread{'s' * (group.threads != 1)}" if group.device == "cpu" else ""
    return ", ".join(filter(None, (*(v for k, v in group.params.items() if k != "shape"), threads)))


def _picture(curves: dict[str, list[Group]], path: Path, title: str) -> Path:
    columns = min(3, len(curves))
    lines = math.ceil(len(curves) / columns)
    figure = Figure(figsize=(4.2 * columns, 3.4 * lines + 0.9), layout="constrained", dpi=120)
    axes = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True)
    names = list(dict.fromkeys(row.name for groups in curves.values() for g in groups for row in g.rows if row.timing))
    ours = {row.name for groups in curves.values() for g in groups for row in g.rows if row.ours}
    styles = _styles(names, ours)
    for place, (ax, (family, groups)) in enumerate(zip(axes.flat, curves.items(), strict=False)):
        _panel(ax, sorted(groups, key=lambda g: g.size), styles)
        ax.set_title(family, fontsize=10)
        if place + columns >= len(curves):  # nothing below it
            ax.tick_params(labelbottom=True)
            ax.set_xlabel("elements")
    for ax in axes.flat[len(curves) :]:
        ax.set_axis_off()
    for ax in axes[:, 0]:
        ax.set_ylabel("ns per element")
    handles = [Line2D([], [], **style, label=name) for name, style in styles.items()]
    if any(g.champion and g.champion.ceiling for groups in curves.values() for g in groups):
        handles.append(Line2D([], [], color="black", linestyle=":", label="memory copy of the counted bytes"))
    if any(_in_a_product(g.champion) for groups in curves.values() for g in groups):
        handles.append(Line2D([], [], color="black", linestyle="-.", label="the counted operations in a large product"))
    figure.legend(handles=handles, loc="outside lower center", ncols=min(5, len(handles)), frameon=False, fontsize=9)
    figure.suptitle(title, fontsize=11)
    return _saved(figure, path)


def _in_a_product(row: RowResult | None) -> float | None:
    """Seconds that a row's counted operations would take in a large product of matrices."""
    if row is None or row.timing is None:
        return None
    return next((row.timing.best * share for name, share in row.extra.items() if name.startswith("of a ")), None)


def _styles(names: list[str], ours: set[str]) -> dict[str, dict[str, Any]]:
    mine, peers = [n for n in names if n in ours], [n for n in names if n not in ours]
    dashes = ["-", "--", "-.", (0, (1, 1))]
    return {
        name: {"color": OURS, "marker": MARKERS[i % 7], "linewidth": 2.2, "linestyle": dashes[i % 4]}
        for i, name in enumerate(mine)
    } | {
        name: {"color": OTHERS[i % 7], "marker": MARKERS[i % 7], "linewidth": 1.2, "markersize": 4}
        for i, name in enumerate(peers)
    }


def _panel(ax: Axes, groups: list[Group], styles: dict[str, dict[str, Any]]) -> None:
    for name, style in styles.items():
        rows = [(g.size, g.row(name)) for g in groups]
        points = [(size, row.timing.best / size * 1e9) for size, row in rows if row and row.timing]
        if points:
            ax.plot(*zip(*points, strict=True), **style)
    best = [(g.size, g.champion) for g in groups]
    floor = [(size, row.nbytes / row.ceiling / size * 1e9) for size, row in best if row and row.nbytes and row.ceiling]
    if floor:
        ax.plot(*zip(*floor, strict=True), color="black", linestyle=":")
    floor = [(size, seconds / size * 1e9) for size, row in best if (seconds := _in_a_product(row))]
    if floor:
        ax.plot(*zip(*floor, strict=True), color="black", linestyle="-.")
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.grid(True, which="major", alpha=0.25)
