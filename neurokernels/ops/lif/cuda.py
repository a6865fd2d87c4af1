"""The CUDA backend of LIF, for layers that are too small to fill a GPU: arguments of csrc/cuda/lif.cu, and launches.

The functions of `neurokernels.ops.lif.reference` with the same formats of residuals, so that a backward pass can run
elsewhere than its forward pass. Series keep their strides, as for Triton. Forward-mode derivatives are the reference's.
"""

import ctypes
from functools import cache, lru_cache

import torch
from torch import Tensor

from neurokernels._core import cuda, tuned
from neurokernels._core.triton import Seen, arranged
from neurokernels._core.triton import Series as Strided
from neurokernels.ops.lif import leaky, reference
from neurokernels.ops.lif import rule as rules
from neurokernels.ops.lif.arguments import contiguous, counts_down, periodic, used
from neurokernels.ops.lif.rule import Codes, Forward, Numbers, Rule
from neurokernels.surrogate import SHAPES

jvp, leaky_jvp = reference.jvp, reference.leaky_jvp

# The structs of lif.cu and its sizes. ---------------------------------------------------------------------------------

_LANES, _STAGES = 32, 4
_NOTHING, _TILES, _LANE, _DIRECT = range(4)

_Pointer, _Number, _Long, _Int = ctypes.c_void_p, ctypes.c_double, ctypes.c_int64, ctypes.c_int


class _Series(ctypes.Structure):
    _fields_ = (
        ("first", _Pointer), ("time", _Long), ("outer", _Long), ("inner", _Long), ("mode", _Int), ("unused", _Int),
    )  # fmt: skip


class _Rule(ctypes.Structure):
    _fields_ = (
        *((name, _Pointer) for name in ("decay", "threshold", "gain", "v_reset", "v0", "left")),
        *((f"{name}_number", _Number) for name in ("decay", "threshold", "gain", "v_reset")),
        *((name, _Number) for name in ("floor", "peak", "slope", "low", "per_unit")),
        *((name, _Long) for name in ("total", "width", "period")),
        *((n, _Int) for n in ("steps", "refractory", "reset", "above", "has_floor", "detach", "shape", "last")),
        ("is_float16", _Int), ("unused", _Int),
    )  # fmt: skip


class _Forward(ctypes.Structure):
    _fields_ = (
        ("rule", _Rule), ("x", _Series), ("spikes", _Series),
        *((name, _Pointer) for name in ("membrane", "left", "residual", "counts")),
    )  # fmt: skip


class _Backward(ctypes.Structure):
    _fields_ = (
        ("rule", _Rule), ("g", _Series), ("x", _Series), ("dx", _Series), ("u", _Series),
        *((name, _Pointer) for name in ("da", "residual", "counts", "table")),
        *((name, _Pointer) for name in ("dv0", "ddecay", "dthreshold", "dgain", "dv_reset")),
    )  # fmt: skip


class _Leaky(ctypes.Structure):
    _fields_ = (
        ("decay", _Pointer), ("gain", _Pointer), ("v0", _Pointer),
        ("decay_number", _Number), ("gain_number", _Number), ("floor", _Number),
        *((name, _Long) for name in ("total", "width", "period")),
        *((name, _Series) for name in ("x", "trace", "g", "dx")),
        *((name, _Pointer) for name in ("dv0", "ddecay", "dgain")),
        *((name, _Int) for name in ("steps", "has_floor", "is_float16", "unused")),
    )  # fmt: skip


_SUFFIX = {torch.float32: "f32", torch.float64: "f64", torch.bfloat16: "f16", torch.float16: "f16"}
_KIND = {"none": "plain", "recompute": "plain", "bits": "bits", "membrane": "membrane"}


@lru_cache(maxsize=1024)
def _template(numbers: Numbers, codes: Codes) -> tuple[Rule, bytes]:
    """The rule, and the struct of it with everything that no tensor decides: launches copy it."""
    rule = rules.unpack(codes, numbers)
    made = _Rule(
        decay_number=rule.decay, threshold_number=rule.threshold, gain_number=rule.gain, v_reset_number=rule.v_reset,
        floor=rule.floor, peak=rule.peak, slope=rule.slope, low=rule.low, refractory=rule.refractory,
        reset=rules.RESETS.index(rule.reset), above=rule.above, has_floor=rule.has_floor,
        detach=rule.detach or rule.reset == "none", shape=SHAPES.index(rule.shape),
    )  # fmt: skip
    return rule, bytes(made)


