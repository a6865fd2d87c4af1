"""EvoTorch's vectorised evaluation of walks in mazes: a `Problem` that steps all mazes, one `Policy` for all agents.

EvoTorch batches a user's module over the agents by `torch.func.vmap`; the module here takes all mazes of its agent as
the columns of a matrix, so that each step is one batched product. The world, which EvoTorch leaves to its user, is that
of the reference: what differs from it is the library alone.
"""

import logging

import torch
from evotorch import Problem, SolutionBatch
from evotorch.neuroevolution.net.vecrl import Policy
from torch import Tensor, nn

from neurokernels.evolution import Mazes, Population
from neurokernels.ops.evolution.reference import NONE, World, command

logging.getLogger("evotorch").setLevel(logging.WARNING)  # every problem says how it is set up


class _Net(nn.Module):
    """The network of one agent, its parameters in the order of a population's rows."""

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.inner = nn.Parameter(torch.zeros(hidden, inputs + hidden))
        self.outer = nn.Parameter(torch.zeros(outputs, hidden))

    def forward(self, senses: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        state = senses.new_zeros(len(self.inner), senses.shape[1]) if state is None else state
        state = torch.tanh(self.inner @ torch.cat([senses, state]))
        return self.outer @ state, state


class Walks(Problem):
    """Goals of a solution, a row of weights, in all mazes.

    Attributes:
        goals: ``[P, M]`` int32, of the last evaluation.
    """

    def __init__(self, population: Population, mazes: Mazes, steps: int) -> None:
        weights, network = population.weights, population.network
        self.mazes, self.steps, self.goals = mazes, steps, torch.empty(0)
        self.policy = Policy(_Net(len(network.inputs), network.width, 3))
        super().__init__(
            "max", solution_length=weights.shape[1], initial_bounds=(-1, 1), dtype=weights.dtype, device=weights.device
        )

    def _evaluate_batch(self, batch: SolutionBatch) -> None:
        weights = batch.values.as_subclass(Tensor)
        places = torch.stack([self.mazes.start, self.mazes.goal, self.mazes.facing])
        world = World(self.mazes.walls, places, len(weights))
        self.policy.set_parameters(weights)
        position, heading, motor = world.start, world.facing, torch.full_like(world.start, NONE)
        goals = torch.zeros_like(world.start)
        for _ in range(self.steps):
            senses, there, free = world.sense(position, heading, motor)
            motor = command(self.policy(senses.to(weights.dtype)))
            position, heading = world.move(motor, there, free, position, heading)
            goals = goals + there.int()
        self.goals = goals
        batch.set_evals(goals.sum(1).to(weights.dtype))


def rollout(population: Population, mazes: Mazes, steps: int) -> Tensor:
    """Goals ``[P, M]`` int32, by way of `Problem.evaluate`."""
    problem = Walks(population, mazes, steps)
    batch = SolutionBatch(problem, len(population), empty=True)
    batch.set_values(population.weights)
    problem.evaluate(batch)
    return problem.goals
