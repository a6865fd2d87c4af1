"""The pictures of a sweep: evolution, generalisation against sparsity, one evolved network and its ways."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from rich.console import Console

from neurokernels import maze_rollout
from neurokernels.evolution import Mazes
from neurokernels.trainers.loop import Row
from neurokernels.trainers.maze.graph import network_picture
from neurokernels.trainers.maze.labyrinths import held_out, training
from neurokernels.trainers.maze.paths import Walk, animation, path_picture
from neurokernels.trainers.maze.results import Group, Results, collect, shown
from neurokernels.trainers.maze.summary import summarise
from neurokernels.trainers.pictures import COLOURS, STYLE, png
from neurokernels.trainers.run import RunFolder

_CONTROLS = {"sparse": (COLOURS[3], "s"), "noise": (COLOURS[0], "^"), "l1": (COLOURS[5], "v")}
_HANDS = (("left", "--"), ("right", ":"))
_PANELS = 3
_STEP = 1.22  # from one arm that keeps all connections to the next, as they are drawn


def report(out: Path, console: Console) -> list[Path]:
    """Draws the pictures of a folder of results and writes its tables; returns the pictures' paths."""
    results, folder = collect(out), RunFolder(out)
    summarise(results, folder, console)
    row = shown(results.rows)
    title = f"best agent of {Group(row['arm'], row['amount'], []).label}, seed {row['seed']}"
    walks = _walks(results, row)
    with matplotlib.rc_context(STYLE):
        pictures = {
            "report.png": png(draw(results)),
            "network.png": png(network_picture(results.agent, title)),
            "path.png": png(path_picture(walks, f"{title}: unseen mazes as they come, solved or not")),
            "path.gif": animation(_solved(results, row), results.agent),
        }
    return [folder.write(name, picture) for name, picture in pictures.items()]


def _walks(results: Results, row: Row) -> list[Walk]:
    """The first unseen mazes of the training size, then the first of each larger size that is not like those before.

    Mazes of one number and different sizes begin alike, so each panel takes another number.
    """
    own = max(1, _PANELS + 1 - len(results.sizes))
    sizes = [row["size"]] * own + results.sizes[1:]
    mazes = [_unseen(row, size) for size in sizes]
    return [
        Walk.of(results.agent, some[number % len(some)], results.steps_in(size), row["mode"])
        for number, (some, size) in enumerate(zip(mazes, sizes, strict=True))
    ]


def _solved(results: Results, row: Row) -> Walk:
    """The way through the first unseen maze of the training size that the agent solves, or through the first one."""
    mazes = _unseen(row, row["size"])
    goals = maze_rollout(results.agent, mazes, steps=row["steps"], mode=row["mode"]).goals[0]
    return Walk.of(results.agent, mazes[int((goals > 0).int().argmax())], row["steps"], row["mode"])


def _unseen(row: Row, size: int) -> Mazes:
    return held_out(row["held_out"], size, apart_from=training(row["mazes"], row["size"], row["seed"]))


def draw(results: Results) -> Figure:
    """Evolution above; below, unseen mazes against the connections that are left."""
    figure = Figure(figsize=(10, 7.2), dpi=150, layout="constrained")
    seeds = len(results.seeds)
    title = f"Gerum-style evolution in mazes: {results.title}, {seeds} seed{'s' if seeds > 1 else ''}"
    figure.suptitle(title, fontsize=10.5, x=0.01, ha="left")
    upper, lower = figure.subfigures(2, 1, squeeze=False, height_ratios=(1, 1.15)).ravel()
    severed = [group for group in results.groups() if group.arm in ("none", "severance")]
    others = [group for group in results.groups() if group.arm != "severance"]
    fitness, controls, kept = upper.subplots(1, 3)
    for ax, groups, title in ((fitness, severed, "training mazes"), (controls, others, "training mazes, controls")):
        _curves(ax, results, groups, "goals_train", ("none",))
        ax.set(title=title, ylabel="goals per maze, mean over seeds")
    bottom, top = zip(fitness.get_ylim(), controls.get_ylim(), strict=True)
    for ax in (fitness, controls):
        ax.set_ylim(min(bottom), max(top))
    _curves(kept, results, severed, "mean_kept", ("none", "severance"))
    kept.set(title="connections kept", ylabel="share, mean of the population", yscale="log")
    _plain(kept.yaxis)
    panels = lower.subplots(1, len(results.sizes), squeeze=False).ravel()
    for ax, size in zip(panels, results.sizes, strict=True):
        _generalisation(ax, results, size)
    handles = [_handle(results, group) for group in results.groups()]
    hands = [Line2D([], [], color="0.55", ls=line, lw=1, label=f"wall follower, {hand}") for hand, line in _HANDS]
    figure.legend(handles=handles + hands, loc="outside lower center", ncols=6, fontsize=7.5, handlelength=2.2)
    return figure


