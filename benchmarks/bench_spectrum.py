"""Spectra: our eigensolver, covariance and regulariser against torch.linalg, plain PyTorch and torch.compile.

Gates are in ``benchmarks/spectrum_truth.py``, the networks and regularisers of the training steps in
``benchmarks/spectrum_training.py``.
"""

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

import pytest
import torch
from torch import Tensor

import neurokernels as nk
import neurokernels.ops.spectrum  # enters the ops in the table of backends
from benchmarks import where
from benchmarks.cupy_eigh import cupy_eigh
from benchmarks.spectrum_training import (
    NETWORKS,
    Batch,
    Exact,
    Fidelity,
    Learner,
    Nassar,
    batches,
    errors_along,
    network,
)
from benchmarks.spectrum_truth import LapackLevel, PlainLevel
from neurokernels.bench import Absent, Row, at_most, faster, within
from neurokernels.bench.results import TAX
from neurokernels.trainers.spectral.network import Classifier

DEVICE, OURS = where.DEVICE, where.OURS[0]
DTYPES = {"float32": torch.float32, "float64": torch.float64}
COMPILE_LIMIT = 120.0  # seconds
COUNT = 256
EIGH_GOALS = {8: 20.0, 16: 15.0, 32: 10.0, 64: 4.0}  # times as fast as torch.linalg.eigh, float32
GPU_LIMITS = {(256, 32): 40e-6, (256, 64): 150e-6, (500, 100): 1.5e-3}  # seconds, float32 with vectors
STEP_LIMIT = 100e-6  # seconds of a regulariser's value and gradient on a GPU
TAX_GOALS = {"784-2000-10": 0.25, "784-1000-1000-1000-10": 0.10}
TAX_ALPHA, TRACE_ALPHAS = 2.2, (2.2, 1.2)
ERROR_GOALS = {"alpha error": 1e-4, "gradient error": 1e-2}
STEPS, EVERY = 300, 20

Call = Callable[..., tuple[Tensor, ...]]


def _compiled(call: Callable[..., Tensor], mode: Callable[..., Call]) -> Row:
    torch.compiler.reset()  # each group compiles for itself, and none runs into the limit of recompilations
    return Row("compiled", mode(torch.compile(call, dynamic=False)), limit=COMPILE_LIMIT)


def _forward(call: Callable[..., Any]) -> Call:
    def run(x: Tensor, *_: Tensor) -> tuple[Tensor, ...]:
        out = call(x)
        return (out,) if isinstance(out, Tensor) else tuple(out)

    return run


def _trained(call: Callable[[Tensor], Tensor]) -> Call:
    def run(x: Tensor, g: Tensor) -> tuple[Tensor, ...]:
        out = call(x)
        return out, *torch.autograd.grad(out, x, g)

    return run


