"""What hypothesis draws: shapes, strides, dtypes, offsets, parameters and options of the LIF family."""

import math
from dataclasses import replace
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from neurokernels import surrogate
from tests.ops.agreement import Case

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
NUMBERS = {"decay": (0.0, 1.0), "threshold": (-0.5, 1.5), "gain": (-1.5, 1.5), "v_reset": (-0.5, 0.5)}


@st.composite
def laid_out(draw: st.DrawFn, tensor: Tensor) -> Tensor:
    """The same values somewhere else: dimensions stored in another order, with gaps between, from an odd place on."""
    order = draw(st.permutations(range(tensor.ndim)))
    gaps = [draw(st.sampled_from((1, 1, 1, 2, 3))) for _ in order]
    stored = [tensor.shape[d] for d in order]
    offset = draw(st.integers(0, 3))
    room = torch.full([n * gap + offset for n, gap in zip(stored, gaps, strict=True)], torch.nan, dtype=tensor.dtype)
    view = room[tuple(slice(offset, offset + n * gap, gap) for n, gap in zip(stored, gaps, strict=True))]
    view = view.permute([order.index(d) for d in range(tensor.ndim)])
    return view.copy_(tensor)


@st.composite
def broadcast(draw: st.DrawFn, sizes: tuple[int, ...]) -> tuple[int, ...]:
    """A shape that broadcasts against these sizes."""
    kept = sizes[draw(st.integers(0, len(sizes))) :]
    return tuple(n if draw(st.booleans()) else 1 for n in kept)


def seeds() -> st.SearchStrategy[torch.Generator]:
    """Generators for values: hypothesis shrinks structure better than it shrinks noise."""
    return st.integers(0, 2**16).map(lambda seed: torch.Generator().manual_seed(seed))


def uniform(generator: torch.Generator, low: float, high: float, size: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Values between two bounds."""
    return (low + (high - low) * torch.rand(size, dtype=torch.float64, generator=generator)).to(dtype)


@st.composite
def inputs(draw: st.DrawFn, steps: int, wide: int) -> Tensor:
    """Input ``[T, *neurons]``: noise, or a lattice on which membranes meet threshold and floor exactly."""
    size = st.sampled_from([n for n in (3, 1, 2, 5, 8, 9, 17, 33, 0) if n <= wide])
    neurons = tuple(draw(st.lists(size, min_size=1, max_size=3)))
    shape = (draw(st.integers(0, steps)), *neurons)
    generator, dtype = draw(seeds()), draw(st.sampled_from(DTYPES))
    if draw(st.booleans()):
        x = torch.randint(-3, 5, shape, generator=generator).double() / 4
    else:
        x = torch.randn(shape, dtype=torch.float64, generator=generator) * draw(st.sampled_from((0.3, 1.0, 4.0)))
    return draw(laid_out(x.to(dtype)))


@st.composite
def parameters(draw: st.DrawFn, names: tuple[str, ...], x: Tensor) -> dict[str, Any]:
    """Each one a float, on a lattice or not, or a tensor that broadcasts against the neurons."""
    found: dict[str, Any] = {}
    state, generator = torch.promote_types(x.dtype, torch.float32), draw(seeds())
    for name in names:
        low, high = NUMBERS[name]
        kind = draw(st.sampled_from(("lattice", "number", "tensor")))
        if kind == "lattice":
            found[name] = draw(st.integers(math.ceil(4 * low), math.floor(4 * high))) / 4
        elif kind == "number":
            found[name] = draw(st.floats(low, high))
        else:
            found[name] = draw(laid_out(uniform(generator, low, high, draw(broadcast(tuple(x.shape[1:]))), state)))
    return found


@st.composite
def extreme(draw: st.DrawFn, case: Case) -> Case:
    """The same with some inputs and states that are not finite, huge, or smaller than the smallest normal number."""
    kinds = torch.finfo(case.x.dtype)
    values = torch.tensor(
        [math.inf, -math.inf, math.nan, kinds.max, -kinds.max, kinds.tiny / 4, -0.0], dtype=torch.float64
    )
    generator = draw(seeds())

    def sprinkled(tensor: Tensor | None) -> Tensor | None:
        if tensor is None:
            return None
        chosen = values[torch.randint(0, len(values), tensor.shape, generator=generator)].to(tensor.dtype)
        return torch.where(torch.rand(tensor.shape, generator=generator) < 0.15, chosen, tensor)

    return replace(case, x=sprinkled(case.x), v0=sprinkled(case.v0))


TABLE = surrogate.tabulated([0.0, 0.4, 1.0, 0.6, 0.1], low=-1.5, high=1.0)
surrogates = st.one_of(
    st.sampled_from([*surrogate.NAMED, TABLE]), st.tuples(st.sampled_from([*surrogate.NAMED]), st.floats(0.2, 8))
)


@st.composite
def cases(draw: st.DrawFn, steps: int = 40, wide: int = 17) -> Case:
    """Calls of `neurokernels.lif`."""
    x = draw(inputs(steps, wide))
    neurons, state = tuple(x.shape[1:]), torch.promote_types(x.dtype, torch.float32)
    given = draw(parameters(("decay", "threshold", "gain", "v_reset"), x))
    options = {
        "reset": draw(st.sampled_from(("zero", "subtract", "none"))),
        "reset_at": draw(st.sampled_from(("reach", "above"))),
        "floor": draw(st.sampled_from((None, None, -0.5, 0.0))),
        "refractory": draw(st.sampled_from((0, 0, 1, 2, 7, 300))),
        "surrogate": draw(surrogates),
        "detach_reset": draw(st.booleans()),
        "residual": draw(st.sampled_from(("auto", "auto", "recompute", "membrane"))),
    }
    generator, v0, countdown = draw(seeds()), None, None
    if draw(st.booleans()):
        v0 = draw(laid_out(uniform(generator, -1.0, 1.0, neurons, state)))
        if options["refractory"] and draw(st.booleans()):
            countdown = torch.randint(0, options["refractory"] + 1, neurons, dtype=torch.int32, generator=generator)
    return Case(x, given, options, v0, countdown)


@st.composite
def leaky(draw: st.DrawFn, steps: int = 40, wide: int = 17) -> tuple[dict[str, Any], float | None]:
    """Arguments of `neurokernels.leaky_integrate`, all of them tensors, and a floor."""
    x = draw(inputs(steps, wide))
    neurons, state = tuple(x.shape[1:]), torch.promote_types(x.dtype, torch.float32)
    generator = draw(seeds())
    tensors = {"x": x}
    for name in ("decay", "gain"):
        low, high = NUMBERS[name]
        tensors[name] = draw(laid_out(uniform(generator, low, high, draw(broadcast(neurons)), state)))
    tensors["v0"] = draw(laid_out(uniform(generator, -1.0, 1.0, neurons, state)))
    return tensors, draw(st.sampled_from((None, -0.5, 0.0)))
