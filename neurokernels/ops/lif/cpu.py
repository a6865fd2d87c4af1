"""The CPU backend: hands addresses, sizes and strides to the C++ core (csrc/cpu/lif.h)."""

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from neurokernels._core import native
from neurokernels.ops.lif import leaky
from neurokernels.ops.lif.rule import Codes, Forward, Numbers, allocate_backward, allocate_forward, compute_dtype

#: nk::Dtype in csrc/common/element.h.
_DTYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}
_NO_SERIES = (0, 0, 0)
_LEAKY_CODES = (2, 0, 0, 0, 1, 0, 0)  # no reset; the floor's flag is filled in


def _split(shape: torch.Size, tensors: list[Tensor]) -> int | None:
    """The dimension after time at which neurons split into [outer, inner], both of one stride in every tensor."""
    for split in range(1, len(shape) + 1):
        if all(_one_stride(t, 1, split) and _one_stride(t, split, t.ndim, 1) for t in tensors):
            return split
    return None


def _one_stride(tensor: Tensor, first: int, last: int, innermost: int | None = None) -> bool:
    """Whether dimensions first..last-1 can be walked with one stride (a given one, if there is something to walk)."""
    due = innermost
    for d in reversed(range(first, last)):
        if tensor.shape[d] == 1:
            continue
        if due is not None and tensor.stride(d) != due:
            return False
        due = tensor.stride(d) * tensor.shape[d]
    return True


class _Layout:
    """Neurons seen as [outer, inner], in the same way for all tensors over time of one call.

    Inputs that do not fit are copied; outputs are dense and fit, or are replaced by dense ones that are copied back.
    """

    __slots__ = ("dense", "inner", "outer", "size", "split")

    def __init__(self, *tensors: Tensor | None) -> None:
        given = [t for t in tensors if t is not None]
        shape = given[0].shape
        self.dense = all(t.is_contiguous() for t in given)
        split = 1 if self.dense else _split(shape, given)
        self.split = 1 if split is None else split
        self.outer = shape[1 : self.split].numel()
        self.inner = shape[self.split :].numel()
        self.size = (shape[0], self.outer, self.inner)

    def fits(self, tensor: Tensor) -> bool:
        return _one_stride(tensor, 1, self.split) and _one_stride(tensor, self.split, tensor.ndim, 1)

    def series(self, tensor: Tensor | None) -> tuple[int, int, int]:
        """Address, stride per step and stride per outer index."""
        if tensor is None or tensor.numel() == 0:
            return _NO_SERIES
        if self.dense:
            return tensor.data_ptr(), self.inner, 0
        outer = next((tensor.stride(d) for d in reversed(range(1, self.split)) if tensor.shape[d] > 1), 0)
        return tensor.data_ptr(), tensor.stride(0), outer


def _over_time(*tensors: Tensor | None) -> tuple[_Layout, list[Tensor | None]]:
    """A common layout, and the tensors in it: copies of those that have no stride of one."""
    layout = _Layout(*tensors)
    if layout.dense or all(t is None or layout.fits(t) for t in tensors):
        return layout, list(tensors)
    dense = [None if t is None else t.contiguous() for t in tensors]
    return _Layout(*dense), dense


def _parameters(x: Tensor, *parameters: Tensor | None) -> list[Tensor | None]:
    """One value per neuron: a T-th of the input, and one code path for every way to broadcast."""
    return [None if p is None else p.expand(x.shape[1:]).contiguous() for p in parameters]


def _addresses(*tensors: Tensor | None) -> tuple[int, ...]:
    return tuple([0 if t is None else t.data_ptr() for t in tensors])


def _copied_back(target: Tensor, written: Tensor | None) -> None:
    if written is not None and written is not target:
        target.copy_(written)


@lru_cache(maxsize=1024)
def _rule(numbers: Numbers, codes: Codes) -> Any:
    """The rule as the core holds it; made once, as long as the options stay the same."""
    return native.core().LifRule(codes, numbers)


