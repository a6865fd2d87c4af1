"""vmap for time-stepped ops: the mapped dimension becomes one more neuron dimension, the first one after time."""

from torch import Tensor


def after_time(tensor: Tensor | None, dim: int | None, size: int) -> Tensor | None:
    """``[T, V, ...]``; what is absent stays absent, and empty place-holders (one dimension) stay as they are."""
    if tensor is None or (dim is None and tensor.ndim == 1):
        return tensor
    return tensor.unsqueeze(1).expand(-1, size, *tensor.shape[1:]) if dim is None else tensor.movedim(dim, 1)


def first(tensor: Tensor, dim: int | None, size: int) -> Tensor:
    """``[V, ...]``."""
    return tensor.expand(size, *tensor.shape).contiguous() if dim is None else tensor.movedim(dim, 0).contiguous()


def padded(parameter: Tensor | None, dim: int | None, neurons: int) -> Tensor | None:
    """A mapped parameter ``[V, 1, ..., *parameter]``, so that it broadcasts against ``[V, *neurons]``."""
    if parameter is None or dim is None:
        return parameter
    parameter = parameter.movedim(dim, 0)
    return parameter.reshape(parameter.shape[0], *[1] * (neurons + 1 - parameter.ndim), *parameter.shape[1:])
