"""Dissimilarity matrices: `neurokernels.rdm` against rsatoolbox, SciPy and plain PyTorch, in one run on one thread.

The plain rows are the usual code in its best form: patterns normalised once, one product, pairs taken by an index that
was made before. rsatoolbox and SciPy compute in float64 whatever they are given: they race our float64.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from typing import Any

import pytest
import torch
from torch import Tensor

import neurokernels as nk
import neurokernels.ops.rsa  # enters the op in the table of backends
from benchmarks import where
from neurokernels.bench import Absent, Row, faster

DEVICE = where.DEVICE
#: Errors relative to the largest entry that pass, of values and of gradients.
LEVEL = {torch.float32: 5e-6, torch.float64: 1e-10}

Call = Callable[..., tuple[Tensor, ...]]


def _patterns(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Noise about two hidden dimensions: correlations of all sizes."""
    draw = partial(torch.randn, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = draw(*shape) + draw(*shape[:-1], 2) @ draw(2, shape[-1])
    return x.to(DEVICE, dtype)


def _pairs(n: int) -> Tensor:
    i, j = torch.triu_indices(n, n, 1, device=DEVICE)
    return i * n + j


def plain(x: Tensor, pairs: Tensor, metric: str) -> Tensor:
    """One product of all patterns with all patterns."""
    if metric == "correlation":
        z = x - x.mean(-1, keepdim=True)
        z = z / torch.linalg.vector_norm(z, dim=-1, keepdim=True)
        return 1 - (z @ z.mT).flatten(-2).index_select(-1, pairs)
    squares = (x * x).sum(-1)
    d = squares[..., :, None] + squares[..., None, :] - 2 * (x @ x.mT)
    return d.flatten(-2).index_select(-1, pairs).clamp_min(0).sqrt()


def _gate(exact: Sequence[Tensor], level: float) -> Callable[[Any], str | None]:
    """Every result within a distance of float64."""

    def gate(found: Any) -> str | None:
        for name, a, e in zip(("value", "gradient"), found, exact, strict=False):
            error = float((a.detach().to(e).reshape(e.shape) - e).abs().max() / e.abs().max())
            if not error <= level:
                return f"{name}: relative error {error:.2g} where {level:.2g} is allowed"
        return None

    return gate


def _items(x: Tensor) -> Any:
    return x.cpu().double().reshape(-1, *x.shape[-2:]).numpy()


def _rsatoolbox(data: Callable[[Any, Tensor], list[Any]], **options: Any) -> Row | Absent:
    """A row of rsatoolbox on data sets that are made of the patterns, or why there is none."""
    try:
        dataset, calculate = import_module("rsatoolbox.data").Dataset, import_module("rsatoolbox.rdm").calc_rdm
    except ImportError as error:
        return Absent("rsatoolbox", f"it cannot be imported: {error}", package="rsatoolbox")

    def run(x: Tensor) -> tuple[Tensor, ...]:
        return (torch.tensor([calculate(one, **options).dissimilarities[0] for one in data(dataset, x)]),)

    return Row("rsatoolbox", run, package="rsatoolbox")


def _peers(shape: Sequence[int], metric: str) -> list[Row | Absent]:
    """Rsatoolbox and SciPy in float64, item by item."""
    rows: list[Row | Absent] = []
    if metric == "correlation":
        rows.append(_rsatoolbox(lambda data, x: [data(item) for item in _items(x)], method="correlation"))
    try:
        pdist = import_module("scipy.spatial.distance").pdist
    except ImportError as error:
        rows.append(Absent("SciPy pdist", f"it cannot be imported: {error}", package="scipy"))
    else:

        def scipys(x: Tensor) -> tuple[Tensor, ...]:
            return (torch.tensor([pdist(item, metric) for item in _items(x)]),)

        rows.append(Row("SciPy pdist", scipys, package="scipy"))
    return rows


def _name(value: Any) -> str:
    return where.text(value) if isinstance(value, tuple) else str(value)


CASES = [
    pytest.param(shape, dtype, metric, marks=[pytest.mark.proof] * ((dtype, metric) == (torch.float32, "correlation")))
    for shape in ((2000, 5000), (100, 200, 500), (100, 60, 100))
    for dtype in (torch.float32, torch.float64)
    for metric in ("correlation", "euclidean")
]


@pytest.mark.parametrize(
    ("shape", "dtype", "metric"), CASES, ids=lambda v: where.text(v) if isinstance(v, tuple) else str(v)
)
def bench_rdm(race: Callable[..., Any], shape: tuple[int, ...], dtype: torch.dtype, metric: str) -> None:
    """Pairs of patterns. The peers take part where they take seconds, and once: they have one dtype."""
    shape = where.small(shape)
    x, pairs = _patterns(shape, dtype), _pairs(shape[-2])
    exact = plain(x.double(), pairs, metric)
    kind = str(dtype).removeprefix("torch.")
    peers = _peers(shape, metric) if dtype == torch.float64 else []
    goals = [faster(where.mine("rdm"), "plain", 1.8)] if metric == "correlation" else []
    race(
        f"rdm {metric} {kind} {where.text(shape)}",
        [
            *where.ours("rdm", x, lambda x: (nk.rdm(x, metric=metric),)),
            Row("plain", lambda x: (plain(x, pairs, metric),)),
            *peers,
        ],
        op="rdm",
        inputs=(x,),
        gate=_gate([exact], LEVEL[dtype] if metric == "correlation" else 100 * LEVEL[dtype]),
        goals=goals,
        params={"mode": f"{metric}, values", "dtype": kind, "shape": where.text(shape)},
        clock=where.CLOCK,
        flops=x.numel() * shape[-2] if where.GPU else None,
        product="float64" if dtype == torch.float64 else "float32",
    )


@pytest.mark.proof
@pytest.mark.parametrize("shape", [(2000, 5000), (100, 200, 500)], ids=where.text)
def bench_rdm_gradient(race: Callable[..., Any], shape: tuple[int, ...]) -> None:
    """Correlations and the gradient of a weighted sum of them."""
    shape = where.small(shape)
    x, pairs = _patterns(shape, torch.float32).requires_grad_(), _pairs(shape[-2])
    g = torch.linspace(-1, 1, math.prod(shape[:-2]) * pairs.numel(), device=DEVICE).view(*shape[:-2], -1)

    def trained(call: Callable[[Tensor], Tensor], x: Tensor, g: Tensor) -> tuple[Tensor, ...]:
        d = call(x)
        return d, *torch.autograd.grad(d, x, g)

    usual = partial(trained, lambda x: plain(x, pairs, "correlation"))
    exact = [t.detach() for t in usual(x.detach().double().requires_grad_(), g.double())]
    race(
        f"rdm correlation with gradient float32 {where.text(shape)}",
        [*where.ours("rdm", x, partial(trained, nk.rdm)), Row("plain", usual)],
        op="rdm",
        inputs=(x, g),
        gate=_gate(exact, 2e-5),
        params={"mode": "correlation, with gradient", "dtype": "float32", "shape": where.text(shape)},
        clock=where.CLOCK,
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def bench_crossnobis(race: Callable[..., Any], dtype: torch.dtype) -> None:
    """200 conditions, 500 channels, four folds."""
    folds, n, d = 4, 200, 500
    x = _patterns((folds, n, d), dtype)
    kind = str(dtype).removeprefix("torch.")

    def usual(x: Tensor) -> tuple[Tensor, ...]:
        train = (x.sum(0) - x) / (folds - 1)
        k = (train.transpose(0, 1).flatten(1) @ x.transpose(0, 1).flatten(1).mT) / (folds * d)
        diagonal = k.diagonal()
        return ((diagonal[:, None] + diagonal - k - k.mT).flatten().index_select(0, pairs),)

    pairs = _pairs(n)
    labels = {"condition": list(range(n)) * folds, "fold": [f for f in range(folds) for _ in range(n)]}

    def measured(dataset: Any, x: Tensor) -> list[Any]:
        return [dataset(x.cpu().double().flatten(0, 1).numpy(), obs_descriptors=labels)]

    peer = _rsatoolbox(measured, method="crossnobis", descriptor="condition", cv_descriptor="fold")
    race(
        f"rdm crossnobis {kind} {folds}x{n}x{d}",
        [*where.ours("rdm", x, lambda x: (nk.rdm(x, metric="crossnobis"),)), Row("plain", usual), peer],
        op="rdm",
        inputs=(x,),
        gate=_gate(usual(x.double()), LEVEL[dtype]),
        goals=[faster(where.mine("rdm"), "rsatoolbox", 8.0)],
        params={"mode": "crossnobis", "dtype": kind, "shape": f"{folds}x{n}x{d}"},
    )
