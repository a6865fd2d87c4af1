"""Mazes, populations and their evolution; `neurokernels.maze_rollout` runs the episodes."""

from neurokernels.ops.evolution import (
    Evolution,
    Generation,
    MazeOutcome,
    Mazes,
    MazeState,
    MazeTrace,
    Network,
    Population,
    evolve,
    fitness,
    mazes,
    trace,
)

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
    "mazes",
    "trace",
]
