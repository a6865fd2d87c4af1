"""The picture of a sweep: spectra over training, accuracy against the measured exponent, and the way there."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from rich.console import Console

from neurokernels.trainers.loop import Row
from neurokernels.trainers.pictures import COLOURS, STYLE, png
from neurokernels.trainers.results import evaluations, spread
from neurokernels.trainers.run import RunFolder
from neurokernels.trainers.spectral.published import radius
from neurokernels.trainers.spectral.results import METRICS, Results, collect
from neurokernels.trainers.spectral.summary import summarise

_GREY = "0.62"
_FIRST, _LAST = 6, 50  # the eigenvalues that the exponent is fitted to
_NOISE = 1e-12  # eigenvalues that are zero but for rounding
_TITLES = {"clean": "clean images", "fgsm": "FGSM", "pgd": "PGD"}


def report(out: Path, console: Console) -> Path:
    """Draws the picture of a folder of results and writes its tables; returns the picture's path."""
    results, folder = collect(out), RunFolder(out)
    summarise(results, folder, console)
    return folder.write("report.png", draw(results))


def draw(results: Results) -> bytes:
    """The picture as PNG."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10, 9.2), dpi=150, layout="constrained")
        seeds = len({row["seed"] for row in results.rows})
        title = f"Gerum et al. 2022: {results.title}, " + (f"{seeds} seeds" if seeds > 1 else "one seed")
        figure.suptitle(title, fontsize=10.5, x=0.01, ha="left")
        upper, middle, lower = figure.subfigures(3, 1, squeeze=False, height_ratios=(1, 1.25, 1.1)).ravel()
        panels = upper.subplots(1, max(len(results.spectra), 1), sharey=True, squeeze=False).ravel()
        for ax, shown in zip(panels, results.spectra, strict=False):
            _spectrum(ax, shown)
        panels[0].set(ylabel="share of variance", ylim=(_least(results.spectra) / 2, 1.5))
        for ax, metric in zip(middle.subplots(1, 3), METRICS, strict=True):
            _accuracy(ax, results, metric)
        epochs, path, sizes = lower.subplots(1, 3)
        _exponents(epochs, results)
        _trajectory(path, results)
        _sizes(sizes, results)
        return png(figure)


def _colour(results: Results, strength: float) -> str:
    paper = (0.0, 0.1, 1.0)  # these have the same colours in every picture
    order = [*paper, *(s for s in results.strengths if s not in paper)]
    return COLOURS[order.index(strength) % len(COLOURS)]


def _least(spectra: Sequence[Row]) -> float:
    """The smallest eigenvalue shown."""
    values = (value for shown in spectra for some in shown["spectra"].values() for value in some)
    return min((value for value in values if value > _NOISE), default=1e-3)


def _spectrum(ax: Axes, shown: Row) -> None:
    """Eigenvalues at every evaluation, darker with time, and the target through the fitted range."""
    spectra = shown["spectra"]
    for at, (epoch, values) in enumerate(spectra.items()):
        shade = 0.25 + 0.75 * (at + 1) / len(spectra)
        colour = tuple(1 - shade * (1 - part) for part in to_rgb(COLOURS[2]))
        label = f"epoch {epoch}" if at in (0, len(spectra) - 1) else None
        clear = np.where(np.array(values) > _NOISE, values, np.nan)
        ax.loglog(np.arange(1, len(values) + 1), clear, color=colour, lw=1, label=label)
    if shown["alpha"] is None:
        ax.set_title("plain")
    else:
        last = np.array(values[_FIRST - 1 : _LAST]).clip(_NOISE)
        n = np.arange(_FIRST, _FIRST + len(last), dtype=float)
        fitted = np.log(last).mean() + shown["alpha"] * np.log(n).mean()
        ax.loglog(n, np.exp(fitted - shown["alpha"] * np.log(n)), "k--", lw=1, label="target")
        ax.set_title(f"target {shown['alpha']:g}, strength {shown['strength']:g}")
    ax.set(xlabel="eigenvalue")
    ax.axvspan(_FIRST, _LAST, color="0.93", zorder=0)
    ax.legend(loc="lower left", handlelength=1.2)


def _published(ax: Axes, results: Results, metric: str) -> None:
    """The paper's curves, beneath: a point for the plain network, a band for each strength."""
    for strength in (0.0, 0.1, 1.0):
        points = results.published(metric, strength)
        xs, ys = [p.alpha for p in points], [100 * p.accuracy for p in points]
        if len(points) == 1:
            ax.plot(xs, ys, "D", color=_GREY, ms=8, alpha=0.6, mew=0, zorder=1)
        elif points:
            ax.plot(xs, ys, color=_GREY, lw=3, alpha=0.6, solid_capstyle="round", zorder=1)
            ax.annotate(f"{strength:g}", (xs[-1], ys[-1]), (3, 0), textcoords="offset points", color="0.4", va="center")


