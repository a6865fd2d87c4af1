"""LIF: our backends against plain PyTorch, torch.compile, SpikingJelly, snnTorch and Norse.

All rows run the same layer: decay 0.5 (at which every library's formula rounds alike), threshold 1, detached reset to
zero. Sizes are steps x batch x neurons. Peers are in ``benchmarks/peers``, the gate in ``benchmarks/truth.py``.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

import neurokernels as nk
import neurokernels.ops.lif  # enters the op in the table of backends
from benchmarks import peers, where
from benchmarks.truth import Truth
from neurokernels.bench import Absent, Goal, Row, at_most, available, bandwidth, faster, kernels, saved_bytes, within
from neurokernels.bench.tables import SAVED

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # Norse's

Shape = tuple[int, int, int]

DEVICE, OURS = where.DEVICE, where.OURS
SMALL, LARGE, HUGE, TINY = (100, 64, 512), (500, 16, 4096), (32, 64, 65536), (4, 16, 128)
GPU_LIMITS = {(500, 16, 512): 60e-6, (500, 16, 16384): 320e-6, (500, 16, 65536): 1250e-6}  # seconds, in bfloat16
GPU_ONLY = list(GPU_LIMITS) if where.GPU else []
PROOF = [(shape, "bfloat16", "atan") for shape in GPU_LIMITS]
PROOF += [((500, 16, 16384), "bfloat16", "constant"), ((500, 16, 16384), "float32", "atan")]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
ALPHA = {"constant": 1.0, "boxcar": 1.0, "atan": 2.0}
COMPILE_LIMIT = 25.0 if where.GPU else 90.0  # seconds; a proof has few


def _layer(surrogate: str) -> peers.LIF:
    return peers.LIF(surrogate=surrogate, alpha=ALPHA[surrogate])


def _that_fits(shape: Shape, itemsize: int) -> Shape:
    """The shape, its batch halved until ten float32 tensors of it, the thirstiest row, leave half of the memory."""
    steps, batch, neurons = shape
    while batch > 1 and 10 * steps * batch * neurons * max(itemsize, 4) > available(DEVICE) / 2:
        batch //= 2
    return steps, batch, neurons


def _inputs(shape: Shape, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """An input current that makes a neuron spike in about every fourth step, and a gradient of the spikes."""
    generator = torch.Generator(DEVICE).manual_seed(0)
    x, g = (torch.randn(shape, generator=generator, device=DEVICE).to(dtype) for _ in range(2))
    return x.add_(0.3), g


def _fused(x: Tensor, layer: peers.LIF) -> Tensor:
    return nk.lif(x, **layer.arguments()).spikes


def _trained(lif: Callable[..., Tensor], layer: peers.LIF, x: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    spikes = lif(x, layer)
    (dx,) = torch.autograd.grad(spikes, x, g)
    return spikes, dx


def _stepped(lif: Callable[..., Tensor], layer: peers.LIF, x: Tensor, g: Tensor) -> tuple[Tensor]:
    return (lif(x, layer),)


def _rows(run: Callable[..., Any], layer: peers.LIF, x: Tensor, others: tuple[str, ...]) -> list[Row | Absent]:
    """Our backends first, then the others, each with the bytes it saves where it trains."""
    rows = where.ours("lif", x, partial(run, _fused, layer))
    rows = [_row(r.name, run, _fused, layer, x, ours=True, scope=r.scope) if isinstance(r, Row) else r for r in rows]
    for name in others:
        adapter, why = peers.find(name, layer)
        limit = COMPILE_LIMIT if name == "compiled" else None
        if adapter is None:
            rows.append(Absent(name, why or ""))
        else:
            rows.append(_row(name, run, adapter.lif, layer, x, package=adapter.PACKAGE, limit=limit))
    torch.compiler.reset()  # each group compiles for itself, and none runs into the limit of recompilations
    return rows


def _row(
    name: str, run: Callable[..., Any], lif: Callable[..., Tensor], layer: peers.LIF, x: Tensor, **options: Any
) -> Row:
    """A row that tells the bytes it saves per step and neuron, if it saves any."""
    scope: Callable[[], AbstractContextManager[Any]] = options.get("scope", torch.enable_grad)

    def saved() -> dict[str, float]:
        if not x.requires_grad or (x.numel() > 2**26 and not options.get("ours")):  # the same at every size
            return {}
        with scope():
            return {SAVED: saved_bytes(lambda: lif(x, layer)) / x.numel()}

    return Row(name, partial(run, lif, layer), extra=saved, **options)


def _params(mode: str, dtype: str, shape: Shape, surrogate: str) -> dict[str, str]:
    return {"mode": mode, "dtype": dtype, "surrogate": surrogate, "shape": where.text(shape)}


def _goals(shape: Shape, dtype: str, surrogate: str) -> list[Goal]:
    mine, kernel = where.mine("lif"), where.mine("lif", " kernels")
    goals = [at_most(mine, SAVED, 4.3 if surrogate == "atan" else 0.4)]
    if shape in GPU_ONLY:
        goals += [bandwidth(kernel, 0.8)] if shape[2] >= 16384 else []
        goals += [within(mine, GPU_LIMITS[shape]), faster(mine, "spikingjelly", 1.5)] if dtype == "bfloat16" else []
        return goals
    goals += [bandwidth(kernel, 0.75)]
    if shape == SMALL and DEVICE == "cpu":
        if (dtype, surrogate) == ("float32", "atan"):
            goals += [faster(mine, "spikingjelly", 12), faster(mine, "unbind", 10)]
        if (dtype, surrogate) == ("bfloat16", "constant"):
            goals += [faster(mine, "spikingjelly", 30)]
    return goals


def _others(shape: Shape, dtype: str, surrogate: str) -> tuple[str, ...]:
    """Who takes part: everybody at the two settings of the goals; the slow stay away where they would take minutes."""
    fast = ("unbind", "spikingjelly")
    if shape == HUGE:
        return fast
    if shape in GPU_ONLY:
        compiled = shape == GPU_ONLY[0] and dtype == "bfloat16" and not where.REHEARSAL
        return (*fast, "snntorch", *(("compiled",) if compiled else ()))
    featured = (dtype, surrogate) in (("float32", "atan"), ("bfloat16", "constant"))
    if shape != SMALL:
        return (*fast, "snntorch", "compiled") if featured else fast
    return peers.NAMES if featured else (*fast, "snntorch")


CASES = [*PROOF] if where.GPU else []
CASES += [(shape, dtype, s) for shape in (SMALL, LARGE, *GPU_ONLY) for dtype in DTYPES for s in ALPHA]
CASES += [(HUGE, "float32", "atan"), (HUGE, "bfloat16", "constant")]
MARKED = [pytest.param(*case, marks=[pytest.mark.proof] * (case in PROOF)) for case in dict.fromkeys(CASES)]


@pytest.mark.parametrize(
    ("shape", "dtype", "surrogate"), MARKED, ids=lambda v: v if isinstance(v, str) else where.text(v)
)
def bench_forward_backward(race: Callable[..., Any], shape: Shape, dtype: str, surrogate: str) -> None:
    fitting = where.small(_that_fits(shape, DTYPES[dtype].itemsize))
    layer, (x, g) = _layer(surrogate), _inputs(fitting, DTYPES[dtype])
    gate = Truth(x, g, layer)
    x.requires_grad_()
    rows = _rows(_trained, layer, x, _others(shape, dtype, surrogate))
    train = partial(_trained, _fused, layer)
    mine = [row.name for row in rows if isinstance(row, Row) and row.ours]
    rows[len(mine) : len(mine)] = [kernels(name, train, (x, g)) for name in mine]
    reduced = {} if fitting == shape or where.REHEARSAL else {"reduced from": where.text(shape)}
    race(
        f"lif forward+backward {dtype} {surrogate} {where.text(fitting)}",
        rows,
        op="lif",
        inputs=(x, g),
        gate=gate,
        goals=_goals(shape, dtype, surrogate),
        params=_params("forward+backward", dtype, fitting, surrogate) | reduced,
        nbytes=4 * x.numel() * x.element_size(),  # x, the spikes, their gradient, the gradient of x
        clock=where.CLOCK,
        rounds=(3, 3) if shape == HUGE else (5, 100),
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [SMALL, LARGE, HUGE, *GPU_ONLY], ids=where.text)
def bench_forward(race: Callable[..., Any], shape: Shape, dtype: str) -> None:
    fitting = _that_fits(shape, DTYPES[dtype].itemsize)
    layer, (x, g) = _layer("atan"), _inputs(fitting, DTYPES[dtype])
    others = ("unbind", "spikingjelly", "snntorch")
    race(
        f"lif forward {dtype} {where.text(fitting)}",
        _rows(_stepped, layer, x, others if shape == SMALL else others[:2]),
        op="lif",
        inputs=(x, g),
        gate=Truth(x, g, layer),
        params=_params("forward", dtype, fitting, "none"),
        nbytes=2 * x.numel() * x.element_size(),
        clock=where.CLOCK,
        rounds=(3, 3) if shape == HUGE else (5, 100),
    )


@pytest.mark.skipif(where.GPU, reason="threads are a matter of the CPU")
@pytest.mark.parametrize(("dtype", "surrogate"), [("float32", "atan"), ("bfloat16", "constant")])
@pytest.mark.parametrize("shape", [SMALL, LARGE], ids=where.text)
def bench_threads(race: Callable[..., Any], shape: Shape, dtype: str, surrogate: str) -> None:
    layer, (x, g) = _layer(surrogate), _inputs(shape, DTYPES[dtype])
    gate = Truth(x, g, layer)
    x.requires_grad_()
    rows = _rows(_trained, layer, x, ("unbind", "spikingjelly") if shape == SMALL else ())
    if isinstance(rows[0], Row):
        one = replace(rows[0], name="cpu, 1 thread", threads=1)
        rows[1:1] = [one, kernels("cpu", partial(_trained, _fused, layer), (x, g), threads=2)]
    race(
        f"lif threads {dtype} {surrogate} {where.text(shape)}",
        rows,
        op="lif",
        inputs=(x, g),
        gate=gate,
        goals=[faster("cpu", "cpu, 1 thread", 1.7)],
        params=_params("forward+backward", dtype, shape, surrogate),
        threads=2,
        nbytes=4 * x.numel() * x.element_size(),
    )


@pytest.mark.proof
def bench_call_overhead(race: Callable[..., Any]) -> None:
    """What a call costs beside the work: the forward pass of a tiny layer, recorded for the backward pass."""
    layer, (x, g) = _layer("atan"), _inputs(where.small(TINY), torch.float32)
    others = () if where.GPU else ("compiled", "norse")
    gate = Truth(x, g, layer)
    x.requires_grad_()
    race(
        f"lif call overhead {where.text(TINY)}",
        _rows(_stepped, layer, x, ("unbind", "spikingjelly", "snntorch", *others)),
        op="lif",
        inputs=(x, g),
        gate=gate,
        goals=[within(where.mine("lif"), 15e-6)],
        params=_params("forward with grad", "float32", TINY, "atan"),
    )
