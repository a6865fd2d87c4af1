"""`neurokernels.lif` and `neurokernels.leaky_integrate`."""

import math
from typing import Any

import torch
from torch import Tensor

import neurokernels as nk
from neurokernels import surrogate
from tests import definitions
from tests.contract.registry import Bad, Op, Sample, Tensors


def _neurons(shape: tuple[int, ...], time_dim: int = 0) -> tuple[int, ...]:
    return tuple(n for d, n in enumerate(shape) if d != time_dim % len(shape))


def _state_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _input(shape: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator) -> Tensors:
    return {"x": torch.randn(shape, dtype=torch.float64, generator=generator).to(dtype)}


def _learnable(shape: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator, time_dim: int = 0) -> Tensors:
    """Every argument that can be a tensor: per feature, one for all neurons, per neuron."""
    neurons = _neurons(shape, time_dim)
    width, state = neurons[-1:], _state_dtype(dtype)

    def uniform(low: float, high: float, *size: int) -> Tensor:
        return low + (high - low) * torch.rand(size, dtype=torch.float64, generator=generator).to(state)

    return _input(shape, dtype, generator) | {
        "decay": uniform(0.5, 0.95, *width),
        "threshold": uniform(0.5, 0.9, *width),
        "gain": uniform(0.8, 1.5),
        "v_reset": uniform(-0.3, 0.1, *neurons),
        "v0": uniform(-0.5, 0.6, *neurons),
    }


def _some(*names: str, **placed: int) -> Any:
    """The maker of only these arguments."""

    def make(*given: Any) -> Tensors:
        made = _learnable(*given, **placed)
        return {name: made[name] for name in names}

    return make


def _lif(x: Any, **arguments: Any) -> tuple[Tensor, ...]:
    out = nk.lif(x, **arguments)
    return out.spikes, out.membrane


_BAD_BOTH = (
    Bad("rank", {"x": torch.ones(3)}, ValueError, ("x", "at least 2 dimensions", "(3,)")),
    Bad("no array", {"x": [[1.0]]}, TypeError, ("x", "tensor", "list")),
    Bad(
        "integer input", {"x": torch.ones(5, 3, 4, dtype=torch.int64)}, TypeError, ("x", "float32", "int64", ".float()")
    ),
    Bad("complex input", {"x": torch.ones(5, 3, 4, dtype=torch.complex64)}, TypeError, ("x", "complex64")),
    Bad("boolean array", {"x": torch.ones(5, 3, 4, dtype=torch.bool).numpy()}, TypeError, ("x", "bool")),
    Bad("decay above 1", {"decay": 1.5}, ValueError, ("decay", "[0, 1]", "1.5")),
    Bad("decay below 0", {"decay": -0.25}, ValueError, ("decay", "[0, 1]", "-0.25")),
    Bad("decay nan", {"decay": math.nan}, ValueError, ("decay", "[0, 1]", "nan")),
    Bad("decay text", {"decay": "fast"}, TypeError, ("decay", "number", "str")),
    Bad("decay shape", {"decay": torch.ones(7)}, ValueError, ("decay", "broadcast", "(3, 4)", "(7,)")),
    Bad("decay too wide", {"decay": torch.ones(2, 3, 4)}, ValueError, ("decay", "broadcast", "(2, 3, 4)")),
    Bad("decay of integers", {"decay": torch.ones(4, dtype=torch.int32)}, TypeError, ("decay", "int32")),
    Bad("gain nan", {"gain": math.nan}, ValueError, ("gain", "nan")),
    Bad("gain shape", {"gain": torch.ones(4, 3)}, ValueError, ("gain", "broadcast", "(4, 3)")),
    Bad("floor nan", {"floor": math.nan}, ValueError, ("floor", "nan")),
    Bad("floor text", {"floor": "low"}, TypeError, ("floor", "str")),
    Bad("devices", {"decay": torch.ones(4, device="meta")}, ValueError, ("decay", "cpu", "meta", ".to(")),
    Bad("v0 shape", {"v0": torch.zeros(4)}, ValueError, ("v0", "(3, 4)", "(4,)")),
    Bad("v0 dtype", {"v0": torch.zeros(3, 4, dtype=torch.float16)}, TypeError, ("v0", "float64", "float16")),
    Bad("v0 number", {"v0": 0.5}, TypeError, ("v0", "tensor", "float")),
    Bad("v0 device", {"v0": torch.zeros(3, 4, device="meta", dtype=torch.float64)}, ValueError, ("v0", "cpu", "meta")),
    Bad("time_dim", {"time_dim": 3}, ValueError, ("time_dim", "[-3, 2]", "3")),
    Bad("no time_dim", {"time_dim": None}, TypeError, ("time_dim", "integer", "NoneType")),
    Bad("time_dim kind", {"time_dim": 1.0}, TypeError, ("time_dim", "integer", "float")),
)
_ONE_STEP = torch.zeros(3, 4, dtype=torch.float64)
_COUNTDOWN = torch.zeros(3, 4, dtype=torch.int32)
_BAD_LIF = (
    Bad("threshold nan", {"threshold": math.nan}, ValueError, ("threshold", "nan")),
    Bad("threshold shape", {"threshold": torch.ones(3)}, ValueError, ("threshold", "broadcast", "(3,)")),
    Bad("v_reset shape", {"v_reset": torch.ones(5, 3, 4)}, ValueError, ("v_reset", "broadcast", "(5, 3, 4)")),
    Bad("refractory nan", {"refractory": math.nan}, ValueError, ("refractory", "integer", "nan")),
    Bad("refractory negative", {"refractory": -1}, ValueError, ("refractory", ">= 0", "-1")),
    Bad("refractory fraction", {"refractory": 1.5}, ValueError, ("refractory", "integer", "1.5")),
    Bad("refractory text", {"refractory": "two"}, TypeError, ("refractory", "integer", "two")),
    Bad("reset", {"reset": "hard"}, ValueError, ("reset", "zero, subtract, none", "hard")),
    Bad("reset_at", {"reset_at": "below"}, ValueError, ("reset_at", "reach, above", "below")),
    Bad("residual", {"residual": "all"}, ValueError, ("residual", "auto, bits, recompute, membrane", "all")),
    Bad("bits of a smooth surrogate", {"residual": "bits"}, ValueError, ("residual", "bits", "atan", "recompute")),
    Bad(
        "bits of an attached reset",
        {"residual": "bits", "surrogate": "boxcar", "detach_reset": False},
        ValueError,
        ("bits", "attached", "membrane"),
    ),
    Bad(
        "bits of a parameter",
        {"residual": "bits", "surrogate": "boxcar", "gain": torch.ones(4, requires_grad=True)},
        ValueError,
        ("bits", "parameter"),
    ),
    Bad("surrogate", {"surrogate": "arctan"}, ValueError, ("surrogate", "'arctan'", *surrogate.NAMED)),
    Bad("surrogate width", {"surrogate": ("atan", 0.0)}, ValueError, ("atan", "alpha", "positive", "0.0")),
    Bad("surrogate kind", {"surrogate": 2.0}, TypeError, ("surrogate", "float")),
    Bad(
        "countdown dtype", {"refractory": 2, "v0": (_ONE_STEP, _ONE_STEP)}, TypeError, ("countdown", "int32", "float64")
    ),
    Bad(
        "countdown shape",
        {"refractory": 2, "v0": (_ONE_STEP, _COUNTDOWN[0])},
        ValueError,
        ("countdown", "(3, 4)", "(4,)"),
    ),
    Bad("stray countdown", {"v0": (_ONE_STEP, _COUNTDOWN)}, ValueError, ("v0", "countdown", "refractory")),
)

