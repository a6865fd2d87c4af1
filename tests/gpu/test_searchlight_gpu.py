"""Searchlights on GPU backends are those of the definition in float64, with every metric and comparator."""

from dataclasses import dataclass

import torch

import neurokernels as nk
from neurokernels._core import accuracy, backends
from neurokernels.ops.rsa.inference_leaves import METHODS, METRICS
from tests.gpu import coverage
from tests.gpu.cases import DEVICE, parametrised, placed
from tests.ops.test_searchlight import neighbours, patterns


@dataclass(frozen=True)
class Light:
    """A metric and a comparator on a backend."""

    backend: str
    metric: str
    method: str
    part: str = "rsa"
    op: str = "searchlight_rsa"

    def __str__(self) -> str:
        return f"{self.op}-{self.backend}-{self.metric}-{self.method}"


PAIRS = [*((metric, "pearson") for metric in METRICS), *(("correlation", method) for method in METHODS[1:])]
CASES = [Light(backend, *pair) for backend in coverage.of("searchlight_rsa") for pair in PAIRS]


@parametrised(CASES)
def test_searchlight(case: Light) -> None:
    conditions = 24 if DEVICE == "cuda" else 5
    models = torch.rand(3, conditions * (conditions - 1) // 2, generator=torch.Generator().manual_seed(0)).double()
    centres, options = neighbours(7, 12, 3, 7, 30), {"metric": case.metric, "method": case.method}

    def found(backend: str, dtype: torch.dtype, device: str) -> torch.Tensor:
        data = patterns(case.metric, conditions=conditions).to(dtype)
        there = [c.to(device) for c in centres]
        with nk.backend(backend), backends.record() as ran:
            out = nk.searchlight_rsa(placed(data).to(device), there, models.to(device, dtype), **options)
        assert ran == [("searchlight_rsa", backend)]
        return out.cpu()

    exact = found("reference", torch.float64, "cpu")
    for dtype in (torch.float32, torch.float64):
        # Ranks are a matter of rounding where two distances are nearly the same.
        floor = 2**18 if dtype == torch.float64 or case.method in METHODS[2:6] else 512
        got = found(case.backend, dtype, DEVICE)
        accuracy.check(got, found("reference", dtype, "cpu"), exact, ulps=floor, name=str(dtype))
        assert torch.equal(got, found(case.backend, dtype, DEVICE))