def _mode(tensor: Tensor, series: Strided, total: int, width: int) -> int:
    """How a series is copied: see lif_stream.cuh."""
    size = tensor.element_size()
    if not width and series.inner == 1:
        aligned = tensor.data_ptr() % 16 == 0
        if aligned and series.time * size % 16 == 0 and total * size % 16 == 0:
            return _TILES
    return _LANE if size >= 4 else _DIRECT


def _series(series: Strided, total: int, width: int) -> _Series:
    if series.pointer is None:
        return _Series()
    mode = _mode(series.pointer, series, total, width)
    return _Series(series.pointer.data_ptr(), series.time, series.outer, series.inner, mode, 0)


def _rule(
    template: bytes, seen: Seen, neurons: torch.Size, steps: int, parameters: tuple[Tensor | None, ...],
    v0: Tensor | None, countdown: Tensor | None, dtype: torch.dtype, keep: list[Tensor | None],
) -> _Rule:  # fmt: skip
    """The struct of a call. What it points to is added to ``keep``, which has to live until the launch."""
    made = _Rule.from_buffer_copy(template)
    period, given = periodic(neurons, *parameters)
    given += [contiguous(v0), contiguous(countdown)]
    made.decay, made.threshold, made.gain, made.v_reset, made.v0, made.left = map(cuda.pointer, given)
    made.is_float16 = dtype == torch.float16
    made.total, made.width, made.period, made.steps = neurons.numel(), seen.inner or 0, max(period, 1), steps
    keep += given
    return made


