"""The Triton backend of LIF: arguments arranged for the kernels of `triton_kernels` and `triton_leaky`, and launched.

The functions of `neurokernels.ops.lif.reference` with the same formats of residuals, so that a backward pass can run
elsewhere than its forward pass. Series keep their strides, states are contiguous, and parameters are read from
contiguous tensors of the trailing dimensions in which they vary.
"""

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from neurokernels._core.triton import arranged, launch
from neurokernels.ops.lif import leaky
from neurokernels.ops.lif import rule as rules
from neurokernels.ops.lif.arguments import contiguous, counts_down, periodic, used
from neurokernels.ops.lif.rule import Codes, Forward, Numbers, Rule
from neurokernels.ops.lif.triton_kernels import Learns, backward_kernel, forward_kernel, tangent_kernel
from neurokernels.ops.lif.triton_leaky import leaky_backward_kernel, leaky_forward_kernel, leaky_tangent_kernel
from neurokernels.ops.lif.triton_step import Policy

# Arguments. What depends on the rule alone is worked out once: a launch has to cost little. ---------------------------


def _is_single(x: Tensor) -> bool:
    return x.dtype != torch.float64


def _policy(rule: Rule, **fixed: Any) -> Policy:
    """What a kernel is compiled for. Options that it does not look at are fixed: then one kernel serves them all."""
    detach = rule.detach or rule.reset == "none"
    options = Policy(rule.reset, rule.above, rule.has_floor, rule.refractory > 0, detach, rule.shape, rule.residual)
    return options._replace(**fixed)


def _neuron(rule: Rule) -> dict[str, Any]:
    return {name: getattr(rule, name) for name in ("decay", "threshold", "gain", "v_reset", "floor", "refractory")}


@lru_cache(maxsize=1024)
def _forward_rule(numbers: Numbers, codes: Codes) -> tuple[Rule, dict[str, Any]]:
    rule = rules.unpack(codes, numbers)
    boxcar = rule.residual == "bits" and rule.shape == "boxcar"
    policy = _policy(rule, detach=True, surrogate="boxcar" if boxcar else "constant")
    return rule, {"slope": rule.slope, "POLICY": policy, **_neuron(rule)}


@lru_cache(maxsize=1024)
def _backward_rule(numbers: Numbers, codes: Codes) -> tuple[Rule, dict[str, Any]]:
    rule = rules.unpack(codes, numbers)
    policy = _policy(rule)
    if rule.residual == "bits":
        detach = rule.detach or rule.reset != "subtract"
        policy = Policy("subtract", False, False, False, detach, "constant", "bits")
    return rule, {"peak": rule.peak, "slope": rule.slope, "low": rule.low, "POLICY": policy, **_neuron(rule)}


def _table(rule: Rule, table: Tensor | None) -> dict[str, Any]:
    if table is None:
        return {"table_ptr": None, "last": 0, "per_unit": 0.0}
    last = table.numel() - 1
    return {"table_ptr": table.contiguous(), "last": last, "per_unit": last / (rule.high - rule.low)}


def _is_light(policy: Policy, learns: Learns) -> bool:
    """Whether two neurons per thread fit the registers of a backward pass."""
    replays_little = policy.detach and not policy.rests and policy.surrogate != "table" and not any(learns)
    return policy.residual == "bits" or replays_little


# LIF -----------------------------------------------------------------------------------------------------------------


