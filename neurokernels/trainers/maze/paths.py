"""The ways of an agent through mazes that it never saw: a picture, and an animation with the network beside it."""

import io
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from neurokernels.evolution import Mazes, MazeTrace, Population, trace
from neurokernels.trainers.maze.graph import Graph, draw
from neurokernels.trainers.pictures import COLOURS

#: East and south of a step by heading: north, east, south, west.
_AHEAD = np.array([(0, -1), (1, 0), (0, 1), (-1, 0)])
_ASIDE = 0.13  # the way back is drawn on the other side of a corridor
_FRAMES = 110
_MILLISECONDS = 110
_COLOURS = 48


@dataclass(frozen=True)
class Walk:
    """One agent in one maze.

    Attributes:
        mazes: That maze.
        seen: Every step.
    """

    mazes: Mazes
    seen: MazeTrace

    @staticmethod
    def of(agent: Population, mazes: Mazes, steps: int, mode: str) -> "Walk":
        """Lets the agent walk in the first of the mazes."""
        return Walk(mazes[:1], trace(agent, mazes[:1], steps=steps, mode=mode))

    @property
    def goals(self) -> int:
        """How often the goal was reached and rewarded."""
        return int(self.seen.goals.sum())

    @property
    def arrival(self) -> int | None:
        """Steps until the goal was reached for the first time; None if it was not."""
        there = (self.seen.position[:, 0, 0] == self.mazes.goal[0]).nonzero()
        return int(there[0, 0]) if len(there) else None

    def line(self, last: int) -> np.ndarray:
        """Points of the way up to a step, ``[last + 1, 2]``, each on the right-hand side of its corridor."""
        width = self.mazes.size[1]
        cells = self.seen.position[: last + 1, 0, 0].numpy()
        heading = self.seen.heading[: last + 1, 0, 0].numpy()
        return np.stack([cells % width, cells // width], 1) + _ASIDE * _AHEAD[(heading + 1) % 4]

    def inputs(self) -> Tensor:
        """What the agent sensed before each step, ``[T + 1, 8]`` in the order of all inputs."""
        cells, heading, motor = (
            part[:, 0, 0].long() for part in (self.seen.position, self.seen.heading, self.seen.motor)
        )
        walls = self.mazes.walls[0].flatten().long()[cells]
        sides = [walls >> (heading + turn) % 4 & 1 for turn in (3, 0, 1)]
        there = (cells == int(self.mazes.goal[0])).long()
        return torch.stack([*sides, torch.ones_like(there), there, *((motor == k).long() for k in range(3))], 1)


def path_picture(walks: list[Walk], title: str) -> Figure:
    """A panel for each walk, up to the first arrival."""
    columns = min(3, len(walks))
    lines = -(-len(walks) // columns)
    figure = Figure(figsize=(3.2 * columns, 3.4 * lines + 0.3), dpi=150, layout="constrained")
    figure.suptitle(title, fontsize=9.5, x=0.01, ha="left")
    panels = figure.subplots(lines, columns, squeeze=False).ravel()
    for ax, walk in zip(panels, walks, strict=False):
        steps = len(walk.seen.goals)
        last = steps if walk.arrival is None else walk.arrival
        labyrinth(ax, walk.mazes)
        points = walk.line(last)
        segments = np.stack([points[:-1], points[1:]], 1)
        ax.add_collection(LineCollection(list(segments), array=np.arange(last), cmap="viridis", lw=1.6))
        said = (
            f"no goal in {steps} steps" if walk.arrival is None else f"goal after {last} steps, {walk.goals} in {steps}"
        )
        ax.set_title(f"{walk.mazes.size[0]} x {walk.mazes.size[1]}: {said}", fontsize=8.5, loc="left")
    for ax in panels[len(walks) :]:
        ax.set_axis_off()
    return figure


def labyrinth(ax: Axes, mazes: Mazes) -> None:
    """Walls, start (circle) and goal (star) of the first maze."""
    walls, (height, width) = mazes.walls[0].numpy(), mazes.size
    corners = np.array([(-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)])
    segments = [
        (corners[side] + (x, y), corners[(side + 1) % 4] + (x, y))
        for y in range(height) for x in range(width) for side in range(4) if walls[y, x] >> side & 1
    ]  # fmt: skip
    ax.add_collection(LineCollection(segments, color="0.15", lw=1.1, capstyle="projecting"))
    for cell, marker in ((int(mazes.start[0]), "o"), (int(mazes.goal[0]), "*")):
        ax.plot(
            cell % width, cell // width, marker, color=COLOURS[0], ms=60 / width + (marker == "*") * 2, mew=0, zorder=1
        )
    ax.set(xlim=(-0.6, width - 0.4), ylim=(height - 0.4, -0.6), aspect="equal")
    ax.set_axis_off()


def animation(walk: Walk, agent: Population) -> bytes:
    """A GIF of a walk up to the first arrival: the maze, and beside it what each unit of the network does."""
    figure = Figure(figsize=(6.4, 2.9), dpi=100)
    canvas, graph = FigureCanvasAgg(figure), Graph.of(agent)
    left = figure.add_axes((0.0, 0.0, 0.44, 0.92))
    right = figure.add_axes((0.44, 0.02, 0.56, 0.88))
    labyrinth(left, walk.mazes)
    units = draw(right, graph)
    (way,) = left.plot([], [], color=COLOURS[1], lw=1.5)
    (here,) = left.plot([], [], marker=(3, 0, 0), ms=8, color=COLOURS[3], mew=0)
    count = figure.text(0.02, 0.94, "", fontsize=9)
    moving: list[Artist] = [way, here, units, count]
    for artist in moving:
        artist.set_animated(True)
    canvas.draw()
    still = canvas.copy_from_bbox(figure.bbox)  # walls and connections are drawn once
    activity = _activity(walk, agent, graph)
    steps = len(walk.seen.goals)
    last = min(walk.arrival or steps - 1, steps - 1)  # the state after a step is part of its picture
    frames = []
    for step in range(0, last + 1, -(-(last + 1) // _FRAMES)):
        points = walk.line(step)
        way.set_data(points[:, 0], points[:, 1])
        here.set_data(points[-1:, 0], points[-1:, 1])
        here.set_marker((3, 0, -90 * int(walk.seen.heading[step, 0, 0])))
        units.set_facecolor(list(_shades(activity[step])))
        count.set_text(f"step {step}")
        canvas.restore_region(still)
        for artist in moving:
            figure.draw_artist(artist)
        frames.append(Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3]))
    return _gif(frames)


def _gif(frames: list[Image.Image]) -> bytes:
    """Frames of one palette: what two of them have in common is stored once."""
    palette = frames[len(frames) // 2].quantize(_COLOURS, dither=Image.Dither.NONE)
    first, *others = (frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames)
    times = [_MILLISECONDS] * len(others) + [15 * _MILLISECONDS]
    buffer = io.BytesIO()
    first.save(buffer, "GIF", save_all=True, append_images=others, duration=times, loop=0, optimize=True)
    return buffer.getvalue()


def _activity(walk: Walk, agent: Population, graph: Graph) -> Tensor:
    """What the drawn units do in each step, ``[T, shown]`` in [-1, 1]: senses, activations, and the command."""
    network = agent.network
    sensed = walk.inputs()[:-1, list(network.inputs)].float()
    hidden = walk.seen.hidden[1:, 0, 0]
    given = torch.nn.functional.one_hot(walk.seen.motor[1:, 0, 0].long(), 4)[:, :3].float()
    every = torch.cat([sensed, hidden / hidden.abs().max().clamp(min=1e-9), given], 1)
    return every[:, [unit for group in graph.groups for unit in group]]


def _shades(values: Tensor) -> np.ndarray:
    """Blue for positive, red for negative, white for silent."""
    return np.asarray(colormaps["RdBu"](0.5 + 0.4 * values.numpy()))
