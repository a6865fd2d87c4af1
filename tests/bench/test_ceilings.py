"""Products of matrices as a ceiling, goals of which the best of several rows counts, and clocks that try no graph."""

import pytest
import torch

from neurokernels.bench import (
    Absent,
    Row,
    RowResult,
    at_least,
    at_most,
    bandwidth,
    ceilings,
    clocks,
    faster,
    race,
    within,
)
from neurokernels.bench.goals import Unmeasured
from neurokernels.bench.plots import _in_a_product
from neurokernels.bench.stats import Timing

CPU = torch.device("cpu")


def row(name, best=None, nbytes=None, ceiling=None, **extra):
    timing = None if best is None else Timing(best, best, 0.0, 1, 1)
    return RowResult(
        name, "absent" if best is None else "ok", timing=timing, nbytes=nbytes, ceiling=ceiling, extra=extra
    )


@pytest.fixture
def rate(monkeypatch):
    monkeypatch.setattr(ceilings, "product_rate", lambda name, device: {"tf32": 4e12}[name])


def test_operations_are_counted(rate):
    found = ceilings.counted(row("ours", 2.0, saved=3.0), 4e12, "tf32", CPU)
    assert found.extra == {"saved": 3.0, "TFLOP/s": 2.0, "of a tf32 product": 0.5}
    assert _in_a_product(found) == 1.0  # seconds at the ceiling
    gone = row("gone")
    assert ceilings.counted(gone, 4e12, "tf32", CPU) is gone
    assert _in_a_product(gone) is _in_a_product(row("plain", 1.0)) is _in_a_product(None) is None


def test_a_race_counts_operations(rate):
    x = torch.ones(8, 8)
    rows = [Row("product", lambda x: x @ x, ours=True), Absent("gone", "no")]
    group = race("products", rows, op="toy", inputs=(x,), flops=2 * 8**3, product="tf32", budget=0.01)
    extra = group.rows[0].extra
    assert extra["TFLOP/s"] * 1e12 == pytest.approx(2 * 8**3 / group.rows[0].timing.best)
    assert extra["of a tf32 product"] == pytest.approx(extra["TFLOP/s"] / 4)
    assert group.rows[1].extra == {}


@pytest.mark.parametrize("name", ceilings.PRODUCTS)
def test_products_are_measured(name, monkeypatch):
    monkeypatch.setitem(ceilings.SIZE, "cpu", 32)
    before = torch.backends.cuda.matmul.fp32_precision
    ceilings.product_rate.cache_clear()
    assert 1e6 < ceilings.product_rate(name, CPU) < 1e15
    ceilings.product_rate.cache_clear()
    assert torch.backends.cuda.matmul.fp32_precision == before


def test_the_best_of_several_rows_counts():
    rows = {
        r.name: r
        for r in (
            row("cuda", 2.0, nbytes=4.0, ceiling=4.0, rate=7.0), row("triton", 1.0, nbytes=1.0, ceiling=4.0, rate=5.0),
            row("peer", 6.0), row("gone"),
        )
    }  # fmt: skip
    both = ("cuda", "triton", "nobody")
    assert faster(both, "peer", 1).measure(rows) == 6.0
    assert faster("cuda", "peer", 1).measure(rows) == 3.0
    assert within(both, 1).measure(rows) == 1e6
    assert bandwidth(both, 1).measure(rows) == 0.25  # of the fastest, whatever another one reaches
    assert at_least(both, "rate", 1).measure(rows) == 7.0
    assert at_most(both, "rate", 1).measure(rows) == 5.0
    assert faster(both, "peer", 1).claim == "cuda or triton or nobody against peer: times as fast"
    for goal in (within(("gone", "nobody"), 1), at_least(("peer", "gone"), "rate", 1), bandwidth("peer", 1)):
        with pytest.raises(Unmeasured):
            goal.measure(rows)
        assert goal.judge(rows).measured is None


def test_no_graph_is_tried_of_what_works_behind_torchs_back(monkeypatch):
    tried = []
    monkeypatch.setattr(clocks, "_capture", tried.append)
    assert clocks.sampler("graph", print, [()], 1, captures=False)[0] == "events"
    assert not tried
    assert clocks.sampler("graph", print, [()], 1)[0] == "events"  # which found nothing that a graph can hold
    assert len(tried) == 1
