"""Deep CCA: our losses, correlations and whitening against eigendecompositions, plain PyTorch and cca-zoo.

Everything is value and gradient; the contenders are in ``benchmarks/cca_contenders.py``. How far each of them is from
float64 on difficult inputs is another program: ``python -m benchmarks.cca_errors``.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

import neurokernels as nk
import neurokernels.ops.cca  # enters the ops in the table of backends
from benchmarks import cca_contenders as contenders
from benchmarks import where
from benchmarks.cca_truth import Close, relative
from benchmarks.spectrum_truth import PlainLevel
from neurokernels.bench import Absent, Row, at_most, faster, within

DEVICE = where.DEVICE
REG, EPS = 1e-4, 1e-5
COMPILE_LIMIT = 120.0  # seconds
HIGH, FAST = (1e-4, 1e-4), (1e-3, 1e-2)  # relative errors of value and gradient that pass
SHAPES = [(128, 10), (1024, 128), (1024, 256), (4096, 512)]
#: Times as fast as the naive loss: with `precision="high"`, and with "fast".
GOALS = {(128, 10): (3.0, None), (1024, 256): (2.8, 5.0)}
GPU_GOALS = {10: 15e-6, 256: 60e-6}  # seconds, by width

Call = Callable[..., tuple[Tensor, ...]]


def _views(n: int, d: int, *batch: int) -> tuple[Tensor, Tensor]:
    """Two views with a common part: correlations from nearly 1 to nearly 0."""
    draw = partial(torch.randn, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    common = draw(*batch, n, d) * torch.linspace(2, 0.05, d, dtype=torch.float64)
    views = (common @ (draw(*batch, d, d) / d**0.5) + draw(*batch, n, d) for _ in range(2))
    x, y = (v.to(DEVICE, torch.float32).requires_grad_() for v in views)
    return x, y


def _losses(truth: Close, **options: Any) -> list[Row | Absent]:
    """Our rows: one for each precision."""
    rows: list[Row | Absent] = []
    for precision, (value, gradient) in (("high", HIGH), ("fast", FAST)):
        call = contenders.trained(
            lambda x, y, reg, p=precision: nk.dcca_loss(x, y, reg=reg, precision=p, **options)  # type: ignore[misc]
        )
        run, gate = partial(_with, call), truth.within(value, gradient)
        suffix, extra = "" if precision == "high" else " fast", partial(_errors, truth, run)
        rows += where.ours("dcca", truth.inputs[0], run, suffix, gate=gate, extra=extra)
    return rows


def _errors(truth: Close, run: Call) -> dict[str, float]:
    return truth.errors(run(*truth.inputs))


def _row(truth: Close, name: str, call: contenders.Trained, value: float, gradient: float) -> Row:
    """Of somebody else; eigendecompositions and singular values wait for a GPU, and are in no graph."""
    run = partial(_with, call)
    return Row(name, run, gate=truth.within(value, gradient), extra=partial(_errors, truth, run), captures=False)


def _with(call: contenders.Trained, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    return call(x, y, REG)


def _detached(call: contenders.Trained) -> contenders.Trained:
    return lambda x, y, reg: call(x.detach(), y.detach(), reg)


# The loss -----------------------------------------------------------------------------------------------------------


MARKED = [
    pytest.param(shape, marks=[pytest.mark.proof] * (shape[1] in GPU_GOALS), id=where.text(shape)) for shape in SHAPES
]


@pytest.mark.parametrize("shape", MARKED)
def bench_dcca_loss(race: Callable[..., Any], shape: tuple[int, int]) -> None:
    """The sum of correlations; plain rows may be as wrong as they are: they get HIGH times a hundred."""
    limit, (high, fast) = GPU_GOALS.get(shape[1]) if where.GPU else None, GOALS.get(shape, (None, None))
    shape = where.small(shape, 16)
    x, y = _views(*shape)
    truth = Close(contenders.eigh_svd, REG, x, y)
    theirs = {
        "naive, 3 x eigh": contenders.trained(contenders.naive),
        "eigh + SVD": contenders.trained(contenders.eigh_svd),
        "closed form, plain": _detached(contenders.closed_form),
    }
    mine, quick = where.mine("dcca"), where.mine("dcca", " fast")
    goals = [faster(mine, "naive, 3 x eigh", high)] if high else []
    goals += [faster(quick, "naive, 3 x eigh", fast)] if fast else []
    goals += [at_most(mine, "gradient error", 1e-5), at_most(quick, "gradient error", 1e-2)]
    goals += [within(mine, limit)] if limit else []
    race(
        f"dcca_loss nuclear with gradient float32 {where.text(shape)}",
        [*_losses(truth), *(_row(truth, name, call, 1e-1, 1e-1) for name, call in theirs.items())],
        op="dcca",
        inputs=(x, y),
        goals=goals,
        params={"mode": "nuclear, with gradient", "dtype": "float32", "shape": where.text(shape)},
        clock=where.CLOCK,
        nbytes=2 * (x.nbytes + y.nbytes) if where.GPU else None,
    )


@pytest.mark.parametrize("shape", [(128, 10), (1024, 256)], ids=where.text)
def bench_dcca_squares(race: Callable[..., Any], shape: tuple[int, int]) -> None:
    """The sum of squared correlations, which is what cca-zoo computes."""
    x, y = _views(*shape)
    truth = Close(contenders.squares, REG, x, y)
    rows = _losses(truth, objective="fro2")
    rows.append(_row(truth, "plain, 2 x eigh", contenders.trained(contenders.squares), 1e-1, 1e-1))
    try:
        peer = _row(truth, "cca-zoo", contenders.trained(contenders.cca_zoo()), 1e-1, 1e-1)
    except ImportError as error:
        peer = Absent("cca-zoo", f"it cannot be imported: {error}", package="cca-zoo")
    race(
        f"dcca_loss fro2 with gradient float32 {where.text(shape)}",
        [*rows, peer],
        op="dcca",
        inputs=(x, y),
        params={"mode": "fro2, with gradient", "dtype": "float32", "shape": where.text(shape)},
    )


@pytest.mark.parametrize("shape", [(64, 128, 10), (256, 64, 16), (16, 256, 64)], ids=where.text)
def bench_dcca_batched(race: Callable[..., Any], shape: tuple[int, int, int]) -> None:
    """Many losses at once, against a loop and against the naive loss under vmap."""
    x, y = _views(*shape[1:], shape[0])

    def each(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        value = sum((contenders.naive(a, b, REG) for a, b in zip(x, y, strict=True)), x.new_zeros(()))
        return value, *torch.autograd.grad(value, (x, y))

    def mapped(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        value = torch.vmap(partial(contenders.naive, reg=REG))(x, y).sum()
        return value, *torch.autograd.grad(value, (x, y))

    def ours(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        value = nk.dcca_loss(x, y, reg=REG).sum()
        return value, *torch.autograd.grad(value, (x, y))

    exact = each(*(v.detach().double().requires_grad_() for v in (x, y)))

    def gate(found: Sequence[Tensor]) -> str | None:
        wrong = [f"{relative(a, b):.2g}" for a, b in zip(found, exact, strict=True) if not relative(a, b) < 1e-2]
        return f"relative errors {', '.join(wrong)}" if wrong else None

    race(
        f"dcca_loss of {where.text(shape)} with gradient float32",
        [*where.ours("dcca", x, ours), Row("naive, a loop", each), Row("naive, vmap", mapped)],
        op="dcca",
        inputs=(x, y),
        gate=gate,
        params={"mode": "nuclear, many", "dtype": "float32", "shape": where.text(shape)},
    )


@pytest.mark.parametrize("shape", [(128, 10), (1024, 256)], ids=where.text)
def bench_canonical_correlations(race: Callable[..., Any], shape: tuple[int, int]) -> None:
    """The correlations themselves, without gradients, as one reports them."""
    x, y = (v.detach() for v in _views(*shape))

    def plain(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        return (torch.linalg.svdvals(contenders._coherence(x, y, REG)),)

    race(
        f"canonical_correlations float32 {where.text(shape)}",
        [
            *where.ours("dcca", x, lambda x, y: (nk.canonical_correlations(x, y, reg=REG),)),
            Row("eigh + SVD", plain),
        ],
        op="canonical_correlations",
        inputs=(x, y),
        gate=PlainLevel(plain, x, y, ulps=64),
        params={"mode": "values", "dtype": "float32", "shape": where.text(shape)},
    )


# Whitening ----------------------------------------------------------------------------------------------------------


def _trained(call: Callable[..., Tensor]) -> Call:
    def run(x: Tensor, g: Tensor) -> tuple[Tensor, ...]:
        out = call(x)
        return out, *torch.autograd.grad(out, x, g)

    return run


@pytest.mark.proof
@pytest.mark.parametrize("method", ["zca", "cholesky"])
@pytest.mark.parametrize("shape", [(64, 256, 32), (1024, 128), (1024, 256)], ids=where.text)
def bench_whiten(race: Callable[..., Any], shape: tuple[int, ...], method: str) -> None:
    shape = (*where.small(shape[:-2]), 24, 6) if where.REHEARSAL else shape
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator) @ (torch.randn(shape[-1], shape[-1], generator=generator) / 8)
    x, g = x.to(DEVICE).requires_grad_(), torch.randn(shape, generator=generator).to(DEVICE)
    plain = _trained(partial(contenders.whitened if method == "zca" else contenders.decorrelated, eps=EPS))
    race(
        f"whiten {method} with gradient float32 {where.text(shape)}",
        [
            *where.ours("whiten", x, _trained(partial(nk.whiten, method=method, eps=EPS))),
            Row("plain, eigh" if method == "zca" else "plain, Cholesky", plain),
        ],
        op="whiten",
        inputs=(x, g),
        gate=PlainLevel(plain, x, g, ulps=64),
        params={"mode": f"{method}, with gradient", "dtype": "float32", "shape": where.text(shape)},
    )


# Losses of self-supervised learning ---------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["vicreg", "barlow_twins"])
@pytest.mark.parametrize("shape", [(256, 64), (1024, 512)], ids=where.text)
def bench_redundancy(race: Callable[..., Any], shape: tuple[int, int], loss: str) -> None:
    x, y = _views(*shape)
    ours, plain = getattr(nk, f"{loss}_loss"), getattr(contenders, loss)

    def run(call: Callable[..., Tensor], x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        value = call(x, y)
        return value, *torch.autograd.grad(value, (x, y))

    torch.compiler.reset()
    race(
        f"{loss}_loss with gradient float32 {where.text(shape)}",
        [
            *where.ours("covariance", x, partial(run, ours)),
            Row("plain", partial(run, plain)),
            Row("compiled", partial(run, torch.compile(plain, dynamic=False)), limit=COMPILE_LIMIT),
        ],
        op=f"{loss}_loss",
        inputs=(x, y),
        gate=PlainLevel(partial(run, plain), x, y, ulps=64),
        params={"mode": "with gradient", "dtype": "float32", "shape": where.text(shape)},
    )