LIF = Op(
    name="lif",
    call=_lif,
    backends=("reference", "cpu", "triton", "cuda"),
    definition=lambda x, **arguments: definitions.lif(x, **arguments)[:2],
    samples=(
        Sample("plain", _input, {"decay": 0.8}),
        Sample("learnable", _learnable, {"floor": -0.4}, smooth=(1,)),
        Sample("bits", _input, {"decay": 0.8, "surrogate": "boxcar", "floor": -0.5, "refractory": 2}),
        Sample("attached", _learnable, {"detach_reset": False, "surrogate": "sigmoid", "reset_at": "above"}),
        Sample(
            "subtract",
            _some("x", "decay", "threshold", "gain", "v0"),
            {"reset": "subtract", "surrogate": "gaussian", "residual": "membrane"},
            smooth=(1,),
        ),
        Sample("refractory", _learnable, {"refractory": 1, "surrogate": "triangle"}, (19, 2, 3)),
        Sample(
            "time last",
            _some("x", "decay", "threshold", "gain", "v0", time_dim=-1),
            {
                "time_dim": -1,
                "reset": "none",
                "surrogate": surrogate.tabulated([0, 0.2, 0.5, 0.7, 0.9, 0.9, 0.7, 0.5, 0.2, 0.1, 0], low=-1, high=2),
            },
            (3, 4, 5),
            smooth=(1,),
        ),
    ),
    leaves=frozenset({"lif_fwd", "lif_bwd", "lif_jvp"}),
    bad=_BAD_BOTH + _BAD_LIF,
    speakers=("lif: ", "surrogate "),
    exact=(0, 1),
)

LEAKY_INTEGRATE = Op(
    backends=("reference", "cpu", "triton", "cuda"),
    name="leaky_integrate",
    call=lambda x, **arguments: (nk.leaky_integrate(x, **arguments),),
    definition=lambda x, **arguments: (definitions.leaky_integrate(x, **arguments),),
    samples=(
        Sample("plain", _input, {"decay": 0.8}, smooth=(0,)),
        Sample("learnable", _some("x", "decay", "gain", "v0"), {}, smooth=(0,)),
        Sample("floor", _some("x", "decay", "gain", "v0"), {"floor": -0.2}, smooth=(0,)),
    ),
    leaves=frozenset({"leaky_fwd", "leaky_bwd", "leaky_jvp"}),
    bad=_BAD_BOTH,
    exact=(0,),
)