def _plain(axis: Axis) -> None:
    """Numbers instead of powers of ten."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def _style(results: Results, group: Group) -> tuple[Any, str, Any]:
    """Colour, line and face of an arm: severance by its probability, controls by kind, the second amount hollow."""
    amounts = [g.amount for g in results.groups() if g.arm == group.arm]
    at = amounts.index(group.amount)
    if group.arm == "none":
        return "black", "-", "black"
    if group.arm == "severance":
        colour = matplotlib.colormaps["viridis"](0.92 * (1 - at / max(len(amounts) - 1, 1)))
        return colour, "-", colour
    colour = _CONTROLS[group.arm][0]
    return colour, ("-", "--", ":", "-.")[at % 4], "white" if at % 2 else colour


def _marker(results: Results, group: Group) -> dict[str, Any]:
    """How a mean is drawn."""
    colour, _, face = _style(results, group)
    edge = "white" if face is colour or face == colour else colour
    return {"marker": _CONTROLS.get(group.arm, ("", "o"))[1], "ms": 6, "mfc": face, "mec": edge, "mew": 0.7}


def _handle(results: Results, group: Group) -> Line2D:
    colour, line, _ = _style(results, group)
    return Line2D([], [], color=colour, ls=line, label=group.label, **_marker(results, group))


def _curves(ax: Axes, results: Results, groups: Sequence[Group], column: str, banded: Sequence[str]) -> None:
    """Mean over seeds along the generations; for some arms with a band from the least to the largest seed."""
    for group in groups:
        colour, line, _ = _style(results, group)
        x = group.rows[0]["curves"]["generation"]
        values = np.array([row["curves"][column] for row in group.rows])
        ax.plot(x, values.mean(0), line, color=colour, zorder=3 if group.arm == "none" else 2)
        if group.arm in banded:
            ax.fill_between(x, values.min(0), values.max(0), color=colour, alpha=0.12, lw=0)
    ax.set(xlabel="generation", xlim=(0, None))


def _generalisation(ax: Axes, results: Results, size: int) -> None:
    """Goals in unseen mazes against the connections that are left: each seed, and means with 95 % intervals.

    Arms that keep all connections stand side by side.
    """
    for hand, line in _HANDS:
        ax.axhline(results.wall_followers[hand][f"goals_{size}"], color="0.55", ls=line, lw=1)
    right = 100.0
    for group in results.groups():
        colour, _, _ = _style(results, group)
        style = _marker(results, group)
        kept, goals = 100 * np.array(group.values("kept")), np.array(group.values(f"goals_{size}"))
        if kept.min() == 100:
            kept, right = np.full_like(kept, right), right * _STEP
        ax.plot(kept, goals, style["marker"], color=colour, ms=2.5, alpha=0.45, mew=0)
        mean = results.interval(group, f"goals_{size}")
        ax.errorbar(
            float(kept.mean()), mean.mean, mean.high - mean.mean, color=colour, elinewidth=1.1, zorder=4, **style
        )
    ax.axvspan(100 / _STEP**0.5, right / _STEP**0.5, color="0.94", zorder=0)
    ax.set(
        title=f"unseen mazes, {size} x {size}", xlabel="connections kept (%); grey: all", ylabel="goals per maze",
        xscale="log", xlim=(None, right), ylim=(0, None),
    )  # fmt: skip
    _plain(ax.xaxis)
    ax.set_xticks([tick for tick in ax.get_xticks() if ax.get_xlim()[0] <= tick <= 100])