def _neuron(
    x: Tensor, decay: Tensor | None, threshold: Tensor | None, gain: Tensor | None, v_reset: Tensor | None,
    v0: Tensor | None, countdown: Tensor | None, table: Tensor | None, numbers: Numbers, codes: Codes,
) -> tuple[Any, tuple[Tensor | None, ...]]:  # fmt: skip
    """The rule and addresses of a neuron, and the tensors that must outlive the call for these addresses to hold."""
    held = (
        *_parameters(x, decay, threshold, gain, v_reset),
        table,
        None if v0 is None else v0.contiguous(),
        None if countdown is None else countdown.contiguous(),
    )
    return (_rule(numbers, codes), *_addresses(*held), 0 if table is None else table.numel()), held


def forward(
    x: Tensor, decay: Tensor | None, threshold: Tensor | None, gain: Tensor | None, v_reset: Tensor | None,
    v0: Tensor | None, countdown: Tensor | None, table: Tensor | None, numbers: Numbers, codes: Codes,
) -> Forward:  # fmt: skip
    """The leaf op ``lif_fwd``."""
    out = allocate_forward(x, codes)
    native.fresh(out.spikes, out.residual)
    layout, (source, spikes) = _over_time(x, out.spikes)
    neuron, _held = _neuron(x, decay, threshold, gain, v_reset, v0, countdown, table, numbers, codes)
    native.core().lif_forward(
        _DTYPES[x.dtype], *layout.size, *neuron, *layout.series(source), *layout.series(spikes),
        out.membrane.data_ptr(), out.countdown.data_ptr(), out.residual.data_ptr(), out.counts.data_ptr(),
        native.threads(),
    )  # fmt: skip
    _copied_back(out.spikes, spikes)
    return out


def backward(
    g: Tensor, g_membrane: Tensor, x: Tensor | None, residual: Tensor, counts: Tensor,
    decay: Tensor | None, threshold: Tensor | None, gain: Tensor | None, v_reset: Tensor | None,
    v0: Tensor | None, countdown: Tensor | None, table: Tensor | None,
    numbers: Numbers, codes: Codes, wanted: list[bool],
) -> tuple[Tensor, ...]:  # fmt: skip
    """The leaf op ``lif_bwd``."""
    outs = allocate_backward(g, wanted)
    native.fresh(outs[0])
    layout, (source, due, dx) = _over_time(x, g, outs[0] if wanted[0] else None)
    neuron, _held = _neuron(g, decay, threshold, gain, v_reset, v0, countdown, table, numbers, codes)
    g_membrane = g_membrane.contiguous()
    native.core().lif_backward(
        _DTYPES[g.dtype], *layout.size, *neuron, *layout.series(source), *layout.series(due), g_membrane.data_ptr(),
        residual.data_ptr(), counts.data_ptr(), *layout.series(dx),
        *[o.data_ptr() if want else 0 for o, want in zip(outs[1:], wanted[1:], strict=True)], native.threads(),
    )  # fmt: skip
    _copied_back(outs[0], dx)
    return outs


