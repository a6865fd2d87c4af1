"""Similarity losses: ours against the same loss in plain PyTorch, value and gradient, time and peak memory.

Peak memory is that of one call in a process of its own, beyond what it has before the call.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

import neurokernels as nk
import neurokernels.ops.rsa  # enters the ops in the table of backends
from benchmarks import where
from benchmarks.spectrum_truth import PlainLevel
from neurokernels.bench import Row, at_most, faster, within
from neurokernels.ops.rsa import loss_cpu

DEVICE, OURS = where.DEVICE, where.OURS[0]
UNITS, NEURONS, EPS = 512, 300, 1e-5
IMAGES = (1024, 4096, 16384)
#: Times as fast as plain PyTorch, with 4096 images.
GOALS = {"li2019": 4.0, "pearson": 7.0, "cka": 7.0}
MEGABYTES = 64
#: Of 65,536 images on a GPU: seconds, and megabytes beside inputs and gradients.
GPU_LIMIT, GPU_MEGABYTES = 60e-3, 1024

Loss = Callable[[Tensor, Tensor], Tensor]


# What plain PyTorch does ----------------------------------------------------------------------------------------------


def _unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=-1, keepdim=True)


def _gram(v: Tensor) -> Tensor:
    u = _unit(v - v.mean(0))
    return u @ u.mT


def plain_li2019(x: Tensor, t: Tensor) -> Tensor:
    """The loss of Li et al. 2019, over the upper triangle."""
    u = _unit(x)
    s, n = u @ u.mT, len(x)

    def odds(a: Tensor) -> Tensor:
        return torch.log(1 + a + EPS) - torch.log(1 - a + EPS)

    return (odds(s) - odds(t)).square().triu(1).sum() / (n * (n - 1) / 2)


def plain_pearson(x: Tensor, t: Tensor) -> Tensor:
    """1 minus the correlation over pairs, by sums over matrices whose diagonals are masked: no pair is gathered."""
    u, n = _unit(x), len(x)
    off = 1 - torch.eye(n, dtype=x.dtype, device=x.device)
    pairs = n * (n - 1)
    s, t = (u @ u.mT) * off, t * off
    s, t = ((a - a.sum() / pairs) * off for a in (s, t))
    return 1 - (s * t).sum() / (s.norm() * t.norm())


def plain_cka(x: Tensor, v: Tensor) -> Tensor:
    """1 minus linear CKA, by N x N kernels."""
    x, v = x - x.mean(0), v - v.mean(0)
    k, t = x @ x.mT, v @ v.mT
    return 1 - (k * t).sum() / (k.norm() * t.norm())


def plain_cka_of_units(x: Tensor, v: Tensor) -> Tensor:
    """1 minus linear CKA as Kornblith et al. 2019 write it for fewer units than images: D x D matrices."""
    x, v = x - x.mean(0), v - v.mean(0)
    return 1 - (v.mT @ x).square().sum() / ((x.mT @ x).norm() * (v.mT @ v).norm())


#: Of every loss: plain rows by name, and ours; of activations and a dense target or responses.
CASES: dict[str, tuple[dict[str, Loss], Loss]] = {
    "li2019, dense": ({"plain": plain_li2019}, lambda x, t: nk.rsa_loss(x, t)),
    "li2019, responses": (
        {"plain": lambda x, v: plain_li2019(x, _gram(v))}, lambda x, v: nk.rsa_loss(x, responses=v)
    ),
    "pearson, dense": ({"plain": plain_pearson}, lambda x, t: nk.rsa_loss(x, t, form="pearson")),
    "pearson, responses": (
        {"plain": lambda x, v: plain_pearson(x, _gram(v))}, lambda x, v: nk.rsa_loss(x, responses=v, form="pearson")
    ),
    "cka, responses": ({"plain": plain_cka, "plain, by units": plain_cka_of_units}, lambda x, v: 1 - nk.cka(x, v)),
}  # fmt: skip


def inputs(case: str, n: int) -> tuple[Tensor, Tensor]:
    """Activations, and responses that share something with them, or their similarities."""
    draw = partial(torch.randn, generator=torch.Generator().manual_seed(0))
    units, neurons = where.small((UNITS, NEURONS))
    x = draw(n, units)
    v = draw(n, neurons) + x[:, :neurons]
    return x.to(DEVICE).requires_grad_(), (v if "responses" in case else _gram(v)).to(DEVICE)


def trained(loss: Loss, x: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """The loss and its gradient."""
    value = loss(x, other)
    return value.detach(), torch.autograd.grad(value, x)[0]


# Memory ---------------------------------------------------------------------------------------------------------------


def measured(case: str, name: str, n: int) -> int:
    """Bytes at the peak of a call beyond those before it, of this process; a call of few images comes first."""
    plain, ours = CASES[case]
    run = partial(trained, ours if name == OURS else plain[name])
    with nk.backend(OURS if name == OURS else "auto"):
        x, other = inputs(case, n)
        run(*inputs(case, 64))
        if DEVICE == "cuda":
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            run(x, other)
            return torch.cuda.max_memory_allocated() - before
        with open("/proc/self/clear_refs", "w") as clear:
            clear.write("5")
        before = _status("VmRSS")
        run(x, other)
        return _status("VmHWM") - before


def _status(name: str) -> int:
    with open("/proc/self/status") as status:
        return int(next(line.split()[1] for line in status if line.startswith(name))) * 1024


def peak(case: str, name: str, n: int) -> dict[str, float]:
    """`measured`, on a CPU in a process of its own; torch keeps count of a GPU's memory."""
    if where.REHEARSAL:
        return {}
    if DEVICE == "cuda":
        return {"peak MB": measured(case, name, n) / 2**20}
    command = [sys.executable, "-m", "benchmarks.bench_rsa_loss", case, name, str(n)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return {"peak MB": json.loads(done.stdout) / 2**20}


# The race -------------------------------------------------------------------------------------------------------------


MARKED = [
    pytest.param(n, case, marks=[pytest.mark.proof] * (case in ("li2019, responses", "pearson, responses")))
    for n in IMAGES
    for case in CASES
]


@pytest.mark.parametrize(("n", "case"), MARKED)
def bench_rsa_loss(race: Callable[..., Any], n: int, case: str) -> None:
    n = where.small((n,), 16)[0]
    x, other = inputs(case, n)
    plain, ours = CASES[case]
    rows = where.ours("rsa_loss", x, partial(trained, ours), extra=partial(peak, case, OURS, n))
    rows += [Row(name, partial(trained, loss), extra=partial(peak, case, name, n)) for name, loss in plain.items()]
    goals = []
    if n == 4096 and not where.GPU:
        goals.append(faster(OURS, "plain", GOALS[case.split(",")[0]]))
        goals.append(at_most(OURS, "peak MB", MEGABYTES))
    race(
        f"{case} with gradient float32 {n}x{UNITS}",
        rows,
        op="rsa_loss",
        inputs=(x, other),
        gate=PlainLevel(partial(trained, next(iter(plain.values()))), x, other, ulps=256) if n <= 4096 else None,
        goals=goals,
        params={"mode": case, "dtype": "float32", "shape": f"{n}x{UNITS}"},
        rounds=(3, 20),
        flops=flops(case, n),
        product="tf32",
    )


def flops(case: str, n: int) -> float | None:
    """Operations of Li's loss and its gradient on a GPU: similarities of half of the pairs, and W U of all of them."""
    units, neurons = where.small((UNITS, NEURONS))
    return n * n * (3.0 * units + neurons) if where.GPU and case == "li2019, responses" else None


LARGE = ["pearson, responses", "cka, responses", *(["li2019, responses"] if where.GPU else [])]


@pytest.mark.proof
@pytest.mark.parametrize("case", LARGE[::-1])
def bench_rsa_loss_large(race: Callable[..., Any], case: str) -> None:
    """65,536 images: no N x N matrix would fit, and none is made."""
    n = where.small((65536,), 16)[0]
    x, other = inputs(case, n)
    goals = [at_most(OURS, "peak MB", GPU_MEGABYTES if where.GPU else 600)]
    goals += [within(OURS, GPU_LIMIT)] if case.startswith("li2019") else []
    race(
        f"{case} with gradient float32 65536x{UNITS}",
        [Row(OURS, partial(trained, CASES[case][1]), ours=True, scope=partial(nk.backend, OURS),
             extra=partial(peak, case, OURS, n))],
        op="rsa_loss",
        inputs=(x, other),
        goals=goals,
        params={"mode": case, "dtype": "float32", "shape": f"{n}x{UNITS}"},
        rounds=(2, 3),
        flops=flops(case, n),
        product="tf32",
    )  # fmt: skip


@pytest.mark.proof
@pytest.mark.parametrize("pairs", ["all", "disjoint"])
def bench_rsa_loss_small(race: Callable[..., Any], pairs: str) -> None:
    """32 images, as published: what counts is the overhead of a call."""
    x, other = inputs("li2019, dense", 32)
    i, j = (torch.arange(k, 32, 2) for k in (0, 1)) if pairs == "disjoint" else torch.triu_indices(32, 32, 1)
    i, j = i.to(DEVICE), j.to(DEVICE)

    def plain(x: Tensor, t: Tensor) -> Tensor:
        u = _unit(x)
        s, t = (u[i] * u[j]).sum(-1), t[i, j]
        return (torch.log((1 + s + EPS) / (1 - s + EPS)) - torch.log((1 + t + EPS) / (1 - t + EPS))).square().mean()

    ours = partial(trained, lambda x, t: nk.rsa_loss(x, t, pairs=pairs))
    race(
        f"li2019 of {pairs} pairs with gradient float32 32x{UNITS}",
        [Row(OURS, ours, ours=True, scope=partial(nk.backend, OURS)), Row("plain", partial(trained, plain))],
        op="rsa_loss",
        inputs=(x, other),
        gate=PlainLevel(partial(trained, plain), x, other, ulps=256),
        params={"mode": f"li2019, {pairs} pairs", "dtype": "float32", "shape": f"32x{UNITS}"},
    )


@contextmanager
def _tiles(size: int) -> Iterator[None]:
    """Tiles of another size."""
    before, loss_cpu.TILE = loss_cpu.TILE, size
    try:
        with nk.backend("cpu"):
            yield
    finally:
        loss_cpu.TILE = before


@pytest.mark.skipif(where.GPU, reason="tiles of the CPU")
def bench_rsa_loss_tiles(race: Callable[..., Any]) -> None:
    """How many images a tile should have."""
    x, other = inputs("li2019, dense", 4096)
    run = partial(trained, CASES["li2019, dense"][1])
    race(
        f"li2019, dense by size of tiles with gradient float32 4096x{UNITS}",
        [Row(f"tiles of {size}", run, ours=True, scope=partial(_tiles, size)) for size in (256, 512, 1024, 2048)],
        op="rsa_loss",
        inputs=(x, other),
        params={"mode": "li2019, tiles", "dtype": "float32", "shape": f"4096x{UNITS}"},
        rounds=(3, 20),
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(measured(sys.argv[1], sys.argv[2], int(sys.argv[3]))))
