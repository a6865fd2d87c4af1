"""Rollouts in mazes: the compiled core against plain PyTorch, EvoTorch and a loop in NumPy.

Populations are evolved for some generations first: agents walk and goals are reached, or a gate would compare zeros.
EvoTorch's vectorised evaluation steps a user's environment from Python and batches the policies by `torch.func.vmap`:
its row is the reference's world with EvoTorch's policies. It is raced where it is installed; ``make test`` leaves it
out, as Ray, which it imports, is larger than all other peers together.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache, partial
from time import perf_counter
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import neurokernels as nk
import neurokernels.ops.evolution  # enters the ops in the table of backends
from benchmarks import where
from neurokernels._core import backends
from neurokernels.bench import Absent, Row, at_least, faster

DEVICE = where.DEVICE
AGENTS, MAZES, STEPS, SIZE = where.small((200, 64, 200, 8), 16) if not where.REHEARSAL else (4, 4, 12, 2)
DENSITIES = (1.0, 0.5, 0.2, 0.1)
RATE = "M steps/s"
RATE_GOALS = {1.0: 40.0, 0.1: 80.0}  # on one thread
GPU_RATE = 10_000.0
TIMES = 5.0  # as fast as batched PyTorch
TIPPED = 0.05  # share of walks that rounding may send elsewhere in float mode


@cache
def _population(agents: int, density: float) -> Any:
    """Agents of a few generations: some of them find goals."""
    start = nk.evolution.Population.random(min(agents, AGENTS), density=density, seed=1)
    options = {"generations": 25, "steps": STEPS, "seed": 1, "mode": "exact"}
    evolved = nk.evolution.evolve(start, nk.evolution.mazes(MAZES, size=SIZE), **options).population
    return evolved[torch.arange(agents) % len(evolved)].to(DEVICE)


@dataclass(frozen=True)
class Task:
    """Walks of a population in mazes, and what the reference makes of them."""

    population: Any
    mazes: Any
    steps: int
    expected: dict[str, Tensor] = field(default_factory=dict)

    def run(self, mode: str, *_: Tensor) -> Tensor:
        """Goals."""
        return nk.maze_rollout(self.population, self.mazes, steps=self.steps, mode=mode).goals

    def gate(self, mode: str, goals: Tensor) -> str | None:
        """Exact mode is the reference's bit for bit; in float mode few walks may differ, and some goals are reached."""
        if mode not in self.expected:
            with nk.backend("reference"):
                self.expected[mode] = self.run(mode)
        share = float((goals != self.expected[mode]).double().mean())
        if not bool(self.expected[mode].any()):
            return "no agent reaches any goal: nothing is compared"
        if share > (0 if mode == "exact" else TIPPED):
            return f"{share:.1%} of the walks differ from the reference"
        return None

    def rate(self, call: Callable[[], Any]) -> dict[str, float]:
        """Million steps per second, the best of three calls."""

        def once() -> float:
            start = perf_counter()
            call()
            if DEVICE == "cuda":
                torch.cuda.synchronize()
            return perf_counter() - start

        walks = len(self.population) * len(self.mazes)
        return {RATE: walks * self.steps / min(once() for _ in range(3)) / 1e6}


def _task(density: float = 1.0, agents: int = AGENTS, mazes: int = MAZES, steps: int = STEPS) -> Task:
    return Task(_population(agents, density), nk.evolution.mazes(mazes, size=SIZE, first=0).to(DEVICE), steps)


def _row(name: str, backend: str, task: Task, mode: str = "float", **options: Any) -> Row | Absent:
    reason = {row.name: row.why_not(task.population.weights) for row in backends.rows("maze_rollout")}[backend]
    if reason:
        return Absent(name, reason)
    call = partial(task.run, mode)
    return Row(
        name, call, ours=backend != "reference", scope=partial(nk.backend, backend), gate=partial(task.gate, mode),
        extra=partial(task.rate, call), **options,
    )  # fmt: skip


def _ours(task: Task, mode: str = "float") -> list[Row | Absent]:
    """A row for each of our backends."""
    suffix = ", exact" if mode == "exact" else ""
    return [_row(f"{name}{suffix}", name, task, mode) for name in where.names("maze_rollout")]


def _evotorch(task: Task) -> Row | Absent:
    try:
        from benchmarks.evotorch_rollout import rollout
    except ImportError as error:
        needs = "pip install --no-deps evotorch==0.6.1; pip install cma gymnasium ray"
        return Absent("evotorch", f"it cannot be imported: {error} ({needs})", package="evotorch")
    call = partial(rollout, task.population, task.mazes, task.steps)
    return Row(
        "evotorch", lambda *_: call(), gate=partial(task.gate, "float"), extra=partial(task.rate, call),
        package="evotorch",
    )  # fmt: skip


MINE = where.mine("maze_rollout")


@pytest.mark.parametrize("density", [pytest.param(d, marks=[pytest.mark.proof] * (d in RATE_GOALS)) for d in DENSITIES])
def bench_rollout(race: Callable[..., Any], density: float) -> None:
    task = _task(density)
    goals = [at_least(MINE, RATE, RATE_GOALS[density])] if density in RATE_GOALS and not where.GPU else []
    race(
        f"maze rollout, {AGENTS} agents, {MAZES} mazes {SIZE}x{SIZE}, {STEPS} steps, {density:.0%} of edges",
        [
            *_ours(task),
            *_ours(task, "exact"),
            _row("reference", "reference", task),
            _evotorch(task),
        ],
        op="maze_rollout",
        inputs=(task.population.weights,),
        goals=[*goals, faster(MINE, "reference", TIMES)],
        params={"mode": "density", "density": str(density)},
    )


