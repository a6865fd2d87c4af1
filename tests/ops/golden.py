"""LIF once more, in NumPy, from the formulas of the papers: written without looking at the library's own definition.

NumPy's float32 is IEEE arithmetic without fused multiply-adds, so that a run in float32 gives the spikes that every
backend must give. A float64 run can be made to decide (spike, reset, floor, edge of a surrogate) as a float32 run did:
it then is the exact value of what the float32 run approximates, even where a membrane lies at the threshold.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray


@dataclass(frozen=True)
class Neuron:
    """Parameters (numbers or arrays that broadcast against the neurons) and options, named as in `neurokernels.lif`."""

    decay: Any
    threshold: Any = 1.0
    gain: Any = 1.0
    v_reset: Any = 0.0
    reset: str = "zero"
    reset_at: str = "reach"
    floor: float | None = None
    refractory: int = 0
    surrogate: Any = "atan"
    detach_reset: bool = True


#: Defaults that are not 1.
WIDTHS = {"atan": 2.0, "sigmoid": 4.0, "fast_sigmoid": 25.0, "gaussian": 2.0, "erf": 2.0, "esser": 10.0}


class Decisions(NamedTuple):
    """What a step decides, ``[T, *neurons]`` bool."""

    fires: Array
    resets: Array
    low: Array
    inside: Array  # the surrogate's support, where it has an edge that jumps


class Run(NamedTuple):
    """A forward pass."""

    spikes: Array
    u: Array
    before: Array  # carried membrane before every step
    resting: Array
    membrane: Array
    countdown: Array
    counts: Array  # countdown before every step
    decisions: Decisions


def shape_of(surrogate: Any, y: Array) -> tuple[Array, Array]:
    """The surrogate derivative at y, and its support where that jumps; formulas as published."""
    name, a = surrogate if isinstance(surrogate, tuple) else (surrogate, None)
    everywhere = np.ones(y.shape, bool)
    if name == "tabulated":
        values, low, high = a
        inside = (y >= low) & (y <= high)
        return np.interp(y, np.linspace(low, high, len(values)), values), inside
    a = WIDTHS.get(name, 1.0) if a is None else a
    with np.errstate(over="ignore", invalid="ignore"):
        if name == "boxcar":
            return np.full(y.shape, float(a)), np.abs(y) < 1 / (2 * a)
        value = {
            "constant": lambda: np.full(y.shape, float(a)),
            "triangle": lambda: np.maximum(0, 1 - a * np.abs(y)),
            "esser": lambda: np.maximum(0, 1 - a * np.abs(y)),
            "piecewise_quadratic": lambda: a * np.maximum(0, 1 - a * np.abs(y)),
            "atan": lambda: a / 2 / (1 + (np.pi / 2 * a * y) ** 2),
            "sigmoid": lambda: a / (2 + np.exp(a * y) + np.exp(-a * y)),
            "fast_sigmoid": lambda: 1 / (1 + a * np.abs(y)) ** 2,
            "gaussian": lambda: a / np.sqrt(2 * np.pi) * np.exp(-((a * y) ** 2) / 2),
            "erf": lambda: a / np.sqrt(np.pi) * np.exp(-((a * y) ** 2)),
            "piecewise_exp": lambda: a / 2 * np.exp(-a * np.abs(y)),
        }[name]()
    return value, everywhere


def forward(
    x: Array, n: Neuron, v0: Array | None = None, countdown: Array | None = None, decided: Decisions | None = None
) -> Run:
    """Steps the neurons, in the dtype of x; ``decided`` imposes the decisions of another run."""
    size, dtype = x.shape[1:], x.dtype
    decay, theta, gain, v_reset = (
        np.broadcast_to(np.asarray(p, dtype), size) for p in (n.decay, n.threshold, n.gain, n.v_reset)
    )
    c = np.zeros(size, dtype) if v0 is None else v0.astype(dtype)
    left = np.zeros(size, np.int32) if countdown is None else countdown
    steps = []
    with np.errstate(over="ignore", invalid="ignore"):
        for t in range(len(x)):
            u = decay * c + gain * x[t]
            low = np.zeros(size, bool) if n.floor is None else u <= np.asarray(n.floor, dtype)
            low = decided.low[t] if decided else low
            u = np.where(low, np.asarray(n.floor or 0.0, dtype), u)
            resting = left > 0
            u = np.where(resting, v_reset, u)
            fires = decided.fires[t] if decided else u >= theta
            resets = decided.resets[t] if decided else (u > theta if n.reset_at == "above" else u >= theta)
            inside = decided.inside[t] if decided else shape_of(n.surrogate, u - theta)[1]
            steps.append((u, c, resting, left, fires, resets, low, inside))
            target = {"zero": v_reset, "subtract": u - theta, "none": u}[n.reset]
            c = np.where(resets, target, u)
            left = np.where(fires, n.refractory, np.maximum(left - 1, 0)).astype(np.int32)
    kinds = (dtype, dtype, bool, np.int32, bool, bool, bool, bool)
    u, before, resting, counts, fires, resets, low, inside = (
        np.stack(column) if steps else np.zeros((0, *size), kind)
        for column, kind in zip(zip(*steps, strict=True) if steps else [()] * 8, kinds, strict=True)
    )
    return Run(fires.astype(dtype), u, before, resting, c, left, counts, Decisions(fires, resets, low, inside))


class Gradients(NamedTuple):
    """Of one loss; parameters per neuron, with the sums of magnitudes that tell how far their terms cancel."""

    x: Array
    v0: Array
    decay: Array
    threshold: Array
    gain: Array
    v_reset: Array
    magnitude: dict[str, Array]


def backward(run: Run, x: Array, n: Neuron, g: Array, a: Array) -> Gradients:
    """Gradients of ``sum(g * spikes) + sum(a * membrane)``, in float64."""
    size = x.shape[1:]
    decay, theta, gain, v_reset = (
        np.broadcast_to(np.float64(p), size) for p in (n.decay, n.threshold, n.gain, n.v_reset)
    )
    dx = np.zeros(x.shape)
    names = ("decay", "threshold", "gain", "v_reset")
    sums, magnitude = ({name: np.zeros(size) for name in names} for _ in range(2))

    def add(name: str, *terms: Array) -> None:
        for term in terms:
            sums[name] = sums[name] + term
            magnitude[name] = magnitude[name] + np.abs(term)

    for t in reversed(range(len(x))):
        u, r = run.u[t], run.decisions.resets[t]
        sigma = np.where(run.decisions.inside[t], shape_of(n.surrogate, u - theta)[0], 0.0)
        live = ~run.resting[t]
        passes = live & ~run.decisions.low[t]
        keep = np.where(r, 0.0, 1.0) if n.reset == "zero" else np.ones(size)
        attached = {"zero": (v_reset - u) * sigma, "subtract": -theta * sigma, "none": 0.0 * u}[n.reset]
        attached = 0.0 * u if n.detach_reset else attached
        z = np.where(passes, g[t] * sigma + a * (keep + attached), 0.0)
        dx[t] = gain * z
        add("decay", z * run.before[t])
        add("gain", z * x[t])
        add("threshold", np.where(live, -g[t] * sigma, 0.0), np.where(live, -a * attached, 0.0))
        if n.reset == "subtract":
            add("threshold", np.where(live & r, -a, 0.0))
        if n.reset == "zero":
            add("v_reset", np.where(live & r, a, 0.0))
        a = decay * z
    return Gradients(dx, a, *(sums[name] for name in names), magnitude)


def leaky(x: Array, decay: Any, gain: Any, floor: float | None, v0: Array | None, low: Array | None = None) -> Array:
    """The trace of a leaky integrator, in the dtype of x; ``low`` imposes where the floor holds."""
    c = np.zeros(x.shape[1:], x.dtype) if v0 is None else v0.astype(x.dtype)
    trace = np.empty_like(x)
    with np.errstate(over="ignore", invalid="ignore"):
        for t in range(len(x)):
            c = np.asarray(decay, x.dtype) * c + np.asarray(gain, x.dtype) * x[t]
            held = (c <= floor if low is None else low[t]) if floor is not None else False
            trace[t] = c = np.where(held, np.asarray(floor or 0.0, x.dtype), c)
    return trace


def leaky_gradients(
    x: Array, trace: Array, decay: Any, gain: Any, low: Array | None, v0: Array | None, g: Array
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Gradients of ``sum(g * trace)`` in float64, those of parameters per neuron, and the magnitudes of their terms."""
    before = np.concatenate([np.zeros_like(x[:1]) if v0 is None else v0[None], trace[:-1]])
    a, z = np.zeros(x.shape[1:]), np.zeros(x.shape)
    for t in reversed(range(len(x))):
        z[t] = g[t] + a if low is None else np.where(low[t], 0.0, g[t] + a)
        a = np.float64(decay) * z[t]
    terms = {"decay": z * before, "gain": z * x}
    sums = {"x": np.float64(gain) * z, "v0": a} | {name: term.sum(0) for name, term in terms.items()}
    return sums, {name: np.abs(term).sum(0) for name, term in terms.items()}