def jvp(
    dx: Tensor | None, dv0: Tensor | None, ddecay: Tensor | None, dthreshold: Tensor | None, dgain: Tensor | None,
    dv_reset: Tensor | None, x: Tensor, decay: Tensor | None, threshold: Tensor | None, gain: Tensor | None,
    v_reset: Tensor | None, v0: Tensor | None, countdown: Tensor | None, table: Tensor | None,
    numbers: Numbers, codes: Codes,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The leaf op ``lif_jvp``."""
    spikes, membrane = torch.empty_like(x), x.new_empty(x.shape[1:], dtype=compute_dtype(x))
    layout, (source, moved, out) = _over_time(x, dx, spikes)
    rerun = (*codes[:6], 2)  # recompute: membranes come from x, whatever the forward pass kept
    neuron, _held = _neuron(x, decay, threshold, gain, v_reset, v0, countdown, table, numbers, rerun)
    directions = _parameters(x, dv0, ddecay, dthreshold, dgain, dv_reset)
    native.core().lif_tangent(
        _DTYPES[x.dtype], *layout.size, *neuron, *layout.series(source), *layout.series(moved),
        *_addresses(*directions), *layout.series(out), membrane.data_ptr(), native.threads(),
    )  # fmt: skip
    _copied_back(spikes, out)
    return spikes, membrane


# The leaky integrator -----------------------------------------------------------------------------------------------


def _leaky(
    like: Tensor, decay: Tensor | None, gain: Tensor | None, v0: Tensor | None, numbers: list[float], has_floor: bool
) -> tuple[Any, tuple[Tensor | None, ...]]:
    """A leaky integrator as a LIF neuron that never resets."""
    codes = (*_LEAKY_CODES[:2], int(has_floor), *_LEAKY_CODES[3:])
    values = (numbers[0], 0.0, numbers[1], 0.0, numbers[2], 0.0, 0.0, 0.0, 0.0)
    return _neuron(like, decay, None, gain, None, v0, None, None, values, codes)


def leaky_forward(
    x: Tensor, decay: Tensor | None, gain: Tensor | None, v0: Tensor | None, numbers: list[float], has_floor: bool
) -> Tensor:
    """The leaf op ``leaky_fwd``."""
    trace = leaky.allocate_forward(x)
    native.fresh(trace)
    layout, (source, out) = _over_time(x, trace)
    neuron, _held = _leaky(x, decay, gain, v0, numbers, has_floor)
    native.core().leaky_forward(
        _DTYPES[x.dtype], *layout.size, *neuron, *layout.series(source), *layout.series(out), native.threads()
    )
    _copied_back(trace, out)
    return trace


def leaky_backward(
    g: Tensor, x: Tensor | None, trace: Tensor | None, decay: Tensor | None, gain: Tensor | None, v0: Tensor | None,
    numbers: list[float], has_floor: bool, dtype: torch.dtype, wanted: list[bool],
) -> tuple[Tensor, ...]:  # fmt: skip
    """The leaf op ``leaky_bwd``."""
    outs = leaky.allocate_backward(g, dtype, wanted)
    native.fresh(outs[0])
    layout, (source, steps, due, dx) = _over_time(x, trace, g, outs[0] if wanted[0] else None)
    neuron, _held = _leaky(g, decay, gain, v0, numbers, has_floor)
    native.core().leaky_backward(
        _DTYPES[dtype], *layout.size, *neuron, *layout.series(source), *layout.series(steps), *layout.series(due),
        *layout.series(dx), *[o.data_ptr() if want else 0 for o, want in zip(outs[1:], wanted[1:], strict=True)],
        native.threads(),
    )  # fmt: skip
    _copied_back(outs[0], dx)
    return outs


def leaky_jvp(
    dx: Tensor | None, ddecay: Tensor | None, dgain: Tensor | None, dv0: Tensor | None, x: Tensor, trace: Tensor,
    decay: Tensor | None, gain: Tensor | None, v0: Tensor | None, numbers: list[float], has_floor: bool,
) -> Tensor:  # fmt: skip
    """The leaf op ``leaky_jvp``."""
    tangent = torch.empty_like(trace)
    layout, (source, steps, moved, out) = _over_time(x, trace, dx, tangent)
    neuron, _held = _leaky(x, decay, gain, v0, numbers, has_floor)
    directions = _parameters(x, dv0, ddecay, dgain)
    native.core().leaky_tangent(
        _DTYPES[x.dtype], *layout.size, *neuron, *layout.series(source), *layout.series(steps), *layout.series(moved),
        *_addresses(*directions), *layout.series(out), native.threads(),
    )  # fmt: skip
    _copied_back(tangent, out)
    return tangent