def _loop(task: Task, *_: Tensor) -> Tensor:
    """One agent and one maze after the other, as many published scripts have it."""
    network, width = task.population.network, task.mazes.size[1]
    moves = np.array([-width, 1, width, -1])
    goals = torch.zeros(len(task.population), len(task.mazes), dtype=torch.int32)
    walls = task.mazes.walls.flatten(1).numpy()
    for p, weights in enumerate(task.population.weights):
        first, last = (m.numpy() for m in network.matrices(weights))
        for m, cells in enumerate(walls):
            start, goal, facing = (int(t[m]) for t in (task.mazes.start, task.mazes.goal, task.mazes.facing))
            position, heading, sensed = start, facing, np.zeros(first.shape[1], dtype=np.float32)
            sensed[3] = 1
            for _ in range(task.steps):
                around = cells[position] >> np.arange(4) & 1
                sensed[:3] = around[(heading + 3) % 4], around[heading], around[(heading + 1) % 4]
                sensed[4] = position == goal
                sensed[8:] = np.tanh(first @ sensed)
                command = int(np.argmax(last @ sensed[8:]))
                sensed[5:8] = np.arange(3) == command
                if position == goal:
                    goals[p, m] += 1
                    position, heading = start, facing
                elif command == 0:
                    position += moves[heading] if not around[heading] else 0
                else:
                    heading = (heading + (1 if command == 2 else -1)) % 4
    return goals


@pytest.mark.skipif(where.GPU, reason="a loop on the CPU is raced on the CPU")
def bench_numpy_loop(race: Callable[..., Any]) -> None:
    """Few agents, whom a loop can be asked to follow."""
    task = _task(agents=AGENTS, mazes=8)
    few = Task(task.population[:4], task.mazes, STEPS)
    loop = partial(_loop, few)
    race(
        f"maze rollout, 4 agents, 8 mazes {SIZE}x{SIZE}, {STEPS} steps",
        [
            *_ours(few),
            _row("reference", "reference", few),
            Row("NumPy loop", loop, gate=partial(few.gate, "float"), extra=partial(few.rate, loop), package="numpy"),
        ],
        op="maze_rollout",
        inputs=(few.population.weights,),
        params={"mode": "loop"},
        rounds=(3, 3),
    )


#: So many fill a GPU: half a million walks.
CROWD = [pytest.param(8192, marks=pytest.mark.proof)] if where.GPU else []


@pytest.mark.parametrize("agents", [*CROWD, 20, 200, 1000])
def bench_population(race: Callable[..., Any], agents: int) -> None:
    goals = [at_least(MINE, RATE, GPU_RATE)] if agents == 8192 else []
    agents = where.small((agents,), 8)[0]
    task = _task(agents=agents)
    race(
        f"maze rollout, {agents} agents, {MAZES} mazes {SIZE}x{SIZE}, {STEPS} steps",
        [*_ours(task), *_ours(task, "exact"), *([_row("reference", "reference", task)] if goals else [])],
        op="maze_rollout",
        inputs=(task.population.weights,),
        goals=goals,
        params={"mode": "population", "agents": str(agents)},
    )


@pytest.mark.skipif(where.GPU, reason="threads are a matter of the CPU")
def bench_threads(race: Callable[..., Any]) -> None:
    task = _task()
    two = _row("cpu", "cpu", task)
    one = replace(two, name="cpu, 1 thread", threads=1) if isinstance(two, Row) else two
    race(
        f"maze rollout, threads, {AGENTS} agents, {MAZES} mazes {SIZE}x{SIZE}, {STEPS} steps",
        [two, one],
        op="maze_rollout",
        inputs=(task.population.weights,),
        goals=[faster("cpu", "cpu, 1 thread", 1.7)],
        params={"mode": "threads"},
        threads=2,
    )


@pytest.mark.proof
def bench_offspring(race: Callable[..., Any]) -> None:
    """The next generation of 1,000 agents: Philox, normal numbers, severance."""
    from neurokernels.ops.evolution.leaves import offspring_fwd

    population = nk.evolution.Population.random(*where.small((1000,))).to(DEVICE)
    weights, mask = population.weights, population.mask
    parents = torch.arange(len(population) // 5, device=DEVICE)
    with nk.backend("reference"):
        expected = offspring_fwd(weights, mask, parents, 3, 1, 0.1, 0.01, 3.9, "reference")

    def gate(made: tuple[Tensor, ...]) -> str | None:
        same = all(torch.equal(a, b) for a, b in zip(made, expected, strict=True))
        return None if same else "not the reference's bits"

    def row(name: str) -> Row:
        call = lambda weights: offspring_fwd(weights, mask, parents, 3, 1, 0.1, 0.01, 3.9, name)
        return Row(name, call, ours=name != "reference")

    race(
        "offspring of 1000 agents, 620 edges",
        [*(row(name) for name in where.names("offspring")), row("reference")],
        op="offspring",
        inputs=(weights,),
        gate=gate,
        params={"mode": "offspring"},
        nbytes=2 * (weights.nbytes + mask.nbytes),
    )
