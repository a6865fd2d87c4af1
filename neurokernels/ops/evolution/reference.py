"""The definition of the room's ops in plain PyTorch: all agents in all mazes at once, on any device."""

from collections.abc import Callable

import torch
from torch import Tensor

from neurokernels.ops.evolution import fixed
from neurokernels.ops.evolution.network import COMMANDS, Network
from neurokernels.ops.evolution.philox import Stream, below, happens, normal, words

#: The command that an agent remembers before it has given one.
NONE = len(COMMANDS)


def squash(activation: str, exact: bool) -> Callable[[Tensor], Tensor]:
    """The activation; of the integers of `fixed` in exact mode."""
    table = _INTEGER if exact else {"tanh": torch.tanh, "relu": torch.relu, "sign": torch.sign}
    return table[activation]


_INTEGER: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": lambda total: fixed.integer_tanh(total.int()).float(),
    "sign": lambda total: fixed.ONE * total.sign(),
}


def command(outputs: Tensor) -> Tensor:
    """The largest of three outputs ``[P, 3, M]``; the first of equal ones. NaN is larger than nothing."""
    forward, left, right = outputs.unbind(1)
    turns = left > forward
    return torch.where(right > torch.where(turns, left, forward), 2, turns.int())


class World:
    """The mazes as the steps below need them, expanded to all agents."""

    def __init__(self, walls: Tensor, places: Tensor, agents: int) -> None:
        cells = walls.flatten(1).int()
        self.around = (cells | cells << 4).flatten()  # shifted right by the heading: front, right, back, left
        self.base = torch.arange(len(cells), device=walls.device) * cells.shape[1]
        width = walls.shape[2]
        self.moves = torch.tensor((-width, 1, width, -1), dtype=torch.int32, device=walls.device)
        self.start, self.goal, self.facing = (row.expand(agents, -1) for row in places)
        self.commands = torch.arange(len(COMMANDS), dtype=torch.int32, device=walls.device)[:, None]

    def sense(self, position: Tensor, heading: Tensor, motor: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """All inputs ``[P, 8, M]`` as 0 or 1; whether an agent is at its goal; whether the way in front is free."""
        sides, there = self.around[self.base + position] >> heading, position == self.goal
        senses = (sides >> 3 & 1, sides & 1, sides >> 1 & 1, torch.ones_like(sides), there.int())
        gave = (motor[:, None] == self.commands).int()
        return torch.cat([torch.stack(senses, 1), gave], 1), there, sides & 1 == 0

    def move(self, given: Tensor, there: Tensor, free: Tensor, position: Tensor, heading: Tensor) -> list[Tensor]:
        """Position and heading after the commands: who was at its goal is back at the start."""
        walked = torch.where((given == 0) & free, position + self.moves[heading], position)
        turned = heading + (given == 2).int() - (given == 1).int() & 3
        return [torch.where(there, self.start, walked), torch.where(there, self.facing, turned)]


def think(
    network: Network, matrices: list[Tensor], act: Callable[[Tensor], Tensor], inputs: Tensor, units: Tensor
) -> tuple[Tensor, Tensor]:
    """Hidden units ``[P, U, M]`` one step later, and the commands ``[P, M]``."""
    layers, before = [], inputs
    for matrix, layer in zip(matrices, units.split(network.hidden, 1), strict=False):
        before = act(matrix @ (torch.cat([before, layer], 1) if network.recurrent else before))
        layers.append(before)
    return torch.cat(layers, 1), command(matrices[-1] @ before)


def rollout(
    weights: Tensor, mask: Tensor, walls: Tensor, places: Tensor, state: list[Tensor], network: Network, steps: int,
    forget: bool, keep: bool,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Goals of every agent in every maze, and the state after the last step.

    Args:
        weights: ``[P, E]`` float32, or the int8 of exact mode, whose products and sums float32 holds exactly.
        mask: ``[P, E]`` bool.
        walls: ``[M, H, W]`` uint8.
        places: ``[3, M]`` int32: start, goal, heading at the start.
        state: Position, heading, last command (three ``[P, M]`` int32) and hidden units ``[P, M, U]`` to go on from;
            empty for the beginning.
        network: The network.
        steps: How many.
        forget: Whether a return to the start also clears the hidden units and the last command.
        keep: Whether the state is wanted.

    Returns:
        Goals ``[P, M]`` int32, and the state, empty unless wanted.
    """
    exact, world = weights.dtype == torch.int8, World(walls, places, len(weights))
    matrices = network.matrices(torch.where(mask, weights, 0).float())
    act, one = squash(network.activation, exact), fixed.ONE if exact else 1
    position, heading, motor = world.start, world.facing, torch.full_like(world.start, NONE)
    units = torch.zeros((len(weights), network.width, len(walls)), device=walls.device)
    if state:
        position, heading, motor, units = (*state[:3], state[3].transpose(1, 2).contiguous())
    goals = torch.zeros_like(world.start)
    for _ in range(steps):
        senses, there, free = world.sense(position, heading, motor)
        units, motor = think(network, matrices, act, (one * senses[:, network.inputs]).float(), units)
        position, heading = world.move(motor, there, free, position, heading)
        goals = goals + there.int()
        if forget:
            motor, units = torch.where(there, NONE, motor), torch.where(there[:, None], 0.0, units)
    kept = (position, heading, motor, units.transpose(1, 2))
    # No output may share memory with an input: after no step they would.
    return goals, *(t.clone(memory_format=torch.contiguous_format) if keep else t.new_empty(0) for t in kept)


def lineage(parents: Tensor, agents: int, generation: int, seed: int) -> Tensor:
    """Whose weights each agent of the next generation starts from, ``[P]`` int64: parents stay, children draw one."""
    child = torch.arange(len(parents), agents)
    drawn = words(seed, torch.zeros_like(child), child, generation, Stream.PARENT)[0]
    return torch.cat([parents, parents[below(drawn, len(parents)).to(parents.device)]])


def offspring(
    weights: Tensor, mask: Tensor, parents: Tensor, generation: int, seed: int, mutation: float, severance: float,
    limit: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The next generation: the parents as they are, then children of parents drawn at random.

    Args:
        weights: ``[P, E]`` float32, zero where severed.
        mask: ``[P, E]`` bool.
        parents: ``[K]`` int64, agents from best to worst.
        generation: Third word of the counters; the second one is the child's number.
        seed: The key.
        mutation: Standard deviation of what is added to the weight of an existing connection.
        severance: The probability that an existing connection is severed.
        limit: The largest magnitude of a weight; what would be larger is set to it.

    Returns:
        Weights and mask of the same shape.
    """
    agents, edges = weights.shape
    kept, device = len(parents), weights.device
    child = torch.arange(kept, agents)
    family = lineage(parents, agents, generation, seed)
    weights, mask = weights[family], mask[family]
    noise = normal(seed, torch.arange(edges), child[:, None], generation, Stream.MUTATION).to(device)
    mutated = (weights[kept:] + noise * mutation).clamp(-limit, limit)
    severed = happens(seed, agents, edges, generation, Stream.SEVERANCE, severance)[kept:].to(device)
    mask[kept:] &= ~severed
    weights[kept:] = torch.where(mask[kept:], mutated, 0.0)
    return weights, mask
