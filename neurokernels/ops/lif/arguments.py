"""Tensors arranged for kernels that take LIF's neurons as one dimension: what the GPU backends share."""

import torch
from torch import Tensor

from neurokernels.ops.lif.rule import Rule


def periodic(neurons: torch.Size, *parameters: Tensor | None) -> tuple[int, list[Tensor | None]]:
    """The number of values of each parameter, and parameters as contiguous tensors of the same trailing dimensions.

    Neuron n reads value n modulo that number: one index for all, and no copy of what varies in the last dimension only.
    """
    given = [p for p in parameters if p is not None]
    if not given:
        return 1, list(parameters)
    shape = given[0].shape
    if any(p.shape != shape for p in given):
        shape = torch.broadcast_shapes(*(p.shape for p in given))
    leading = next((i for i, size in enumerate(shape) if size != 1), len(shape))
    trailing = neurons[len(neurons) - len(shape) + leading :]
    return trailing.numel(), [None if p is None else _laid_out(p, trailing) for p in parameters]


def _laid_out(parameter: Tensor, trailing: torch.Size) -> Tensor:
    if parameter.shape != trailing:
        ones = max(parameter.ndim - len(trailing), 0)
        parameter = parameter.reshape(parameter.shape[ones:]).expand(trailing)
    return parameter.contiguous()


def contiguous(tensor: Tensor | None) -> Tensor | None:
    """The tensor, if there is one, in one piece."""
    return None if tensor is None else tensor.contiguous()


def used(tensor: Tensor, is_used: bool) -> Tensor | None:
    """What a kernel is given for a tensor that may be an empty place-holder."""
    return tensor.contiguous() if is_used else None


def counts_down(rule: Rule) -> bool:
    """Whether a replay has to know the refractory countdown."""
    return rule.refractory > 0 and rule.residual in ("recompute", "membrane")