def _accuracy(ax: Axes, results: Results, metric: str) -> None:
    _published(ax, results, metric)
    for strength in results.strengths:
        colour = _colour(results, strength)
        groups = [group for group in results.groups() if group.strength == strength]
        x = [spread(row["result"]["measured_alpha"] for row in group.rows) for group in groups]
        y = [spread(100 * row["result"][results.key(metric)] for row in group.rows) for group in groups]
        ax.errorbar(
            [v.mean for v in x], [v.mean for v in y], [v.sd for v in y], [v.sd for v in x], color=colour,
            fmt="o-" if strength else "D", ms=3.5 if strength else 6, lw=1.2, elinewidth=0.9,
            label="plain" if not strength else f"strength {strength:g}",
        )  # fmt: skip
    size = "" if metric == "clean" else f", ε = {radius(results.network, results.data):g}"
    ax.set(title=_TITLES[metric] + size, xlabel="measured exponent", ylabel="accuracy (%)")
    if metric == "clean":
        ax.legend(title="grey: published", loc="best", alignment="left")


def _exponents(ax: Axes, results: Results) -> None:
    """Measured exponent by epoch."""
    for row in results.rows:
        seen = evaluations(row)
        plain = row["alpha"] is None
        style: Any = {"lw": 1.8, "zorder": 3, "marker": "."} if plain else {"lw": 0.7, "alpha": 0.6}
        xs, ys = [e["epoch"] for e in seen], [e["measured_alpha"] for e in seen]
        ax.plot(xs, ys, color=_colour(results, row["strength"]), **style)
    beside = results.plain_torch()
    if beside:
        ax.plot([row["epoch"] for row in beside], [row["alpha"] for row in beside], "kx", ms=5, zorder=4)
    for point in results.published("clean", 0.0):
        ax.axhline(point.alpha, color=_GREY, lw=3, alpha=0.6, zorder=1)
    ax.set(title="exponent over training", xlabel="epoch", ylabel="measured exponent", xlim=(0, None))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))


def _trajectory(ax: Axes, results: Results) -> None:
    """The plain network's way through exponent and robustness, beside what was published."""
    plain = [evaluations(row) for row in results.rows if row["alpha"] is None]
    beside = results.plain_torch()
    for metric, marker in (("fgsm", "s"), ("pgd", "o")):
        key, colour = results.key(metric), COLOURS[0 if metric == "pgd" else 4]
        for index, seen in enumerate(plain):
            label = f"{_TITLES[metric]}, plain" if index == 0 else None
            xs, ys = [e["measured_alpha"] for e in seen], [100 * e[key] for e in seen]
            ax.plot(xs, ys, f"{marker}-", color=colour, ms=3, lw=1, label=label)
            if index == 0 and metric == "fgsm":
                _name_epochs(ax, seen, key)
        ax.plot([r["alpha"] for r in beside], [100 * r[metric] for r in beside], "kx", ms=5, zorder=4)
        for point in results.published(metric, 0.0):
            ax.plot(point.alpha, 100 * point.accuracy, "D", color=_GREY, ms=8, alpha=0.6, mew=0, zorder=1)
    ax.set(title="plain network over training", xlabel="measured exponent", ylabel="accuracy (%)")
    crosses = "crosses: plain PyTorch\n" if beside else ""
    if plain:
        ax.legend(title=f"{crosses}diamonds: published", loc="best", alignment="left")


def _name_epochs(ax: Axes, seen: Sequence[Row], key: str) -> None:
    for row in seen[:: max(1, len(seen) // 4)]:
        where = row["measured_alpha"], 100 * row[key]
        ax.annotate(f"{row['epoch']}", where, (3, 4), textcoords="offset points", fontsize=7.5)


def _sizes(ax: Axes, results: Results) -> None:
    """Accuracy against the size of the fast gradient sign attack, for the networks whose spectra are shown."""
    names = [shown["name"] for shown in results.spectra]
    for row in (row for name in names for row in results.rows if row["name"] == name):
        sizes = {float(key.removeprefix("fgsm_")): v for key, v in row["result"].items() if key.startswith("fgsm_")}
        xs = sorted(sizes)
        label = "plain" if row["alpha"] is None else f"target {row['alpha']:g}, strength {row['strength']:g}"
        colour = COLOURS[names.index(row["name"])]
        ys = [100 * sizes[x] for x in xs]
        ax.plot([0, *xs], [100 * row["result"]["clean"], *ys], ".-", color=colour, label=label)
    ax.set(title="size of the FGSM attack", xlabel="ε", ylabel="accuracy (%)", ylim=(0, 100))
    ax.legend(loc="upper right")
