"""The Triton backend of LIF: arguments arranged for the kernels of `triton_kernels` and `triton_leaky`, and launched.

The same functions as in `neurokernels.ops.lif.reference`, with the same formats of residuals, so that a backward pass can
run elsewhere than its forward pass. Series keep their strides; states are contiguous; parameters are read from a contiguous
tensor of the trailing dimensions that they vary in.
"""

from typing import Any

import torch
from torch import Tensor

from neurokernels._core.triton import arranged, launch
from neurokernels.ops.lif import leaky
from neurokernels.ops.lif.rule import Codes, Forward, Numbers, Rule, allocate_backward, allocate_forward, compute_dtype, unpack
from neurokernels.ops.lif.triton_kernels import Learns, backward_kernel, forward_kernel, tangent_kernel
from neurokernels.ops.lif.triton_leaky import leaky_backward_kernel, leaky_forward_kernel, leaky_tangent_kernel
from neurokernels.ops.lif.triton_step import Policy


def _periodic(neurons: torch.Size, *parameters: Tensor | None) -> tuple[int, list[Tensor | None]]:
    """Parameters as contiguous tensors of one shape, the trailing dimensions of the neurons, and how many values that is.

    Neuron n reads value n modulo that number: one index for all, and no copy of parameters that vary in the last dimension.
    """
    shapes = [p.shape for p in parameters if p is not None]
    shape = torch.broadcast_shapes(*shapes) if shapes else torch.Size()
    leading = next((i for i, size in enumerate(shape) if size != 1), len(shape))
    trailing = neurons[len(neurons) - len(shape) + leading :]

    def laid_out(parameter: Tensor) -> Tensor:
        ones = max(parameter.ndim - len(trailing), 0)
        return parameter.reshape(parameter.shape[ones:]).expand(trailing).contiguous()

    return trailing.numel(), [None if p is None else laid_out(p) for p in parameters]


def _contiguous(state: Tensor | None) -> Tensor | None:
    return None if state is None else state.contiguous()


def _given(tensor: Tensor, is_used: bool) -> Tensor | None:
    """What a kernel is given: None for an empty place-holder."""
    return tensor.contiguous() if is_used else None


def _single(x: Tensor) -> bool:
    return x.dtype != torch.float64


def _replays(rule: Rule) -> bool:
    return rule.residual in ("recompute", "membrane")


def _numbers(rule: Rule) -> dict[str, float]:
    return {name: getattr(rule, name) for name in ("decay", "threshold", "gain", "v_reset", "floor")}


def _shape_numbers(rule: Rule, table: Tensor | None) -> dict[str, Any]:
    last = 0 if table is None else table.numel() - 1
    per_unit = 0.0 if table is None else last / (rule.high - rule.low)
    table = _contiguous(table)
    return {"peak": rule.peak, "slope": rule.slope, "low": rule.low, "per_unit": per_unit, "last": last, "table_ptr": table}


def _policy(rule: Rule, **fixed: Any) -> Policy:
    """The options that a kernel is compiled for; what it does not look at is fixed, so that it is compiled once."""
    detach = rule.detach or rule.reset == "none"
    options = Policy(rule.reset, rule.above, rule.has_floor, rule.refractory > 0, detach, rule.shape, rule.residual)
    return options._replace(**fixed)


def _forward_policy(rule: Rule) -> Policy:
    boxcar = rule.residual == "bits" and rule.shape == "boxcar"
    return _policy(rule, detach=True, shape="boxcar" if boxcar else "constant")


def _backward_policy(rule: Rule) -> Policy:
    if rule.residual != "bits":
        return _policy(rule)
    detach = rule.detach or rule.reset != "subtract"
    return _policy(rule, reset="subtract", above=False, floor=False, rests=False, detach=detach, shape="constant")


