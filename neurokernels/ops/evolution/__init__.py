"""Agents in mazes: whole episodes in one kernel, and their evolution with severed connections."""

from neurokernels.ops.evolution.maze import Mazes, mazes
from neurokernels.ops.evolution.network import Network
from neurokernels.ops.evolution.op import MazeOutcome, MazeState, MazeTrace, maze_rollout, trace
from neurokernels.ops.evolution.population import Population
from neurokernels.ops.evolution.selection import Evolution, Generation, evolve, fitness

__all__ = [
    "Evolution",
    "Generation",
    "MazeOutcome",
    "MazeState",
    "MazeTrace",
    "Mazes",
    "Network",
    "Population",
    "evolve",
    "fitness",
    "maze_rollout",
    "mazes",
    "trace",
]