def _normal(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(DEVICE, dtype)


def _matrices(count: int, n: int, dtype: torch.dtype) -> Tensor:
    """Covariances of twice as many samples as features."""
    x = _normal((count, 2 * n, n), torch.float64)
    return (x.mT @ x / (2 * n)).to(dtype)


def _smooth(*shape: int) -> Tensor:
    """A gradient of eigenvalues in order that neighbours share: of a function that close eigenvalues do not upset."""
    return torch.linspace(1, 0, shape[-1], device=DEVICE).expand(shape).contiguous()


# Eigensolver --------------------------------------------------------------------------------------------------------

SIZES = [(COUNT, n, "float32") for n in EIGH_GOALS] + [(COUNT, 64, "float64")]
SIZES += [(500, 100, "float32")] if where.GPU else []
EIGH = [
    pytest.param(mode, *size, marks=[pytest.mark.proof] * (mode == "vectors" and size[2] == "float32"))
    for mode in ("vectors", "values")
    for size in SIZES
]


@pytest.mark.parametrize(("mode", "count", "n", "dtype"), EIGH)
def bench_eigh(race: Callable[..., Any], mode: str, count: int, n: int, dtype: str) -> None:
    limit = GPU_LIMITS.get((count, n)) if (mode, dtype) == ("vectors", "float32") and where.GPU else None
    wanted = EIGH_GOALS.get(n) if (mode, dtype) == ("vectors", "float32") and not where.GPU else None
    count, n = where.small((count, n))
    a = _matrices(count, n, DTYPES[dtype])
    ours, theirs = (nk.eigh, torch.linalg.eigh) if mode == "vectors" else (nk.eigvalsh, torch.linalg.eigvalsh)
    run = {"ours": _forward(ours), "torch": _forward(theirs)}
    gate = LapackLevel(a, run["torch"](a))
    rows: list[Row | Absent] = [
        *where.ours("eigh", a, run["ours"], extra=lambda: gate.errors(run["ours"](a))),
        Row("torch.linalg", run["torch"], extra=lambda: gate.errors(run["torch"](a)), captures=False),
    ]
    if where.GPU and mode == "vectors":
        rows.append(cupy_eigh())
    goals = [faster(where.mine("eigh"), "torch.linalg", wanted)] if wanted else []
    goals += [within(where.mine("eigh"), limit)] if limit else []
    shape = where.text(a.shape)
    race(
        f"eigh {mode} {dtype} {shape}", rows, op="eigh", inputs=(a,), gate=gate, goals=goals,
        params={"mode": mode, "dtype": dtype, "shape": shape}, clock=where.CLOCK,
        nbytes=a.nbytes * (2 if mode == "vectors" else 1) + count * n * a.element_size() if where.GPU else None,
    )  # fmt: skip


@pytest.mark.parametrize("n", EIGH_GOALS)
def bench_eigvalsh_with_gradient(race: Callable[..., Any], n: int) -> None:
    a = _matrices(COUNT, n, torch.float32)
    a, g = a.requires_grad_(), _smooth(COUNT, n)
    shape = where.text(a.shape)
    race(
        f"eigvalsh with gradient float32 {shape}",
        [
            *where.ours("eigh", a, _trained(nk.eigvalsh)),
            Row("torch.linalg", _trained(torch.linalg.eigvalsh)),
        ],
        op="eigh",
        inputs=(a, g),
        gate=PlainLevel(_trained(torch.linalg.eigvalsh), a, g),
        params={"mode": "values and their gradient", "dtype": "float32", "shape": shape},
    )


# Covariance ---------------------------------------------------------------------------------------------------------

SAMPLES = [(1500, 2000), (256, 128, 64), (100, 200, 32), (1500, 1000), (4096, 512)]
MARKED = [
    pytest.param(shape, marks=[pytest.mark.proof] * (shape in SAMPLES[:2]), id=where.text(shape)) for shape in SAMPLES
]


def _plain_covariance(x: Tensor) -> Tensor:
    centred = x - x.mean(-2, keepdim=True)
    return centred.mT @ centred / (x.shape[-2] - 1)


@pytest.mark.parametrize("mode", ["forward", "forward+backward"])
@pytest.mark.parametrize("shape", MARKED)
def bench_covariance(race: Callable[..., Any], shape: tuple[int, ...], mode: str) -> None:
    shape = where.small(shape)
    run, trains = (_forward, False) if mode == "forward" else (_trained, True)
    x, g = _normal(shape).requires_grad_(trains), _normal((*shape[:-2], shape[-1], shape[-1]))
    rows: list[Row | Absent] = [
        *where.ours("covariance", x, run(nk.covariance)),
        Row("plain", run(_plain_covariance)),
        *([] if where.REHEARSAL else [_compiled(_plain_covariance, run)]),
    ]
    if len(shape) == 2:
        rows.append(Row("torch.cov", run(lambda x: torch.cov(x.mT))))
    race(
        f"covariance {mode} float32 {where.text(shape)}",
        rows,
        op="covariance",
        inputs=(x, g),
        gate=PlainLevel(run(_plain_covariance), x, g),
        params={
            "mode": mode,
            "of": "many" if len(shape) > 2 else "one",
            "dtype": "float32",
            "shape": where.text(shape),
        },
        clock=where.CLOCK,
        flops=x.numel() * shape[-1] * (1 if mode == "forward" else 3) if where.GPU else None,  # half of C is the other
    )


# Spectrum -----------------------------------------------------------------------------------------------------------


def _plain_spectrum(x: Tensor) -> Tensor:
    """Of the covariance matrix, whatever N is."""
    return torch.linalg.eigvalsh(_plain_covariance(x)).flip(-1)[..., : min(x.shape[-2:])]


def _gram_spectrum(x: Tensor) -> Tensor:
    centred = x - x.mean(-2, keepdim=True)
    return torch.linalg.eigvalsh(centred @ centred.mT / (x.shape[-2] - 1)).flip(-1)


@pytest.mark.parametrize("shape", [(1500, 2000), (256, 64), (100, 64, 32)], ids=where.text)
def bench_covariance_spectrum(race: Callable[..., Any], shape: tuple[int, ...]) -> None:
    *batch, n, d = shape
    x, g = _normal(shape).requires_grad_(), _smooth(*batch, min(n, d))
    best = _gram_spectrum if n < d else _plain_spectrum
    rows: list[Row | Absent] = [
        *where.ours("spectrum", x, _trained(nk.covariance_spectrum)),
        Row("plain", _trained(_plain_spectrum)),
    ]
    if n < d:
        rows.append(Row("plain, Gram matrix", _trained(_gram_spectrum)))
    race(
        f"covariance_spectrum with gradient float32 {where.text(shape)}",
        rows,
        op="covariance_spectrum",
        inputs=(x, g),
        gate=PlainLevel(_trained(best), x, g),
        params={"mode": "exact, with gradient", "of": "many" if batch else "one", "shape": where.text(shape)},
    )


# Regulariser alone: what a GPU is asked for ---------------------------------------------------------------------------


@pytest.mark.proof
@pytest.mark.skipif(not where.GPU, reason="the goal is one of a GPU; on a CPU the tax of a step is raced")
@pytest.mark.parametrize("shape", [(1500, 2000), (1500, 1000)], ids=where.text)
def bench_regulariser_step(race: Callable[..., Any], shape: tuple[int, int]) -> None:
    """Value and gradient of the warm regulariser, of activations that stay; there is nothing to download."""
    shape = where.small(shape, 24)
    factors = _normal((shape[1], shape[1]), torch.float64)
    decay = torch.arange(1, shape[1] + 1, device=DEVICE, dtype=torch.float64) ** -0.5
    h = (_normal(shape, torch.float64) * decay @ torch.linalg.qr(factors).Q).float().tanh().requires_grad_()
    options = {"form": "gerum2023", "strength": 1.0} if where.REHEARSAL else {"strength": 1.0}
    modules = {name: nk.nn.SpectralRegularizer(TAX_ALPHA, **options).to(DEVICE) for name in where.mine("spectrum")}

    def run(penalty: Callable[[Tensor], Tensor], h: Tensor) -> tuple[Tensor, ...]:
        loss = penalty(h)
        return loss.detach(), *torch.autograd.grad(loss, h)

    exact = run(modules[where.names("spectrum")[0]], h)  # the first call of a state is exact

    def gate(found: Sequence[Tensor]) -> str | None:
        gap = float((found[1] - exact[1]).norm() / exact[1].norm())
        return None if gap < 0.1 else f"the gradient is {gap:.2g} from the exact one"

    rows: list[Row | Absent] = [
        replace(row, call=partial(run, modules[row.name])) if isinstance(row, Row) else row
        for row in where.ours("spectrum", h, run)
    ]
    if not where.REHEARSAL:
        rows.append(Row("exact torch", partial(run, Exact(TAX_ALPHA)), captures=False))
    race(
        f"regulariser alone, warm {where.text(shape)}", rows, op="regulariser_step", inputs=(h,), gate=gate,
        goals=[within(where.mine("spectrum"), STEP_LIMIT)], clock=where.CLOCK, nbytes=2 * h.nbytes,
        params={"mode": "value and gradient", "shape": where.text(shape)},
    )  # fmt: skip


# Regulariser --------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _mnist() -> list[Batch]:
    try:
        mnist = nk.data.load("mnist")
    except nk.data.DataError as error:
        pytest.skip(str(error))
    return batches(mnist.train_images, mnist.train_labels, DEVICE)


@lru_cache(maxsize=len(NETWORKS) * len(TRACE_ALPHAS))
def _followed(net: str, alpha: float) -> tuple[Learner, list[float], dict[str, list[float]]]:
    """A network after `STEPS` steps with our regulariser, and its errors on the way."""
    regulariser = nk.nn.SpectralRegularizer(alpha, strength=1.0).to(DEVICE)
    learner = Learner(network(net, DEVICE), _mnist(), regulariser)
    with nk.backend(OURS):
        return learner, *errors_along(learner, alpha, STEPS, EVERY)


def _plain(net: Classifier) -> Row:
    return Row("plain step", Learner(deepcopy(net), _mnist()))


def _regularised(name: str, net: Classifier, penalty: Any, **options: Any) -> Row:
    learner = Learner(deepcopy(net), _mnist(), penalty)
    gate = Fidelity(learner, TAX_ALPHA)

    def figures() -> dict[str, float]:
        seconds = {"s per epoch for V": penalty.seconds} if isinstance(penalty, Nassar) else {}
        return gate.errors | seconds

    return Row(name, learner, gate=gate, extra=figures, over="plain step", **options)


def _warm(net: Classifier, penalty: torch.nn.Module) -> Row:
    return _regularised(OURS, net, penalty, ours=True, scope=partial(nk.backend, OURS))


def _tax(race: Callable[..., Any], net: str, when: str, rows: list[Row]) -> None:
    """Rows take their steps in turn, on the same batches."""
    race(
        f"step of {net}, batch 1500, {when}",
        rows,
        op="regulariser",
        inputs=(_mnist()[0][0],),
        goals=[at_most(OURS, TAX, TAX_GOALS[net])],
        params={"mode": "training step", "network": net, "target": str(TAX_ALPHA), "when": when},
        rounds=(15, 15),
    )


@pytest.mark.parametrize("net", NETWORKS)
def bench_regulariser_tax(race: Callable[..., Any], net: str) -> None:
    """What a regulariser adds to a step at the beginning of a training."""
    start = network(net, DEVICE)
    ours = _warm(start, nk.nn.SpectralRegularizer(TAX_ALPHA, strength=1.0).to(DEVICE))
    theirs = [
        _regularised(name, start, kind(TAX_ALPHA)) for name, kind in (("exact torch", Exact), ("nassar2020", Nassar))
    ]
    _tax(race, net, "at the start", [ours, _plain(start), *theirs])


@pytest.mark.parametrize("net", NETWORKS)
def bench_regulariser_tax_later(race: Callable[..., Any], net: str) -> None:
    """The same when the exponent is near its target: there the warm solver may work harder, and the others do not."""
    learner = _followed(net, TAX_ALPHA)[0]
    rows = [_warm(learner.net, deepcopy(learner.penalty)), _plain(learner.net)]
    _tax(race, net, f"after {STEPS} steps", rows)


@pytest.mark.parametrize("alpha", TRACE_ALPHAS)
@pytest.mark.parametrize("net", NETWORKS)
def bench_regulariser_errors(follow: Callable[..., Any], net: str, alpha: float) -> None:
    """How far the warm regulariser is from float64 on the way of a training; on all threads, since it is not timed."""
    _, at, curves = _followed(net, alpha)
    follow(
        f"{net}, target {alpha}",
        op="regulariser",
        device=DEVICE,
        threads=torch.get_num_threads(),
        params={"network": net, "target": str(alpha)},
        axis="step",
        at=at,
        curves=curves,
        bounds=ERROR_GOALS,
    )
