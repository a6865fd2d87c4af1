"""The picture of a sweep: canonical correlations over training, and accuracy per arm."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from rich.console import Console

from neurokernels.trainers.dcca.results import Results, collect
from neurokernels.trainers.dcca.settings import ARMS
from neurokernels.trainers.dcca.summary import named, summarise
from neurokernels.trainers.pictures import COLOURS, STYLE, png
from neurokernels.trainers.results import Spread
from neurokernels.trainers.run import RunFolder

_COLOUR: dict[str, str] = dict(zip(ARMS, ("0.35", "0.65", COLOURS[1], COLOURS[2], COLOURS[0], COLOURS[3]), strict=True))
_PARTS = {"train": "training stimuli", "held_out": "held-out stimuli"}


def report(out: Path, console: Console) -> Path:
    """Draws the picture of a folder of results and writes its tables; returns the picture's path."""
    results, folder = collect(out), RunFolder(out)
    summarise(results, folder, console)
    return folder.write("report.png", draw(results))


def draw(results: Results) -> bytes:
    """The picture as PNG."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10, 6.6), dpi=150, layout="constrained")
        seeds = len({row["seed"] for row in results.rows})
        title = f"Pirlot et al. 2022: {results.title}, " + (f"{seeds} seeds" if seeds > 1 else "one seed")
        figure.suptitle(title, fontsize=10.5, x=0.01, ha="left")
        (fitted, others, dimensions), (clean, fgsm, pgd) = figure.subplots(2, 3)
        for ax, part in ((fitted, "train"), (others, "held_out")):
            _training(ax, results, part)
        _dimensions(dimensions, results)
        _bars(clean, results)
        for ax, attack in ((fgsm, "fgsm"), (pgd, "pgd")):
            _attack(ax, results, attack)
        return png(figure)


def _band(ax: Axes, x: Sequence[float], values: Sequence[Spread], arm: str, *, dashed: bool = False) -> None:
    """A mean with a band of one standard deviation."""
    mean, sd = np.array([v.mean for v in values]), np.array([v.sd for v in values])
    ax.plot(x, mean, "--" if dashed else "-", color=_COLOUR[arm], label=None if dashed else arm)
    ax.fill_between(x, mean - sd, mean + sd, color=_COLOUR[arm], alpha=0.15, lw=0)


def _training(ax: Axes, results: Results, part: str) -> None:
    for arm in results.arms:
        epochs, values = results.correlation(arm, part)
        if epochs:
            _band(ax, epochs, values, arm)
    ax.axhline(0, color="0.8", lw=0.8, zorder=0)
    ax.set(title=_PARTS[part], xlabel="epoch", ylabel="mean canonical correlation", ylim=(-0.15, 1))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    if part == "train" and ax.lines[1:]:
        ax.legend(loc="best")


def _dimensions(ax: Axes, results: Results) -> None:
    """Every correlation at the end of training."""
    for arm in results.arms:
        for part in _PARTS:
            values = results.dimensions(arm, part)
            if values:
                _band(ax, range(1, len(values) + 1), values, arm, dashed=part == "held_out")
    ax.axhline(0, color="0.8", lw=0.8, zorder=0)
    ax.set(title="at the end (dashed: held out)", xlabel="canonical dimension", ylim=(-0.15, 1))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))


def _bars(ax: Axes, results: Results) -> None:
    """Clean and super-class accuracy, from a bit below the lowest on."""
    shown = [metric for metric in ("clean", "super") if metric in results.metrics]
    width = 0.8 / len(results.arms)
    lowest = 100.0
    for at, arm in enumerate(results.arms):
        values = [results.accuracy(arm, metric) for metric in shown]
        x = np.arange(len(shown)) + (at + 0.5) * width - 0.4
        ax.bar(
            x, [v.mean for v in values], 0.9 * width, yerr=[v.sd for v in values], color=_COLOUR[arm], label=arm,
            error_kw={"elinewidth": 1},
        )  # fmt: skip
        lowest = min(lowest, *(v.mean - v.sd for v in values))
    ax.set(title="clean images", ylabel="accuracy (%)", ylim=(max(0, 5 * np.floor(lowest / 5) - 5), None))
    ax.set_xticks(range(len(shown)), [named(metric) for metric in shown])
    ax.legend(loc="upper left", fontsize=7.5)


def _attack(ax: Axes, results: Results, attack: str) -> None:
    """Accuracy against the size of an attack; size 0 is the clean accuracy."""
    sizes = [float(name.partition("_")[2]) for name in results.metrics if name.startswith(attack)]
    for arm in results.arms:
        names = ["clean", *(f"{attack}_{size:g}" for size in sizes)]
        values = [results.accuracy(arm, name) for name in names]
        ax.errorbar(
            [0, *sizes], [v.mean for v in values], [v.sd for v in values], fmt=".-", color=_COLOUR[arm],
            elinewidth=0.9, label=arm,
        )  # fmt: skip
    ax.set(title=attack.upper(), xlabel="ε", ylabel="accuracy (%)", ylim=(0, None))
