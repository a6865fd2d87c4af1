"""Inference on RDMs: comparators, resamples and searchlights against rsatoolbox, and against plain PyTorch.

rsatoolbox takes seconds for a few dozen resamples, and makes no more of them: goals compare times per resample. It
computes in float64, whatever the title says of ours.
"""

import contextlib
import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

import neurokernels as nk
import neurokernels.ops.rsa  # enters the ops in the table of backends
from benchmarks import where
from neurokernels._core import backends
from neurokernels.bench import Absent, Row, RowResult, faster
from neurokernels.bench.goals import Goal, seconds

DEVICE = where.DEVICE
METHODS = {
    "pearson": "corr", "cosine": "cosine", "spearman": "spearman", "kendall": "kendall", "rho_a": "rho-a",
    "tau_a": "tau-a", "whitened_cosine": "cosine_cov", "whitened_pearson": "corr_cov",
}  # fmt: skip
#: Of these the definition compares all pairs of 4186 pairs, for every resample: minutes, and no contender.
SLOW = ("kendall", "tau_a")
IMAGES, SETS = 92, 8
#: Resamples of rsatoolbox, which takes seconds for them.
FEW = 20
CONDITIONS, CHANNELS, CENTRES = where.small((60, 100, 200), 8)

Gate = Callable[[Sequence[Tensor]], str | None]


def _ours(op: str, x: Tensor, call: Callable[..., Any], **options: Any) -> list[Row | Absent]:
    """Our backends, or the reason of one to stay away; the reference is the plain PyTorch row."""
    rows: list[Row | Absent] = []
    for row in backends.rows(op):
        if row.name == "reference" or (row.name not in where.OURS):
            continue
        reason = row.why_not(x)
        scope = partial(nk.backend, row.name)
        new = Absent(row.name, reason) if reason else Row(row.name, call, ours=True, scope=scope, **options)
        rows.append(new)
    plain = Row("reference, plain PyTorch", call, ours=True, scope=partial(nk.backend, "reference"), **options)
    return [*rows, plain]


def _peer(make: Callable[[], Callable[..., Tensor]], name: str = "rsatoolbox") -> Row | Absent:
    """rsatoolbox, without what it prints."""
    try:
        call = make()
    except ImportError as error:
        return Absent(name, f"it cannot be imported: {error}", package="rsatoolbox")

    def quiet(*given: Tensor) -> tuple[Tensor, ...]:
        with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return (call(*given),)

    return Row(name, quiet, package="rsatoolbox")


def _near(exact: Tensor, tolerance: float = 1e-10) -> Gate:
    def gate(found: Sequence[Tensor]) -> str | None:
        off = float((found[0].double() - exact.double()).abs().max())
        return None if off <= tolerance else f"off by {off:.2g}"

    return gate


