"""The picture of a run: how it learned, what its neurons do, Gerum & Schilling's phase diagram, what a step costs."""

import io
import math
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from neurokernels.bench import Group
from neurokernels.trainers.loop import Row
from neurokernels.trainers.spiking.phase import analytic_gap, measured_gap
from neurokernels.trainers.spiking.traces import Traces

# Okabe & Ito's palette, which colour-blind readers can tell apart
_COLOURS = {"fused": "#0072B2", "plain": "#E69F00"}
_NEURONS = ("#009E73", "#CC79A7", "#D55E00", "#56B4E9")
_LABELS = {"fused": "neurokernels", "plain": "plain PyTorch loop"}
_STYLE: Any = {
    "font.size": 8.5,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "lines.linewidth": 1.4,
}
_LEAK, _LONGEST = 0.1, 20


def draw(
    title: str,
    histories: Sequence[Sequence[Row]],
    digit: Tensor,
    label: int,
    before: Traces,
    after: Traces,
    timing: Sequence[Group],
) -> bytes:
    """Draws the report.

    Args:
        title: What was trained.
        histories: Rows of ``metrics.jsonl``, one sequence per seed.
        digit: ``[H, W]``, the image that the traces belong to.
        label: What it shows.
        before: Traces of the untrained network.
        after: Traces of the trained network.
        timing: The races of `race_networks`.

    Returns:
        A PNG file.
    """
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(10, 7.6), dpi=150, layout="constrained")
        figure.suptitle(title, fontsize=10.5, x=0.01, ha="left")
        upper, lower = figure.subfigures(2, 1, squeeze=False, height_ratios=(1, 1.6)).ravel()
        accuracy, loss, cost = upper.subplots(1, 3)
        _curves(accuracy, histories, "accuracy", 100.0, "accuracy (%)")
        _curves(loss, histories, "loss", 1.0, "mean squared error")
        _step_time(cost, timing)
        left, right = lower.subfigures(1, 2, squeeze=False, width_ratios=(2, 1)).ravel()
        axes = left.subplots(3, 2, sharex=True, sharey="row", height_ratios=(2.2, 1.3, 1.3))
        shown = np.argsort(-after.spikes.sum(0), kind="stable")[: len(_NEURONS)].tolist()
        for column, (name, traces) in enumerate((("before", before), ("after", after))):
            _neurons(axes[:, column], traces, shown, name, digit, label)
        _phase(right.subplots())
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _curves(ax: Axes, histories: Sequence[Sequence[Row]], what: str, factor: float, label: str) -> None:
    networks = list(dict.fromkeys(row["network"] for history in histories for row in history))
    for network in networks:
        for index, history in enumerate(histories):
            rows = [row for row in history if row["network"] == network]
            epochs = [row["epoch"] for row in rows]
            style: dict[str, Any] = {"color": _COLOURS[network], "marker": "." if len(rows) < 8 else ""}
            dashes = (0, (2, 1.5)) if network == "plain" else "-"
            name = _LABELS[network] if index == 0 else None
            ax.plot(epochs, [row[f"test_{what}"] * factor for row in rows], ls=dashes, label=name, **style)
            ax.plot(epochs, [row[f"train_{what}"] * factor for row in rows], ls=dashes, alpha=0.3, **style)
    ax.set(title=f"test {what} (training: faint)", xlabel="epoch", ylabel=label)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend(loc="lower right" if what == "accuracy" else "upper right")


def _step_time(ax: Axes, timing: Sequence[Group]) -> None:
    for at, group in enumerate(timing):
        times = {row.name: row.timing.best * 1e3 for row in group.rows if row.timing}
        for offset, name in enumerate(_COLOURS):
            y = at + (offset - 0.5) * 0.36
            if name in times:
                ax.barh(y, times[name], 0.34, color=_COLOURS[name], label=_LABELS[name] if at == 0 else None)
            text = f" {times[name]:.1f} ms" if name in times else " wrong result, no time"
            if name == "fused" and len(times) == 2:
                text += f"  ({times['plain'] / times['fused']:.1f} x faster)"
            ax.text(times.get(name, 0.0), y, text, va="center", fontsize=8)
    ax.set(title="time per batch, best of rounds", xlabel="ms", yticks=range(len(timing)))
    ax.set_yticklabels([group.name.replace(" ", "\n") for group in timing])
    ax.invert_yaxis()
    ax.margins(x=0.3)


def _neurons(axes: Sequence[Axes], traces: Traces, shown: Sequence[int], name: str, digit: Tensor, label: int) -> None:
    """Raster of all LIF neurons, membranes of a few, and the read-out: one column."""
    raster, membranes, classes = axes
    step, neuron = traces.spikes.nonzero()
    raster.scatter(step, neuron, s=2.5, c="0.25", linewidths=0)
    chosen = dict(zip(shown, _NEURONS, strict=False))
    for index, colour in chosen.items():
        (fired,) = traces.spikes[:, index].nonzero()
        raster.scatter(fired, np.full_like(fired, index), s=9, c=colour, linewidths=0, zorder=3)
        membranes.plot(traces.membranes[:, index], color=colour, lw=1)
        membranes.scatter(fired, np.full(fired.shape, 1.08), s=7, color=colour, marker="v", linewidths=0)
    membranes.axhline(1, color="0.6", lw=0.8, ls=":")
    final = traces.classes[-1]
    answer = str(int(final.argmax())) if final.max() > final.min() else "nothing"
    for other in set(range(len(final))) - {label}:
        classes.plot(traces.classes[:, other], color="0.75", lw=0.8)
    classes.plot(traces.classes[:, label], color=_COLOURS["fused"], lw=1.6)
    classes.text(0.02, 0.93, f"shown {label}, answers {answer}", transform=classes.transAxes, va="top")
    raster.set(title=f"{name} training: {int(traces.spikes.sum())} spikes", ylim=(-2, traces.spikes.shape[1] + 1))
    classes.set(xlabel="time step", xlim=(-1, len(traces.spikes)))
    if name == "before":
        raster.set_ylabel("LIF neuron")
        membranes.set_ylabel("membrane")
        classes.set_ylabel("read-out")
        inset = raster.inset_axes((0.015, 0.69, 0.2, 0.29))
        inset.imshow(digit.numpy(), cmap="gray_r")
        inset.set(xticks=[], yticks=[])


def _phase(ax: Axes) -> None:
    gain = torch.linspace(0.01, 1, 100, dtype=torch.float64)
    fine = torch.linspace(0.011, 0.999, 400, dtype=torch.float64)
    for pulses, colour in zip((2, 3, math.inf), _NEURONS, strict=False):
        gaps = measured_gap(gain, _LEAK, pulses, _LONGEST)
        ax.plot(fine.numpy(), analytic_gap(fine, _LEAK, pulses).numpy(), color=colour, lw=1)
        seen = (gaps > 0) & (gaps < _LONGEST)
        name = "endless pulses" if math.isinf(pulses) else f"{pulses} pulses"
        ax.plot(gain[seen].numpy(), gaps[seen].numpy(), ".", color=colour, ms=3.5, label=name)
    ax.set(
        title=f"phase diagram, leak {_LEAK}", xlabel="input weight", ylabel="largest gap that still fires (steps)",
        xlim=(0, 1), ylim=(0, _LONGEST),
    )  # fmt: skip
    ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend(loc="upper left", title="dots: measured with lif\nlines: formula")
