"""The leaf ops of the room: the rollout, and the next generation. Neither has a derivative."""

from typing import Any

import torch
from torch import Tensor

from neurokernels._core import backends, native
from neurokernels._core.library import leaf
from neurokernels.ops.evolution import cuda_limits, triton_limits
from neurokernels.ops.evolution.network import Network

for _op in ("maze_rollout", "offspring"):
    backends.register(
        _op,
        backends.Backend("cpu", ("cpu",), lambda x: native.reason(), "neurokernels.ops.evolution.cpu"),
        backends.Backend("cuda", (), cuda_limits.refuses, "neurokernels.ops.evolution.cuda", cuda_limits.yields),
        backends.Backend("triton", (), triton_limits.refuses, "neurokernels.ops.evolution.triton"),
        backends.Backend("reference", (), lambda x: None, "neurokernels.ops.evolution.reference"),
    )


def allocate(weights: Tensor, walls: Tensor, network: Network, keep: bool) -> tuple[Tensor, ...]:
    """The empty goals ``[P, M]`` and state after a rollout, ``[0]`` unless it is kept, for real tensors and fakes."""
    agents, mazes = weights.shape[0], walls.shape[0]
    kept = [walls.new_empty((agents, mazes) if keep else (0,), dtype=torch.int32) for _ in range(3)]
    units = walls.new_empty((agents, mazes, network.width) if keep else (0,), dtype=torch.float32)
    return walls.new_empty((agents, mazes), dtype=torch.int32), *kept, units


def _rollout(
    weights: Tensor, mask: Tensor, walls: Tensor, places: Tensor, state: list[Tensor], network: str, steps: int,
    forget: bool, keep: bool, backend: str,
) -> tuple[Tensor, ...]:  # fmt: skip
    shape = Network.parse(network)
    kernels = backends.select("maze_rollout", backend, triton_limits.probe(weights, shape.width)).kernels()
    with torch.autocast(weights.device.type, enabled=False):  # a product in half precision would round
        return kernels.rollout(weights, mask, walls, places, state, shape, steps, forget, keep)


def _rollout_fake(
    weights: Tensor, mask: Tensor, walls: Tensor, places: Tensor, state: list[Tensor], network: str, steps: int,
    forget: bool, keep: bool, backend: str,
) -> tuple[Tensor, ...]:  # fmt: skip
    return allocate(weights, walls, Network.parse(network), keep)


def _offspring(weights: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
    *given, backend = arguments
    return backends.select("offspring", backend, weights).kernels().offspring(weights, *given)


#: Weights (int8 in exact mode), connections, walls, ``[3, M]`` places and a state to goals and the state after them:
#: see `reference.rollout`.
rollout_fwd = leaf(
    "maze_rollout_fwd(Tensor weights, Tensor mask, Tensor walls, Tensor places, Tensor[] state, str network, "
    "int steps, bool forget, bool keep, str backend) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    _rollout,
    _rollout_fake,
)

#: Weights, connections and the best agents to the next generation: see `reference.offspring`.
offspring_fwd = leaf(
    "offspring_fwd(Tensor weights, Tensor mask, Tensor parents, int generation, int seed, float mutation, "
    "float severance, float limit, str backend) -> (Tensor, Tensor)",
    _offspring,
    lambda weights, mask, *rest: (torch.empty_like(weights), torch.empty_like(mask)),
)
