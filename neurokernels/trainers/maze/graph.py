"""An agent's network as a graph: the connections that are left, their sign and their size."""

from dataclasses import dataclass
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch
from torch import Tensor

from neurokernels.evolution import Population
from neurokernels.trainers.pictures import COLOURS

_PLUS, _MINUS = COLOURS[2], COLOURS[3]
_UNIT = 90  # area of a unit in square points


@dataclass(frozen=True)
class Graph:
    """What is left of a network.

    Attributes:
        units: Name of every unit: inputs, hidden ones, outputs.
        source, target, weight: ``[K]``, the connections that are left.
        useful: ``[K]`` bool, whether a connection lies on a way from an input to an output.
        groups: Unit numbers of inputs, hidden units that are left, and outputs.
    """

    units: tuple[str, ...]
    source: Tensor
    target: Tensor
    weight: Tensor
    useful: Tensor
    groups: tuple[list[int], list[int], list[int]]

    @staticmethod
    def of(agent: Population) -> "Graph":
        """The graph of a population of one."""
        network, left = agent.network, agent.mask[0].nonzero()[:, 0]
        source, target = (ends[left] for ends in network.ends())
        inputs, count = len(network.inputs), len(network.units)
        first_output = inputs + network.width
        driven = _reached(range(inputs), source, target, count)
        heard = _reached(range(first_output, count), target, source, count)
        attached = {int(unit) for unit in torch.cat([source, target])}
        hidden = [unit for unit in range(inputs, first_output) if unit in attached]
        return Graph(
            network.units, source, target, agent.weights[0][left], driven[source] & heard[target],
            (list(range(inputs)), hidden, list(range(first_output, count))),
        )  # fmt: skip

    def places(self) -> Tensor:
        """Where every unit is drawn, ``[units, 2]``: inputs left, outputs right, hidden ones between."""
        inputs, hidden, outputs = self.groups
        found = torch.full((len(self.units), 2), float("nan"))
        for column, x in ((inputs, 0.0), (outputs, 3.0)):
            found[column, 0], found[column, 1] = x, torch.linspace(1, -1, len(column) + 2)[1:-1] * 1.25
        angle = torch.arange(len(hidden)) * (2 * torch.pi / max(len(hidden), 1)) + torch.pi / 2
        found[hidden, 0], found[hidden, 1] = 1.5 + 0.75 * angle.cos(), angle.sin()
        return found


def _reached(origin: range, source: Tensor, target: Tensor, count: int) -> Tensor:
    """The units that can be reached along connections, ``[count]`` bool."""
    found = torch.zeros(count, dtype=torch.bool)
    found[list(origin)] = True
    for _ in range(count):
        found[target[found[source]]] = True
    return found


def network_picture(agent: Population, title: str) -> Figure:
    """The network of a population of one."""
    graph = Graph.of(agent)
    figure = Figure(figsize=(7.5, 4.5), dpi=150, layout="constrained")
    draw(figure.subplots(), graph)
    some = f"{len(graph.weight)} of {agent.network.edges} connections are left"
    way = f"{int(graph.useful.sum())} of them on a way from a sensor to a command (the others are faint)"
    figure.suptitle(
        f"{title}\n{some}, {way}\nblue: positive, orange: negative; width: size", fontsize=8.5, x=0.01, ha="left"
    )
    return figure


def draw(ax: Axes, graph: Graph, *, names: bool = True) -> PathCollection:
    """Draws a network; the units are returned so that they can be coloured."""
    places = graph.places()
    largest = float(graph.weight.abs().max()) if len(graph.weight) else 1.0
    for source, target, weight, useful in zip(
        graph.source.tolist(), graph.target.tolist(), graph.weight.tolist(), graph.useful.tolist(), strict=True
    ):
        style: Any = {
            "color": _PLUS if weight > 0 else _MINUS, "lw": 0.3 + 2.2 * abs(weight) / max(largest, 1e-9),
            "alpha": 0.75 if useful else 0.15, "zorder": 2 if useful else 1,
        }  # fmt: skip
        _connection(ax, places[source].tolist(), places[target].tolist(), style)
    shown = [unit for group in graph.groups for unit in group]
    units = ax.scatter(
        places[shown, 0], places[shown, 1], s=_UNIT, c="white", edgecolors="0.25", linewidths=0.9, zorder=3
    )
    if names:
        for column, side in ((graph.groups[0], -1), (graph.groups[2], 1)):
            for unit in column:
                x, y = places[unit].tolist()
                ax.text(
                    x + 0.13 * side, y, graph.units[unit], ha="right" if side < 0 else "left", va="center", fontsize=8
                )
    ax.set(xlim=(-1.15, 3.75) if names else (-0.2, 3.2), ylim=(-1.15, 1.15))
    ax.set_axis_off()
    return units


def _connection(ax: Axes, start: list[float], end: list[float], style: Any) -> None:
    """An arrow, bent so that the way back is another one; a circle for a unit that reads itself."""
    if start == end:
        outward = torch.tensor([start[0] - 1.5, start[1]])
        x, y = (torch.tensor(start) + 0.1 * outward / outward.norm().clamp(min=1e-6)).tolist()
        ax.add_patch(Circle((x, y), 0.1, fill=False, **style))
        return
    ax.add_patch(
        FancyArrowPatch(
            (start[0], start[1]), (end[0], end[1]), arrowstyle="-|>", mutation_scale=7, shrinkA=5, shrinkB=5,
            connectionstyle="arc3,rad=0.12", **style,
        )
    )  # fmt: skip
