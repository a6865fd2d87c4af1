"""The agent's network: which sensors, how many recurrent units, and where each connection lies in a flat row."""

import json
from dataclasses import asdict, dataclass
from functools import cache, cached_property
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from neurokernels._core import checks

#: Every sensor with the names of its inputs, each of which is 0 or 1; the order is that of the inputs.
SENSORS = {
    "left": ("wall left",),
    "front": ("wall in front",),
    "right": ("wall right",),
    "bias": ("bias",),
    "goal": ("at goal",),
    "motor": ("went forward", "turned left", "turned right"),
}
INPUTS = tuple(name for names in SENSORS.values() for name in names)
COMMANDS = ("forward", "left", "right")
ACTIVATIONS = ("tanh", "relu", "sign")

#: Positions in a flat row are int32 in the kernels.
_MOST_EDGES = 2**31 - 1


class Block(NamedTuple):
    """The connections into one layer: a ``[targets, sources]`` matrix within the flat row, in row-major order.

    Attributes:
        start: Position of its first connection in the row.
        targets: The layer's units, ``units[targets.start:targets.stop]`` of `Network.units`.
        sources: Units per column: those of the layer before, then, in a recurrent layer, its own one step earlier.
    """

    start: int
    targets: range
    sources: tuple[int, ...]

    @property
    def size(self) -> int:
        """How many connections there can be."""
        return len(self.targets) * len(self.sources)


@dataclass(frozen=True)
class Network:
    """What all agents of a population have in common.

    A unit is numbered as it stands in `units`: inputs, hidden units layer by layer, outputs. All connections there
    can be, E of them, form one flat row: the block of each hidden layer, then that of the outputs (see `Block`). There
    are no bias parameters: the bias sensor is an input that is always 1.

    Args:
        hidden: Units of the hidden layer, or of each of several.
        sensors: Which of `SENSORS` the agent has.
        recurrent: Whether every unit of a hidden layer also reads all units of its layer, one step earlier.
        activation: ``"tanh"``, ``"relu"`` or ``"sign"``.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: No hidden unit, an unknown sensor or activation, or more connections than int32 can count.
    """

    hidden: tuple[int, ...] = (20,)
    sensors: tuple[str, ...] = tuple(SENSORS)
    recurrent: bool = True
    activation: str = "tanh"

    def __post_init__(self) -> None:
        sizes = self.hidden if isinstance(self.hidden, tuple | list) else (self.hidden,)
        if not sizes:
            checks.value_error("Network", "hidden", "one size or several", sizes)
        wanted = (self.sensors,) if isinstance(self.sensors, str) else tuple(self.sensors)
        for sensor in wanted:
            checks.choice("Network", "sensors", sensor, tuple(SENSORS))
        if not wanted:
            checks.value_error("Network", "sensors", f"some of {', '.join(SENSORS)}", "none")
        if not isinstance(self.recurrent, bool):
            checks.type_error("Network", "recurrent", "True or False", type(self.recurrent).__name__)
        checks.choice("Network", "activation", self.activation, ACTIVATIONS)
        object.__setattr__(self, "hidden", tuple(checks.count("Network", "hidden", size, 1) for size in sizes))
        object.__setattr__(self, "sensors", tuple(name for name in SENSORS if name in wanted))
        if self.edges > _MOST_EDGES:
            checks.value_error("Network", "hidden", f"of at most {_MOST_EDGES} connections", f"{self.edges} of them")

    @property
    def inputs(self) -> tuple[int, ...]:
        """The inputs as positions in `INPUTS`."""
        return tuple(INPUTS.index(name) for sensor in self.sensors for name in SENSORS[sensor])

    @property
    def units(self) -> tuple[str, ...]:
        """The name of every unit."""
        layers = [f"hidden {k}.{j}" for k, size in enumerate(self.hidden) for j in range(size)]
        return *(INPUTS[i] for i in self.inputs), *layers, *COMMANDS

    @property
    def width(self) -> int:
        """How many hidden units there are in all layers."""
        return sum(self.hidden)

    @property
    def edges(self) -> int:
        """E, how many connections there can be."""
        sizes = (len(self.inputs), *self.hidden, len(COMMANDS))
        own = sum(size * size for size in self.hidden) if self.recurrent else 0
        return own + sum(a * b for a, b in pairwise(sizes))

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        """The connections into every hidden layer, and into the outputs."""
        found, start, before = [], 0, range(len(self.inputs))
        for k, size in enumerate((*self.hidden, len(COMMANDS))):
            targets = range(before.stop, before.stop + size)
            own = targets if self.recurrent and k < len(self.hidden) else range(0)
            found.append(Block(start, targets, (*before, *own)))
            start, before = start + found[-1].size, targets
        return tuple(found)

    def matrices(self, row: Tensor) -> list[Tensor]:
        """Views of ``[..., E]``, one ``[..., targets, sources]`` for each of `blocks`."""
        parts = row.split([block.size for block in self.blocks], -1)
        return [p.unflatten(-1, (len(b.targets), len(b.sources))) for p, b in zip(parts, self.blocks, strict=True)]

    def ends(self) -> tuple[Tensor, Tensor]:
        """Source and target unit of every connection, two ``[E]`` int64: what a picture of the network needs."""
        sources = [torch.tensor(b.sources).repeat(len(b.targets)) for b in self.blocks]
        targets = [torch.tensor(b.targets).repeat_interleave(len(b.sources)) for b in self.blocks]
        return torch.cat(sources), torch.cat(targets)

    def rows(self) -> Tensor:
        """What every connection reads, ``[E]`` int32: all inputs there can be are numbered first, then hidden units."""
        row = torch.tensor([*self.inputs, *(len(INPUTS) + unit for unit in range(self.width))])
        return row[self.ends()[0]].int()

    def layer_ends(self) -> Tensor:
        """Where each hidden layer ends, counted in hidden units, int32."""
        return torch.tensor([b.targets.stop - len(self.inputs) for b in self.blocks[:-1]]).int()

    def fan_in(self) -> Tensor:
        """How many connections the target of each connection can have, ``[E]`` int64."""
        return torch.cat([torch.full((b.size,), len(b.sources)) for b in self.blocks])

    def text(self) -> str:
        """All of it as JSON, for files and for the leaf op."""
        return json.dumps(asdict(self))

    @staticmethod
    def parse(text: str) -> "Network":
        """The inverse of `text`.

        Raises:
            TypeError: A field is missing, unknown, or has the wrong type.
            ValueError: It is not JSON, or a value is wrong.
        """
        return _parse(text)


@cache
def _parse(text: str) -> Network:
    fields: Any = json.loads(text)
    if not isinstance(fields, dict):
        raise TypeError(f"Network: expected a JSON object, got {type(fields).__name__}")
    return Network(**fields)