def _rdms(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.rand(SETS, IMAGES * (IMAGES - 1) // 2, dtype=torch.float64, generator=generator) for _ in range(2))
    return a.to(DEVICE, dtype), (a + b).to(DEVICE, dtype)


def _counts(n: int) -> Tensor:
    draws = torch.randint(IMAGES, (n, IMAGES), generator=torch.Generator().manual_seed(1))
    return torch.zeros_like(draws).scatter_add_(1, draws, torch.ones_like(draws)).to(DEVICE)


@pytest.mark.parametrize("method", METHODS)
def bench_compare(race: Callable[..., Any], method: str) -> None:
    """8 x 8 RDMs of 92 images."""
    a, b = _rdms()

    def theirs() -> Callable[..., Tensor]:
        from rsatoolbox.rdm import RDMs, compare

        return lambda a, b: torch.tensor(compare(RDMs(a.numpy()), RDMs(b.numpy()), METHODS[method]))

    call = lambda a, b: (nk.compare_rdms(a, b, method=method),)
    rows = _ours("compare_rdms", a, call)
    if method in SLOW:
        rows = rows[:-1]
    race(
        f"compare_rdms {method} float64 {SETS}x{SETS} RDMs of {IMAGES}",
        [*rows, _peer(theirs)],
        op="compare_rdms",
        inputs=(a, b),
        gate=_near(call(a, b)[0]),
        params={"mode": method, "dtype": "float64", "shape": f"{SETS}x{SETS}x{IMAGES}"},
    )


def _bootstrap_rsatoolbox(method: str) -> Callable[..., Tensor]:
    from rsatoolbox.rdm import RDMs, compare

    def run(a: Tensor, b: Tensor, counts: Tensor) -> Tensor:
        sets, found = [RDMs(v.numpy()) for v in (a, b)], []
        for count in counts[:FEW]:
            who = torch.arange(IMAGES).repeat_interleave(count).numpy()
            found.append(torch.tensor(compare(*(s.subsample_pattern("index", who) for s in sets), METHODS[method])))
        return torch.stack(found)

    return run


@pytest.mark.parametrize(
    ("method", "dtype"),
    [*((method, torch.float64) for method in METHODS), ("pearson", torch.float32), ("spearman", torch.float32)],
    ids=str,
)
def bench_bootstrap(race: Callable[..., Any], method: str, dtype: torch.dtype) -> None:
    """1000 resamples of 92 images; rsatoolbox, which makes them one by one, makes the first few of the same."""
    inputs, name = (*_rdms(dtype), _counts(1000)), str(dtype).removeprefix("torch.")
    call = lambda a, b, counts: (nk.bootstrap_rdms(a, b, counts=counts, method=method),)
    exact = call(*(v.double() if v.is_floating_point() else v for v in inputs))[0]
    few, tolerance = f"rsatoolbox, {FEW} of 1000", 1e-10 if dtype == torch.float64 else 1e-4
    peer = _peer(partial(_bootstrap_rsatoolbox, method), few)
    if isinstance(peer, Row):
        peer = replace(peer, gate=_near(exact[:FEW], tolerance))

    def ratio(rows: Mapping[str, RowResult]) -> float:
        return seconds(rows, few) / FEW / (seconds(rows, "cpu") / 1000)

    rows = _ours("bootstrap_rdms", inputs[0], call)
    race(
        f"bootstrap_rdms {method} {name} 1000 resamples, {SETS}x{SETS} RDMs of {IMAGES}",
        [*(rows[:-1] if method in SLOW else rows), peer],
        op="bootstrap_rdms",
        inputs=inputs,
        gate=_near(exact, tolerance),
        goals=[Goal("cpu against rsatoolbox: times as fast, per resample", ratio, 100)],
        params={"mode": f"{method}, 1000 resamples", "dtype": name, "shape": f"{SETS}x{SETS}x{IMAGES}"},
        rounds=(2, 5),
    )


def _searchlight_rsatoolbox(method: str, indices: Tensor) -> Callable[..., Tensor]:
    import numpy as np
    from rsatoolbox.inference import eval_fixed
    from rsatoolbox.model import ModelFixed
    from rsatoolbox.util.searchlight import evaluate_models_searchlight, get_searchlight_RDMs

    def run(data: Tensor, models: Tensor) -> Tensor:
        lists = list(indices.numpy())
        rdms = get_searchlight_RDMs(data.numpy(), np.arange(len(lists)), lists, np.arange(CONDITIONS), verbose=False)
        model = ModelFixed("model", models[0].numpy())
        found = evaluate_models_searchlight(rdms, model, eval_fixed, method=METHODS[method], n_jobs=1)
        return torch.tensor(np.array([float(np.squeeze(one.evaluations)) for one in found]))[:, None]

    return run


SEARCHLIGHTS = [
    pytest.param(method, dtype, marks=[pytest.mark.proof] * ((method, dtype) == ("pearson", torch.float32)))
    for method in ("pearson", "spearman", "whitened_cosine")
    for dtype in (torch.float32, torch.float64)
]


@pytest.mark.parametrize(("method", "dtype"), SEARCHLIGHTS, ids=str)
def bench_searchlight(race: Callable[..., Any], method: str, dtype: torch.dtype) -> None:
    """Correlation RDMs of 60 conditions over 100 channels, each compared with one model; 200 neighbourhoods a call."""
    generator, name = torch.Generator().manual_seed(0), str(dtype).removeprefix("torch.")
    indices = torch.stack([10 * i + torch.randperm(500, generator=generator)[:CHANNELS] for i in range(CENTRES)])
    channels = int(indices.max()) + 1
    data = torch.randn(CONDITIONS, channels, dtype=torch.float64, generator=generator).to(DEVICE, dtype)
    models = torch.rand(1, CONDITIONS * (CONDITIONS - 1) // 2, dtype=torch.float64, generator=generator).to(DEVICE)
    centres = indices.to(DEVICE)

    def call(data: Tensor, models: Tensor) -> tuple[Tensor, ...]:
        return (nk.searchlight_rsa(data, centres, models, method=method),)

    tolerance = 1e-10 if dtype == torch.float64 else 1e-5
    race(
        f"searchlight_rsa {method} {name} {CENTRES} x {CHANNELS} channels, {CONDITIONS} conditions",
        [*_ours("searchlight_rsa", data, call), _peer(partial(_searchlight_rsatoolbox, method, indices))],
        op="searchlight_rsa",
        inputs=(data, models),
        gate=_near(call(data.double(), models)[0], tolerance),
        goals=[faster(where.mine("searchlight_rsa"), "rsatoolbox", 50)],
        params={"mode": f"correlation, {method}", "dtype": name, "shape": f"{CENTRES}x{CONDITIONS}x{CHANNELS}"},
        rounds=(3, 20),
    )
