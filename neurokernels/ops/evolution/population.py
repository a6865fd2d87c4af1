"""A population: one row of weights and one of connections for each agent, and its file."""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from neurokernels._core import checks
from neurokernels.ops.evolution import fixed, storage
from neurokernels.ops.evolution.network import SENSORS, Network
from neurokernels.ops.evolution.philox import Stream, happens, key, normal

FORMAT, VERSION = "neurokernels.population", "1"


@dataclass(frozen=True, eq=False)
class Population:
    """P agents with networks of one shape.

    Args:
        weights: ``[P, E]`` float32, in the order of `Network.blocks`. Those of severed connections become zero.
        mask: ``[P, E]`` bool: which connections exist.
        network: What the agents have in common.
        generation: How many generations of `evolve` have led here. It goes on counting from there.

    Raises:
        TypeError: A tensor of another type.
        ValueError: No agent, shapes that do not fit each other or the network, a weight that is not finite.
    """

    weights: Tensor
    mask: Tensor
    network: Network = field(default_factory=Network)
    generation: int = 0

    def __post_init__(self) -> None:
        for name, tensor, dtype in (("weights", self.weights, torch.float32), ("mask", self.mask, torch.bool)):
            if not isinstance(tensor, Tensor) or tensor.dtype != dtype:
                got = str(tensor.dtype) if isinstance(tensor, Tensor) else type(tensor).__name__
                checks.type_error("Population", name, f"a tensor of {dtype}", got)
            if tensor.ndim != 2 or tensor.shape[0] == 0 or tensor.shape[1] != self.network.edges:
                expected = f"[agents, {self.network.edges}] with at least one agent, as the network has it"
                checks.value_error("Population", name, expected, f"shape {tuple(tensor.shape)}")
        if self.mask.shape != self.weights.shape or self.mask.device != self.weights.device:
            got = f"{tuple(self.mask.shape)} on {self.mask.device}"
            checks.value_error("Population", "mask", f"{tuple(self.weights.shape)} on {self.weights.device}", got)
        if not bool(self.weights.isfinite().all()):
            checks.value_error("Population", "weights", "finite", "NaN or infinity")
        checks.count("Population", "generation", self.generation)
        object.__setattr__(self, "weights", torch.where(self.mask, self.weights, 0.0))
        object.__setattr__(self, "mask", self.mask.contiguous())

    @staticmethod
    def random(
        agents: int,
        *,
        hidden: int | tuple[int, ...] = 20,
        density: float = 1.0,
        seed: int = 0,
        gain: float = 1.0,
        sensors: tuple[str, ...] = tuple(SENSORS),
        recurrent: bool = True,
        activation: str = "tanh",
    ) -> "Population":
        """Agents with normal weights of standard deviation ``gain / sqrt(connections into the unit)``.

        An agent is a function of the seed and of its number alone: the first ones are the same in a larger population.

        Args:
            agents: How many.
            hidden: Units of the hidden layer, or of several.
            density: The probability that a connection exists.
            seed: The key of the Philox generator.
            gain: Scales the weights. None exceeds 127/32 = 3.97 in magnitude, the largest of ``mode="exact"``.
            sensors: Which of ``left``, ``front``, ``right`` (walls), ``bias``, ``goal`` and ``motor`` the agents have.
            recurrent: Whether hidden units read their own layer.
            activation: ``"tanh"``, ``"relu"`` or ``"sign"``.

        Raises:
            TypeError: An argument has the wrong type.
            ValueError: No agent, or a value out of its range.
        """
        sizes = tuple(hidden) if isinstance(hidden, tuple | list) else (hidden,)
        network = Network(sizes, sensors, recurrent, activation)
        count, seed = checks.count("Population", "agents", agents, 1), key("Population", seed)
        density = checks.number("Population", "density", density, 0, 1)
        gain = checks.number("Population", "gain", gain, 0, 1e6)
        edge, agent = torch.arange(network.edges), torch.arange(count)[:, None]
        spread = gain / network.fan_in().float().sqrt()
        weights = normal(seed, edge, agent, 0, Stream.WEIGHT) * spread
        mask = happens(seed, count, network.edges, 0, Stream.EDGE, density)
        return Population(weights.clamp(-fixed.LIMIT, fixed.LIMIT), mask, network)

    def __len__(self) -> int:
        return len(self.weights)

    def __getitem__(self, which: Any) -> "Population":
        """Some of the agents, by a slice, a list or a tensor; a number makes a population of one."""
        which = slice(which, which + 1 or None) if isinstance(which, int) else which
        return replace(self, weights=self.weights[which], mask=self.mask[which])

    def to(self, device: torch.device | str) -> "Population":
        """The same on another device."""
        return replace(self, weights=self.weights.to(device), mask=self.mask.to(device))

    @property
    def edges(self) -> Tensor:
        """How many connections each agent has, ``[P]`` int64."""
        return self.mask.sum(-1)

    @property
    def kept(self) -> Tensor:
        """The fraction of all possible connections that each agent has, ``[P]`` float64."""
        return self.edges.double() / self.network.edges

    def silenced(self, probability: float, *, seed: int = 0) -> "Population":
        """The same agents, each connection silent with a probability: what ``noise`` does for one evaluation.

        Raises:
            TypeError: The probability is no number.
            ValueError: It is outside [0, 1].
        """
        probability = checks.number("Population", "probability", probability, 0, 1)
        if probability == 0:
            return self
        seed = key("Population", seed)
        silent = happens(seed, len(self), self.network.edges, self.generation, Stream.NOISE, probability)
        return replace(self, mask=self.mask & ~silent.to(self.mask.device))

    def save(self, path: str | Path) -> None:
        """Writes weights, mask, network and generation to one file; see the room's README for the format."""
        metadata = {
            "format": FORMAT, "version": VERSION, "network": self.network.text(), "generation": str(self.generation),
        }  # fmt: skip
        storage.write(path, {"weights": self.weights, "mask": self.mask.to(torch.uint8)}, metadata)

    @staticmethod
    def load(path: str | Path) -> "Population":
        """Reads what `save` wrote, bit for bit, onto the CPU.

        Raises:
            OSError: The file cannot be read.
            ValueError: It is not complete, no population, of another version, or its parts do not fit each other.
        """
        tensors, metadata = storage.read(path)
        found = metadata.get("format"), metadata.get("version")
        if found != (FORMAT, VERSION):
            raise ValueError(f"{path}: expected {FORMAT} version {VERSION}, got {found[0]!r} version {found[1]!r}")
        try:
            mask = tensors["mask"]
            if bool((mask > 1).any()):
                raise ValueError("mask must be 0 or 1")
            network, generation = Network.parse(_listed(metadata["network"])), int(metadata["generation"])
            return Population(tensors["weights"], mask.bool(), network, generation)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}: this is not a complete population: {error}") from error


def _listed(text: str) -> str:
    """Refuses what is no text before JSON sees it."""
    if not isinstance(text, str):
        raise TypeError(f"network must be JSON text, got {type(text).__name__}")
    json.loads(text)
    return text