def forward(
    x: Tensor, decay: Tensor | None, threshold: Tensor | None, gain: Tensor | None, v_reset: Tensor | None,
    v0: Tensor | None, countdown: Tensor | None, table: Tensor | None, numbers: Numbers, codes: Codes,
) -> Forward:  # fmt: skip
    """The leaf op ``lif_fwd``."""
    (rule, fixed), out = _forward_rule(numbers, codes), rules.allocate_forward(x, codes)
    period, (decay, threshold, gain, v_reset) = periodic(x.shape[1:], decay, threshold, gain, v_reset)
    with arranged([x], [out.spikes]) as seen:
        xs, spikes = seen.series
        launch(
            forward_kernel, x, out.membrane.numel(), seen, pairs=_is_single(x) and not rule.refractory,
            x=xs, spikes=spikes, membrane_ptr=out.membrane, left_out_ptr=used(out.countdown, rule.refractory > 0),
            residual_ptr=used(out.residual, rule.residual != "none"), counts_ptr=used(out.counts, counts_down(rule)),
            decay_ptr=decay, threshold_ptr=threshold, gain_ptr=gain, v_reset_ptr=v_reset, period=period,
            v0_ptr=contiguous(v0), left_ptr=contiguous(countdown), steps=x.shape[0], **fixed,
        )  # fmt: skip
    return out


def backward(
    g: Tensor, g_membrane: Tensor, x: Tensor | None, residual: Tensor, counts: Tensor,
    decay: Tensor | None, threshold: Tensor | None, gain: Tensor | None, v_reset: Tensor | None,
    v0: Tensor | None, countdown: Tensor | None, table: Tensor | None,
    numbers: Numbers, codes: Codes, wanted: list[bool],
) -> tuple[Tensor, ...]:  # fmt: skip
    """The leaf op ``lif_bwd``."""
    (rule, fixed), outs = _backward_rule(numbers, codes), rules.allocate_backward(g, wanted)
    period, (decay, threshold, gain, v_reset) = periodic(g.shape[1:], decay, threshold, gain, v_reset)
    dx, dv0, *dparameters = [out if want else None for out, want in zip(outs, wanted, strict=True)]
    names = ("ddecay_ptr", "dthreshold_ptr", "dgain_ptr", "dv_reset_ptr")
    learns = Learns(*wanted[2:])
    x = x if rule.residual == "recompute" or learns.gain else None
    with arranged([g, x], [dx]) as seen:
        gs, xs, dxs = seen.series
        launch(
            backward_kernel, g, g_membrane.numel(), seen, pairs=_is_single(g) and _is_light(fixed["POLICY"], learns),
            g=gs, x=xs, dx=dxs, da_ptr=g_membrane.contiguous(),
            residual_ptr=residual.contiguous(), counts_ptr=used(counts, counts_down(rule)),
            decay_ptr=decay, threshold_ptr=threshold, gain_ptr=gain, v_reset_ptr=v_reset, period=period,
            v0_ptr=contiguous(v0), left_ptr=contiguous(countdown), steps=g.shape[0], **fixed, **_table(rule, table),
            dv0_ptr=dv0, **dict(zip(names, dparameters, strict=True)), LEARNS=learns,
        )  # fmt: skip
    return outs