def forward(
    x: Tensor, decay: Tensor | None, threshold: Tensor | None, gain: Tensor | None, v_reset: Tensor | None,
    v0: Tensor | None, countdown: Tensor | None, table: Tensor | None, numbers: Numbers, codes: Codes,
) -> Forward:  # fmt: skip
    """The leaf op ``lif_fwd``."""
    rule, out = unpack(codes, numbers), allocate_forward(x, codes)
    period, (decay, threshold, gain, v_reset) = _periodic(x.shape[1:], decay, threshold, gain, v_reset)
    with arranged([x], [out.spikes]) as (inner, (xs, spikes)):
        launch(
            forward_kernel, x, out.membrane.numel(), pairs=_single(x), x=xs, spikes=spikes, membrane_ptr=out.membrane,
            left_out_ptr=_given(out.countdown, rule.refractory > 0),
            residual_ptr=_given(out.residual, rule.residual != "none"),
            counts_ptr=_given(out.counts, rule.refractory > 0 and _replays(rule)),
            decay_ptr=decay, threshold_ptr=threshold, gain_ptr=gain, v_reset_ptr=v_reset,
            v0_ptr=_contiguous(v0), left_ptr=_contiguous(countdown), **_numbers(rule), slope=rule.slope,
            steps=x.shape[0], refractory=rule.refractory, inner=inner, period=period,
            POLICY=_forward_policy(rule),
        )  # fmt: skip
    return out


def backward(
    g: Tensor, g_membrane: Tensor, x: Tensor | None, residual: Tensor, counts: Tensor,
    decay: Tensor | None, threshold: Tensor | None, gain: Tensor | None, v_reset: Tensor | None,
    v0: Tensor | None, countdown: Tensor | None, table: Tensor | None,
    numbers: Numbers, codes: Codes, wanted: list[bool],
) -> tuple[Tensor, ...]:  # fmt: skip
    """The leaf op ``lif_bwd``."""
    rule, outs = unpack(codes, numbers), allocate_backward(g, wanted)
    period, (decay, threshold, gain, v_reset) = _periodic(g.shape[1:], decay, threshold, gain, v_reset)
    dx, dv0, ddecay, dthreshold, dgain, dv_reset = [o if want else None for o, want in zip(outs, wanted, strict=True)]
    bits = rule.residual == "bits"
    needs_x = rule.residual == "recompute" or wanted[4]
    policy, learns = _backward_policy(rule), Learns(*wanted[2:])
    light = policy.detach and not policy.rests and policy.shape != "table" and not any(learns)
    with arranged([g, x if needs_x and not bits else None], [dx]) as (inner, (gs, xs, dxs)):
        launch(
            backward_kernel, g, g_membrane.numel(), pairs=_single(g) and (bits or light), g=gs, x=xs, dx=dxs, da_ptr=g_membrane.contiguous(),
            residual_ptr=residual.contiguous(), counts_ptr=_given(counts, rule.refractory > 0 and _replays(rule)),
            decay_ptr=decay, threshold_ptr=threshold, gain_ptr=gain, v_reset_ptr=v_reset,
            v0_ptr=_contiguous(v0), left_ptr=_contiguous(countdown),
            dv0_ptr=dv0, ddecay_ptr=ddecay, dthreshold_ptr=dthreshold, dgain_ptr=dgain, dv_reset_ptr=dv_reset,
            **_numbers(rule), **_shape_numbers(rule, table),
            steps=g.shape[0], refractory=rule.refractory, inner=inner, period=period,
            POLICY=policy, LEARNS=learns,
        )  # fmt: skip
    return outs