@cache
def _block(total: int, warps: int) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    return (-(-total // (_LANES * warps)), 1, 1), (_LANES * warps, 1, 1)


def _launch(
    source: str,
    name: str,
    arguments: ctypes.Structure,
    like: Tensor,
    total: int,
    read: int,
    written: int,
    rows: int = 0,
) -> None:
    """A warp for 32 neurons, with rings of tiles of what it reads, a tile of what it writes, a ring of rows.

    ``read``, ``written`` and ``rows`` are bytes per neuron, and per step of the first two.
    """
    warps: int = tuned.choice("lif", like, total)["warps"]
    grid, block = _block(total, warps)
    values = _STAGES * rules.CHUNK * read + rules.CHUNK * written + _STAGES * rows
    cuda.launch(source, name, grid, block, arguments, like, _LANES * values * warps)


def forward(
    x: Tensor, decay: Tensor | None, threshold: Tensor | None, gain: Tensor | None, v_reset: Tensor | None,
    v0: Tensor | None, countdown: Tensor | None, table: Tensor | None, numbers: Numbers, codes: Codes,
) -> Forward:  # fmt: skip
    """The leaf op ``lif_fwd``."""
    (rule, template), out = _template(numbers, codes), rules.allocate_forward(x, codes)
    total, keep = out.membrane.numel(), list[Tensor | None]()
    with arranged([x], [out.spikes]) as seen:
        xs, spikes = seen.series
        width = seen.inner or 0
        arguments = _Forward(
            _rule(
                template, seen, x.shape[1:], x.shape[0], (decay, threshold, gain, v_reset), v0, countdown, x.dtype, keep
            ),
            _series(xs, total, width), _series(spikes, total, width), cuda.pointer(out.membrane),
            cuda.pointer(out.countdown), cuda.pointer(out.residual), cuda.pointer(out.counts),
        )  # fmt: skip
        name = f"lif_forward_{_SUFFIX[x.dtype]}_{_KIND[rule.residual]}"
        _launch("lif", name, arguments, x, total, x.element_size(), out.membrane.element_size())
    return out


def _add_table(made: _Rule, rule: Rule, table: Tensor | None) -> Tensor | None:
    if table is None:
        return None
    made.last = table.numel() - 1
    made.per_unit = made.last / (rule.high - rule.low)
    return table.contiguous()


def backward(
    g: Tensor, g_membrane: Tensor, x: Tensor | None, residual: Tensor, kept_counts: Tensor,
    decay: Tensor | None, threshold: Tensor | None, gain: Tensor | None, v_reset: Tensor | None,
    v0: Tensor | None, countdown: Tensor | None, table: Tensor | None,
    numbers: Numbers, codes: Codes, wanted: list[bool],
) -> tuple[Tensor, ...]:  # fmt: skip
    """The leaf op ``lif_bwd``."""
    (rule, template), outs = _template(numbers, codes), rules.allocate_backward(g, wanted)
    kind, total, keep = _KIND[rule.residual], g_membrane.numel(), list[Tensor | None]()
    dx, *firsts = [out if want else None for out, want in zip(outs, wanted, strict=True)]
    x = x if kind == "plain" or wanted[rules.GRADIENTS.index("gain")] else None
    residual, g_membrane = residual.contiguous(), g_membrane.contiguous()
    with arranged([g, x], [dx]) as seen:
        gs, xs, dxs = seen.series
        width = seen.inner or 0
        made = _rule(
            template, seen, g.shape[1:], g.shape[0], (decay, threshold, gain, v_reset), v0, countdown, g.dtype, keep
        )  # fmt: skip
        table = _add_table(made, rule, table)
        kept = Strided(residual if kind == "membrane" else None, total, 0, 1)
        arguments = _Backward(
            made, *(_series(s, total, width) for s in (gs, xs, dxs)), _series(kept, total, 0),
            cuda.pointer(g_membrane), cuda.pointer(residual), cuda.pointer(used(kept_counts, counts_down(rule))),
            cuda.pointer(table), *map(cuda.pointer, firsts),
        )  # fmt: skip
        state = rules.compute_dtype(g).itemsize
        read = g.element_size() * (1 if x is None else 2) + (state if kind == "membrane" else 0)
        name = f"lif_backward_{_SUFFIX[g.dtype]}_{kind}"
        _launch("lif", name, arguments, g, total, read, state, 4 if kind == "bits" else state)
    return outs


# The leaky integrator ------------------------------------------------------------------------------------------------


def _leaky(
    seen: Seen, like: Tensor, dtype: torch.dtype, numbers: list[float], has_floor: bool, decay: Tensor | None,
    gain: Tensor | None, v0: Tensor | None, keep: list[Tensor | None],
) -> _Leaky:  # fmt: skip
    """The struct of a call, without its series."""
    period, given = periodic(like.shape[1:], decay, gain)
    keep += [*given, contiguous(v0)]
    return _Leaky(
        *map(cuda.pointer, keep), *numbers, like.shape[1:].numel(), seen.inner or 0, max(period, 1),
        steps=like.shape[0], has_floor=has_floor, is_float16=dtype == torch.float16,
    )  # fmt: skip


def leaky_forward(
    x: Tensor, decay: Tensor | None, gain: Tensor | None, v0: Tensor | None, numbers: list[float], has_floor: bool
) -> Tensor:
    """The leaf op ``leaky_fwd``."""
    trace, keep, total = leaky.allocate_forward(x), list[Tensor | None](), x.shape[1:].numel()
    with arranged([x], [trace]) as seen:
        arguments = _leaky(seen, x, x.dtype, numbers, has_floor, decay, gain, v0, keep)
        arguments.x, arguments.trace = (_series(s, total, seen.inner or 0) for s in seen.series)
        name = f"leaky_forward_{_SUFFIX[x.dtype]}"
        _launch("leaky", name, arguments, x, total, x.element_size(), trace.element_size())
    return trace


def leaky_backward(
    g: Tensor, x: Tensor | None, trace: Tensor | None, decay: Tensor | None, gain: Tensor | None, v0: Tensor | None,
    numbers: list[float], has_floor: bool, dtype: torch.dtype, wanted: list[bool],
) -> tuple[Tensor, ...]:  # fmt: skip
    """The leaf op ``leaky_bwd``."""
    outs, keep, total = leaky.allocate_backward(g, dtype, wanted), list[Tensor | None](), g.shape[1:].numel()
    dx, *firsts = [out if want else None for out, want in zip(outs, wanted, strict=True)]
    read = [g, x if wanted[3] else None, trace if has_floor or wanted[2] else None]
    with arranged(read, [dx]) as seen:
        arguments = _leaky(seen, g, dtype, numbers, has_floor, decay, gain, v0, keep)
        gs, xs, traces, dxs = (_series(s, total, seen.inner or 0) for s in seen.series)
        arguments.g, arguments.x, arguments.trace, arguments.dx = gs, xs, traces, dxs
        arguments.dv0, arguments.ddecay, arguments.dgain = map(cuda.pointer, firsts)
        tiles = g.element_size() * (1 if read[2] is None else 2) + (dtype.itemsize if read[1] is not None else 0)
        _launch("leaky", f"leaky_backward_{_SUFFIX[dtype]}", arguments, g, total, tiles, g.element_size())
    return outs