def jvp(
    dx: Tensor | None, dv0: Tensor | None, ddecay: Tensor | None, dthreshold: Tensor | None, dgain: Tensor | None,
    dv_reset: Tensor | None, x: Tensor, decay: Tensor | None, threshold: Tensor | None, gain: Tensor | None,
    v_reset: Tensor | None, v0: Tensor | None, countdown: Tensor | None, table: Tensor | None,
    numbers: Numbers, codes: Codes,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The leaf op ``lif_jvp``."""
    keeps_nothing = (*codes[:-1], rules.RESIDUALS.index("none"))
    (rule, fixed), neurons = _backward_rule(numbers, keeps_nothing), x.shape[1:]
    ds, dmembrane = torch.empty_like(x), x.new_empty(neurons, dtype=rules.compute_dtype(x))
    names = ("decay", "threshold", "gain", "v_reset", "ddecay", "dthreshold", "dgain", "dv_reset")
    given = (decay, threshold, gain, v_reset, ddecay, dthreshold, dgain, dv_reset)
    period, parameters = periodic(neurons, *given)
    with arranged([x, dx], [ds]) as seen:
        xs, dxs, out = seen.series
        launch(
            tangent_kernel, x, dmembrane.numel(), seen, pairs=_is_single(x), x=xs, dx=dxs, ds=out,
            **{f"{name}_ptr": p for name, p in zip(names, parameters, strict=True)}, period=period,
            v0_ptr=contiguous(v0), left_ptr=contiguous(countdown), dv0_ptr=contiguous(dv0), dmembrane_ptr=dmembrane,
            steps=x.shape[0], **fixed, **_table(rule, table),
        )  # fmt: skip
    return ds, dmembrane


# The leaky integrator ------------------------------------------------------------------------------------------------


def _leak(numbers: list[float], period: int, has_floor: bool) -> dict[str, Any]:
    decay, gain, floor = numbers
    return {"decay": decay, "gain": gain, "floor": floor, "period": period, "FLOOR": has_floor}


def leaky_forward(
    x: Tensor, decay: Tensor | None, gain: Tensor | None, v0: Tensor | None, numbers: list[float], has_floor: bool
) -> Tensor:
    """The leaf op ``leaky_fwd``."""
    trace = leaky.allocate_forward(x)
    period, (decay, gain) = periodic(x.shape[1:], decay, gain)
    with arranged([x], [trace]) as seen:
        xs, traces = seen.series
        launch(
            leaky_forward_kernel, x, x.shape[1:].numel(), seen, pairs=_is_single(x), x=xs, trace=traces,
            decay_ptr=decay, gain_ptr=gain, v0_ptr=contiguous(v0), **_leak(numbers, period, has_floor),
            steps=x.shape[0],
        )  # fmt: skip
    return trace


def leaky_backward(
    g: Tensor, x: Tensor | None, trace: Tensor | None, decay: Tensor | None, gain: Tensor | None, v0: Tensor | None,
    numbers: list[float], has_floor: bool, dtype: torch.dtype, wanted: list[bool],
) -> tuple[Tensor, ...]:  # fmt: skip
    """The leaf op ``leaky_bwd``."""
    outs = leaky.allocate_backward(g, dtype, wanted)
    period, (decay, gain) = periodic(g.shape[1:], decay, gain)
    dx, dv0, ddecay, dgain = [out if want else None for out, want in zip(outs, wanted, strict=True)]
    read = [g, x if wanted[3] else None, trace if has_floor or wanted[2] else None]
    with arranged(read, [dx]) as seen:
        gs, xs, traces, dxs = seen.series
        launch(
            leaky_backward_kernel, g, g.shape[1:].numel(), seen, pairs=_is_single(g), g=gs, x=xs, trace=traces, dx=dxs,
            decay_ptr=decay, gain_ptr=gain, v0_ptr=contiguous(v0), **_leak(numbers, period, has_floor),
            dv0_ptr=dv0, ddecay_ptr=ddecay, dgain_ptr=dgain, steps=g.shape[0],
        )  # fmt: skip
    return outs


def leaky_jvp(
    dx: Tensor | None, ddecay: Tensor | None, dgain: Tensor | None, dv0: Tensor | None, x: Tensor, trace: Tensor,
    decay: Tensor | None, gain: Tensor | None, v0: Tensor | None, numbers: list[float], has_floor: bool,
) -> Tensor:  # fmt: skip
    """The leaf op ``leaky_jvp``."""
    tangent = torch.empty_like(trace)
    period, (decay, gain, ddecay, dgain) = periodic(x.shape[1:], decay, gain, ddecay, dgain)
    with arranged([x, dx, trace], [tangent]) as seen:
        xs, dxs, traces, out = seen.series
        launch(
            leaky_tangent_kernel, x, x.shape[1:].numel(), seen, pairs=_is_single(x), x=xs, dx=dxs, trace=traces,
            tangent=out, decay_ptr=decay, gain_ptr=gain, **_leak(numbers, period, has_floor), steps=x.shape[0],
            ddecay_ptr=ddecay, dgain_ptr=dgain, v0_ptr=contiguous(v0), dv0_ptr=contiguous(dv0),
        )  # fmt: skip
    return tangent