def jvp(
    dx: Tensor | None, dv0: Tensor | None, ddecay: Tensor | None, dthreshold: Tensor | None, dgain: Tensor | None,
    dv_reset: Tensor | None, x: Tensor, decay: Tensor | None, threshold: Tensor | None, gain: Tensor | None,
    v_reset: Tensor | None, v0: Tensor | None, countdown: Tensor | None, table: Tensor | None,
    numbers: Numbers, codes: Codes,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The leaf op ``lif_jvp``."""
    rule, neurons = unpack(codes, numbers), x.shape[1:]
    ds, dmembrane = torch.empty_like(x), x.new_empty(neurons, dtype=compute_dtype(x))
    moved = (ddecay, dthreshold, dgain, dv_reset)
    period, parameters = _periodic(neurons, decay, threshold, gain, v_reset, *moved)
    names = ("decay", "threshold", "gain", "v_reset", "ddecay", "dthreshold", "dgain", "dv_reset")
    with arranged([x, dx], [ds]) as (inner, (xs, dxs, out)):
        launch(
            tangent_kernel, x, dmembrane.numel(), pairs=_single(x), x=xs, dx=dxs, ds=out, dmembrane_ptr=dmembrane, dv0_ptr=_contiguous(dv0),
            **{f"{name}_ptr": p for name, p in zip(names, parameters, strict=True)},
            v0_ptr=_contiguous(v0), left_ptr=_contiguous(countdown), **_numbers(rule), **_shape_numbers(rule, table),
            steps=x.shape[0], refractory=rule.refractory, inner=inner, period=period,
            POLICY=_policy(rule, residual="none"),
        )  # fmt: skip
    return ds, dmembrane


def leaky_forward(
    x: Tensor, decay: Tensor | None, gain: Tensor | None, v0: Tensor | None, numbers: list[float], has_floor: bool
) -> Tensor:
    """The leaf op ``leaky_fwd``."""
    trace = leaky.allocate_forward(x)
    period, (decay, gain) = _periodic(x.shape[1:], decay, gain)
    with arranged([x], [trace]) as (inner, (xs, traces)):
        launch(
            leaky_forward_kernel, x, x.shape[1:].numel(), pairs=_single(x), x=xs, trace=traces, decay_ptr=decay, gain_ptr=gain,
            v0_ptr=_contiguous(v0), decay=numbers[0], gain=numbers[1], floor=numbers[2],
            steps=x.shape[0], inner=inner, period=period, FLOOR=has_floor,
        )  # fmt: skip
    return trace


def leaky_backward(
    g: Tensor, x: Tensor | None, trace: Tensor | None, decay: Tensor | None, gain: Tensor | None, v0: Tensor | None,
    numbers: list[float], has_floor: bool, dtype: torch.dtype, wanted: list[bool],
) -> tuple[Tensor, ...]:  # fmt: skip
    """The leaf op ``leaky_bwd``."""
    outs = leaky.allocate_backward(g, dtype, wanted)
    period, (decay, gain) = _periodic(g.shape[1:], decay, gain)
    dx, dv0, ddecay, dgain = [o if want else None for o, want in zip(outs, wanted, strict=True)]
    read = trace if has_floor or wanted[2] else None
    with arranged([g, x if wanted[3] else None, read], [dx]) as (inner, (gs, xs, traces, dxs)):
        launch(
            leaky_backward_kernel, g, g.shape[1:].numel(), pairs=_single(g), g=gs, x=xs, trace=traces, dx=dxs,
            decay_ptr=decay, gain_ptr=gain, v0_ptr=_contiguous(v0), dv0_ptr=dv0, ddecay_ptr=ddecay, dgain_ptr=dgain,
            decay=numbers[0], gain=numbers[1], floor=numbers[2],
            steps=g.shape[0], inner=inner, period=period, FLOOR=has_floor,
        )  # fmt: skip
    return outs


def leaky_jvp(
    dx: Tensor | None, ddecay: Tensor | None, dgain: Tensor | None, dv0: Tensor | None, x: Tensor, trace: Tensor,
    decay: Tensor | None, gain: Tensor | None, v0: Tensor | None, numbers: list[float], has_floor: bool,
) -> Tensor:  # fmt: skip
    """The leaf op ``leaky_jvp``."""
    tangent = torch.empty_like(trace)
    period, (decay, gain, ddecay, dgain) = _periodic(x.shape[1:], decay, gain, ddecay, dgain)
    with arranged([x, dx, trace], [tangent]) as (inner, (xs, dxs, traces, out)):
        launch(
            leaky_tangent_kernel, x, x.shape[1:].numel(), pairs=_single(x), x=xs, dx=dxs, trace=traces, tangent=out,
            decay_ptr=decay, gain_ptr=gain, ddecay_ptr=ddecay, dgain_ptr=dgain, v0_ptr=_contiguous(v0),
            dv0_ptr=_contiguous(dv0), decay=numbers[0], gain=numbers[1], floor=numbers[2],
            steps=x.shape[0], inner=inner, period=period, FLOOR=has_floor,
        )  # fmt: skip
    return tangent
