"""The picture of a sweep: what is alike to whom, accuracy with noise and under attack, and the similarity loss."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from rich.console import Console

from neurokernels.trainers.pictures import COLOURS, STYLE, png
from neurokernels.trainers.results import Spread
from neurokernels.trainers.run import RunFolder
from neurokernels.trainers.similarity.results import Results, collect
from neurokernels.trainers.similarity.settings import ARMS
from neurokernels.trainers.similarity.summary import summarise

_COLOUR: dict[str, str] = dict(zip(ARMS, ("0.35", COLOURS[1], COLOURS[0], COLOURS[2]), strict=True))


def report(out: Path, console: Console) -> Path:
    """Draws the picture of a folder of results and writes its tables; returns the picture's path."""
    results, folder = collect(out), RunFolder(out)
    summarise(results, folder, console)
    return folder.write("report.png", draw(results))


def draw(results: Results) -> bytes:
    """The picture as PNG."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(11, 6.6), dpi=150, layout="constrained")
        seeds = len({row["seed"] for row in results.rows})
        title = f"Li et al. 2019: {results.title}, " + (f"{seeds} seeds" if seeds > 1 else "one seed")
        figure.suptitle(title, fontsize=10.5, x=0.01, ha="left")
        above, below = figure.subfigures(2, 1, squeeze=False, height_ratios=(1, 1.5))[:, 0]
        _matrices(above, results)
        noise, fgsm, pgd, losses = below.subplots(1, 4)
        _curves(noise, results, "noise", "with noise", "standard deviation")
        for ax, attack in ((fgsm, "fgsm"), (pgd, "pgd")):
            _curves(ax, results, attack, attack.upper(), "ε")
        noise.legend(loc="best")
        noise.set_ylabel("accuracy (%)")
        _losses(losses, results)
        return png(figure)


def _matrices(figure: Any, results: Results) -> None:
    """1 - similarity of the stimuli that are shown, to the targets and to every arm, each by its ranks."""
    shown = results.about["shown"]
    panels = [("target: neurons", shown["neural"]), ("target: pixels", shown["pixel"])]
    panels += [(arm, results.alike(arm)) for arm in results.arms]
    figure.supxlabel(
        "how unlike pairs of held-out stimuli are, by rank; in the order of what the neurons tell apart most",
        fontsize=8.5,
    )
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for ax, (name, values) in zip(axes, panels, strict=True):
        matrix = _square(_ranks(values))
        drawn = ax.imshow(matrix, cmap="viridis", vmin=0, vmax=1, interpolation="nearest")
        ax.set(xticks=[], yticks=[])
        ax.set_title(name, color=_COLOUR.get(name, "black"))
        ax.spines[:].set_visible(False)
    bar = figure.colorbar(drawn, ax=axes, shrink=0.8, pad=0.01, ticks=(0, 1))
    bar.ax.set_yticklabels(("most alike", "least alike"))


def _ranks(values: Sequence[float]) -> NDArray[np.float64]:
    """Dissimilarity ranks from 0 to 1; equals share theirs."""
    _, place, counts = np.unique(-np.asarray(values), return_inverse=True, return_counts=True)
    ranks = (counts.cumsum() - (counts + 1) / 2)[place]
    return ranks / max(len(values) - 1, 1)


def _square(values: NDArray[np.float64]) -> NDArray[np.float64]:
    size = round((1 + (1 + 8 * len(values)) ** 0.5) / 2)
    matrix = np.zeros((size, size))
    matrix[np.triu_indices(size, 1)] = values
    return matrix + matrix.T


def _curves(ax: Axes, results: Results, kind: str, title: str, label: str) -> None:
    """Accuracy against the size of noise or of an attack; size 0 is the clean accuracy."""
    sizes = [float(name.partition("_")[2]) for name in results.metrics if name.startswith(kind)]
    for arm in results.arms:
        values = [results.accuracy(arm, name) for name in ("clean", *(f"{kind}_{size:g}" for size in sizes))]
        _line(ax, [0, *sizes], values, arm)
    ax.set(title=title, xlabel=label, ylim=(0, None))


def _line(ax: Axes, x: Sequence[float], values: Sequence[Spread], arm: str) -> None:
    ax.errorbar(
        x, [v.mean for v in values], [v.sd for v in values], fmt=".-", color=_COLOUR[arm], elinewidth=0.9, label=arm
    )


def _losses(ax: Axes, results: Results) -> None:
    for arm in results.arms:
        if losses := results.losses(arm):
            _line(ax, range(1, len(losses) + 1), losses, arm)
    ax.set(title="similarity loss", xlabel="epoch", ylim=(0, None))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
