"""The mazes of a sweep, and the wall follower, which every evolved agent is measured by."""

from functools import cache

import torch
from torch import Tensor

from neurokernels.evolution import Mazes, mazes

#: Key of the mazes to test in, which training seeds (0, 1, 2 ...) do not come near.
HELD_OUT = 2**31 - 1


@cache
def training(count: int, size: int, seed: int) -> Mazes:
    """The mazes that a population evolves in."""
    return mazes(count, size=size, seed=seed)


@cache
def _unseen(count: int, size: int) -> Mazes:
    return mazes(count, size=size, seed=HELD_OUT)


def held_out(count: int, size: int, *, apart_from: Mazes | None = None) -> Mazes:
    """Mazes to test in, the same for every population, without those that it has seen.

    Small mazes can be alike by chance: there are 192 of 3 x 3 cells.

    Raises:
        ValueError: None are left.
    """
    found = _unseen(count, size)
    if apart_from is None or apart_from.size != found.size:
        return found
    new = ~(found.walls[:, None] == apart_from.walls).flatten(2).all(2).any(1)
    if not bool(new.any()):
        raise ValueError(f"all {count} held-out mazes of {size} x {size} cells are among the training mazes")
    return found[new]


def follow_wall(where: Mazes, steps: int, hand: str) -> Tensor:
    """How often a wall follower reaches the goal: what the same sensors allow without any learning.

    It turns to the side of its hand where that is open, unless it has just done so; else it goes forward; else it turns
    away. Steps and rewards are counted as `maze_rollout` does. A perfect maze is one tree, so it comes everywhere.

    Args:
        where: M mazes.
        steps: Steps of an episode.
        hand: ``"left"`` or ``"right"``.

    Returns:
        Goals ``[M]`` int64.
    """
    side = {"left": 3, "right": 1}[hand]
    walls, each, width = where.walls.flatten(1).long(), torch.arange(len(where)), where.size[1]
    moves = torch.tensor((-width, 1, width, -1))
    start, goal, facing = (cells.long() for cells in (where.start, where.goal, where.facing))
    cell, heading, turned = start, facing, torch.zeros(len(where), dtype=torch.bool)
    goals = torch.zeros_like(start)
    for _ in range(steps):
        around, there = walls[each, cell], cell == goal
        reach = (around >> (heading + side) % 4 & 1 == 0) & ~turned
        forward = ~reach & (around >> heading & 1 == 0)
        goals += there
        cell = torch.where(there, start, torch.where(forward, cell + moves[heading], cell))
        turns = torch.where(reach, side, torch.where(forward, 0, -side))
        heading, turned = torch.where(there, facing, (heading + turns) % 4), reach & ~there
    return goals
