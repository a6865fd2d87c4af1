"""`maze_rollout`: episodes of every agent in every maze."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from neurokernels._core import backends, checks
from neurokernels.ops.evolution import fixed
from neurokernels.ops.evolution.leaves import rollout_fwd
from neurokernels.ops.evolution.maze import Mazes
from neurokernels.ops.evolution.population import Population

MODES = ("float", "exact")
_MOST_STEPS = 2**31 - 1


class MazeState(NamedTuple):
    """Where every agent is in every maze, and what it remembers.

    Attributes:
        position: ``[P, M]`` int32, the cell.
        heading: ``[P, M]`` int32, 0 to 3 for north, east, south and west.
        motor: ``[P, M]`` int32, the last command: 0 forward, 1 left, 2 right, 3 none yet.
        hidden: ``[P, M, U]`` float32, the hidden units of all layers; in exact mode integers that mean 127ths.
    """

    position: Tensor
    heading: Tensor
    motor: Tensor
    hidden: Tensor


class MazeOutcome(NamedTuple):
    """What `maze_rollout` returns.

    Attributes:
        goals: ``[P, M]`` int32, how often each agent was rewarded in each maze.
        state: The state after the last step, or None where it was not asked for.
    """

    goals: Tensor
    state: MazeState | None


class MazeTrace(NamedTuple):
    """Every step of a rollout.

    Attributes:
        goals: ``[T, P, M]`` int32, the rewards of each step, 0 or 1.
        position: ``[T + 1, P, M]`` int32, before the first step and after each.
        heading: ``[T + 1, P, M]`` int32.
        motor: ``[T + 1, P, M]`` int32.
        hidden: ``[T + 1, P, M, U]`` float32.
    """

    goals: Tensor
    position: Tensor
    heading: Tensor
    motor: Tensor
    hidden: Tensor


def _checked(population: Any, mazes: Any, steps: Any, mode: Any) -> int:
    """Refuses what the op cannot take; the steps."""
    if not isinstance(population, Population):
        checks.type_error("maze_rollout", "population", "a nk.evolution.Population", type(population).__name__)
    if not isinstance(mazes, Mazes):
        checks.type_error("maze_rollout", "mazes", "nk.evolution.Mazes", type(mazes).__name__)
    if len(mazes) == 0:
        checks.value_error("maze_rollout", "mazes", "at least one maze", "none")
    if mazes.walls.device != population.weights.device:
        expected = f"on {population.weights.device} as the population is"
        checks.value_error("maze_rollout", "mazes", expected, f"{mazes.walls.device}; move them with .to()")
    checks.choice("maze_rollout", "mode", mode, MODES)
    steps = checks.count("maze_rollout", "steps", steps)
    if steps > _MOST_STEPS:
        checks.value_error("maze_rollout", "steps", f"at most {_MOST_STEPS}", steps)
    if mode == "exact":
        if population.network.activation == "relu":
            checks.value_error("maze_rollout", "mode", "float for relu, which int8 cannot hold", "'exact'")
        widest = max(len(block.sources) for block in population.network.blocks)
        if widest > fixed.MOST_SOURCES:
            expected = f"of at most {fixed.MOST_SOURCES} connections into a unit for mode='exact'"
            checks.value_error("maze_rollout", "population", expected, widest)
    return steps


def _checked_state(population: Population, mazes: Mazes, state: Any) -> list[Tensor]:
    if not isinstance(state, MazeState):
        checks.type_error("maze_rollout", "state", "a MazeState or None", type(state).__name__)
    shape, (height, width) = (len(population), len(mazes)), mazes.size
    limits = {"position": height * width, "heading": 4, "motor": 4}
    for name, value in state._asdict().items():
        expected = (*shape, population.network.width) if name == "hidden" else shape
        dtype = torch.float32 if name == "hidden" else torch.int32
        if value.shape != expected or value.dtype != dtype or value.device != mazes.walls.device:
            got = f"{tuple(value.shape)} {value.dtype} on {value.device}"
            checks.value_error("maze_rollout", f"state.{name}", f"{expected} {dtype} on {mazes.walls.device}", got)
        if name in limits and value.numel() and not 0 <= int(value.min()) <= int(value.max()) < limits[name]:
            got = f"{int(value.min())} to {int(value.max())}"
            checks.value_error("maze_rollout", f"state.{name}", f"in [0, {limits[name] - 1}]", got)
    return [value.contiguous() for value in state]


def maze_rollout(
    population: Population,
    mazes: Mazes,
    *,
    steps: int = 200,
    mode: str = "float",
    forget: bool = False,
    state: MazeState | None = None,
    keep_state: bool = False,
) -> MazeOutcome:
    """Lets every agent walk in every maze and counts how often it is rewarded for reaching the goal.

    In each step an agent senses walls on its left, in front and on its right, a bias, whether it is at the goal, and
    its last command; its hidden units and its three outputs follow; the largest output is its command, the first one
    of equal ones: forward by a cell unless a wall is there, or a quarter turn left or right in place. An agent that
    was at the goal in this step is rewarded now, one step after it arrived; its command is not carried out but
    remembered, and it is put back to the start and its first heading, with its hidden units as they are.

    Args:
        population: P agents.
        mazes: M mazes of one size, on the same device.
        steps: T, the steps of an episode.
        mode: ``"float"``: float32, the same for any number of threads; backends round differently, and a policy that
            takes the largest of three numbers amplifies it. ``"exact"``: int8 weights, integer activations and a table
            for tanh: the same on every backend.
        forget: Whether going back to the start also clears the hidden units and the last command.
        state: Goes on from here instead of from the start.
        keep_state: Whether the state after the last step is wanted.

    Returns:
        Goals ``[P, M]`` int32, and the state.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: No maze, tensors on different devices, a state that does not fit; in exact mode a weight beyond
            127/32, relu, or more than 1040 connections into a unit.
        BackendError: The backend that was asked for cannot run this call.

    Source: the task follows Gerum et al. 2020, Neural Networks 128, whose grid and sensors are not known to us.
    """
    steps = _checked(population, mazes, steps, mode)
    if not isinstance(forget, bool):
        checks.type_error("maze_rollout", "forget", "True or False", type(forget).__name__)
    given = [] if state is None else _checked_state(population, mazes, state)
    weights = fixed.quantised(population.weights) if mode == "exact" else population.weights
    backend = backends.INHERIT if torch.compiler.is_compiling() else backends.requested()
    places = torch.stack([mazes.start, mazes.goal, mazes.facing])
    goals, *after = rollout_fwd(
        weights,
        population.mask,
        mazes.walls,
        places,
        given,
        population.network.text(),
        steps,
        forget,
        keep_state,
        backend,
    )
    return MazeOutcome(goals, MazeState(*after) if keep_state else None)


def trace(
    population: Population, mazes: Mazes, *, steps: int = 200, mode: str = "float", forget: bool = False
) -> MazeTrace:
    """The states of every step of `maze_rollout`, for a picture or a comparison. Arguments as there."""
    steps = _checked(population, mazes, steps, mode)
    outcome = maze_rollout(population, mazes, steps=0, mode=mode, forget=forget, keep_state=True)
    states, goals = [outcome.state], [outcome.goals[:0]]
    for _ in range(steps):
        outcome = maze_rollout(
            population, mazes, steps=1, mode=mode, forget=forget, state=outcome.state, keep_state=True
        )
        states.append(outcome.state)
        goals.append(outcome.goals)
    counted = torch.stack(goals[1:]) if steps else outcome.goals.new_empty((0, *outcome.goals.shape))
    return MazeTrace(counted, *map(torch.stack, zip(*(s for s in states if s is not None), strict=True)))
