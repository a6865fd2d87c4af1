"""Evolution: the best agents stay, children of them are mutated, and connections are severed for good."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from neurokernels._core import backends, checks
from neurokernels.ops.evolution import fixed
from neurokernels.ops.evolution.leaves import offspring_fwd
from neurokernels.ops.evolution.maze import Mazes
from neurokernels.ops.evolution.op import maze_rollout
from neurokernels.ops.evolution.philox import key
from neurokernels.ops.evolution.population import Population

#: |weights| are added up in multiples of 2**-24: integers have no order of addition.
_GRAIN = 2.0**24


class Generation(NamedTuple):
    """What one generation was like.

    Attributes:
        number: Counted from the population that `Population.random` made.
        fitness: ``[P]`` float64 on the CPU.
        goals: ``[P]`` float64 on the CPU, the mean number of goals in a maze.
        edges: ``[P]`` int64 on the CPU, the connections of each agent.
    """

    number: int
    fitness: Tensor
    goals: Tensor
    edges: Tensor


class Evolution(NamedTuple):
    """What `evolve` returns.

    Attributes:
        population: The next generation. Its first agents are the elite of the last one, the best first.
        history: Every generation that was evaluated.
    """

    population: Population
    history: list[Generation]


def fitness(
    population: Population, mazes: Mazes, *, steps: int = 200, mode: str = "float", l1: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Goals per maze less ``l1`` times the sum of the weights' magnitudes; and goals per maze. ``[P]`` float64, CPU."""
    total = maze_rollout(population, mazes, steps=steps, mode=mode).goals.sum(1, dtype=torch.int64)
    goals = total.cpu().double() / len(mazes)
    if l1 == 0:
        return goals, goals
    size = (population.weights.abs().double() * _GRAIN).round().to(torch.int64).sum(1)
    return goals - l1 * (size.cpu().double() / _GRAIN), goals


def evolve(
    population: Population,
    train_mazes: Mazes,
    *,
    generations: int,
    severance: float = 0.0,
    mutation: float = 0.1,
    elite: float = 0.2,
    seed: int = 0,
    steps: int = 200,
    mode: str = "float",
    noise: float = 0.0,
    l1: float = 0.0,
    limit: float = fixed.LIMIT,
    callback: Callable[[Generation, Population], Any] | None = None,
) -> Evolution:
    """Evolves a population on mazes, and severs connections on the way.

    In every generation all agents are evaluated. The elite, a fraction of the population, stays as it is, in the order
    of fitness (equal ones in the order of their numbers). Every other place goes to a child of an elite agent drawn at
    random: each existing connection is severed with probability ``severance`` and otherwise changed by normal noise. A
    severed connection has the weight zero and never returns.

    Each random number is a function of the seed, the generation, the agent and the connection. With ``mode="exact"`` a
    run is the same on every backend, with ``"float"`` on any number of threads. To go on with a run, save its
    population, load it, and evolve the generations that are left with the same arguments: they are the same ones.

    Args:
        population: P agents.
        train_mazes: The mazes that fitness is measured on.
        generations: How many.
        severance: The probability that a connection of a child is severed.
        mutation: Standard deviation of the noise on a child's weights.
        elite: The fraction of the population that stays and has children; at least one agent.
        seed: The key of the Philox generator.
        steps: Steps of an episode.
        mode: ``"float"`` or ``"exact"``.
        noise: The probability that a connection is silent during the evaluation of a generation, drawn for each agent
            anew: a control that is like dropout. Nothing is severed by it.
        l1: What each unit of a weight's magnitude costs, in goals per maze.
        limit: The largest magnitude of a weight; mutations stop there. Up to 127/32 a population can run in exact mode.
        callback: Called with each generation and the population that was evaluated, and may save it. What it returns is
            not looked at.

    Returns:
        The next generation, and the history.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: A value is out of its range, or `maze_rollout` refuses the population or the mazes.
        BackendError: The backend that was asked for cannot run this call.

    Source: Gerum, Erpenbeck, Krauss and Schilling, "Sparsity through evolutionary pruning prevents neuronal networks
    from overfitting", Neural Networks 128, 2020. Population, elite, mutation and severance there are not known to us.
    """
    if not isinstance(population, Population):
        checks.type_error("evolve", "population", "a nk.evolution.Population", type(population).__name__)
    generations = checks.count("evolve", "generations", generations)
    severance, noise = (
        checks.number("evolve", name, p, 0, 1) for name, p in (("severance", severance), ("noise", noise))
    )
    mutation, l1 = checks.number("evolve", "mutation", mutation, 0, 1e6), checks.number("evolve", "l1", l1, 0, 1e6)
    elite, limit = checks.number("evolve", "elite", elite, 0, 1), checks.number("evolve", "limit", limit, 0, 1e6)
    seed = key("evolve", seed)
    if population.generation + generations > 2**32:
        checks.value_error("evolve", "generations", "such that the last one is below 2**32", generations)
    history = []
    for _ in range(generations):
        heard = population.silenced(noise, seed=seed)
        found, goals = fitness(heard, train_mazes, steps=steps, mode=mode, l1=l1)
        history.append(Generation(population.generation, found, goals, population.edges.cpu()))
        if callback is not None:
            callback(history[-1], population)
        best = found.sort(descending=True, stable=True).indices[: max(1, round(elite * len(population)))]
        population = _next(population, best, seed, mutation, severance, limit)
    return Evolution(population, history)


def _next(
    population: Population, best: Tensor, seed: int, mutation: float, severance: float, limit: float
) -> Population:
    backend = backends.INHERIT if torch.compiler.is_compiling() else backends.requested()
    weights, mask = offspring_fwd(
        population.weights, population.mask, best.to(population.weights.device), population.generation, seed, mutation,
        severance, limit, backend,
    )  # fmt: skip
    return replace(population, weights=weights, mask=mask, generation=population.generation + 1)
