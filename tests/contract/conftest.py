"""Every promise is asked of every op, every sample and every backend: a test names which of the three it wants.

A module with ``THIN = True`` tests what does not depend on the kernels: not every pair of sample and backend is run.
One with ``ONE_IF_SLOW = True`` runs interpreted kernels with the sample in which everything is differentiable alone.
"""

from collections.abc import Iterator
from itertools import product

import pytest

from tests.contract.entries import OPS
from tests.contract.registry import Op, Sample
from tests.poison import poisoned


def _runs(op: Op, sample: Sample, backend: str, module: object) -> bool:
    """Whether a pair is tested: thin modules want each sample and each backend once, slow backends have two samples."""
    if getattr(module, "THIN", False):
        return backend == op.usual or sample is op.samples[0]
    tried = op.samples[1:2] if getattr(module, "ONE_IF_SLOW", False) else op.samples[:2]
    return backend not in op.slow or sample in tried


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    wants = metafunc.fixturenames
    if "op" not in wants:
        return
    names = [n for n in ("op", "sample", "smooth", "bad", "backend") if n in wants]
    cases = []
    for op in OPS:
        choices = {
            "op": (op,),
            "sample": op.samples,
            "smooth": tuple(s for s in op.samples if s.smooth),
            "bad": op.bad,
            "backend": op.backends,
        }
        for values in product(*(choices[n] for n in names)):
            given = dict(zip(names, values, strict=True))
            sample = given.get("sample") or given.get("smooth")
            if sample and "backend" in given and not _runs(op, sample, given["backend"], metafunc.module):
                continue
            cases.append(pytest.param(*values, id="-".join(v if isinstance(v, str) else v.name for v in values)))
    metafunc.parametrize(names, cases)


@pytest.fixture(autouse=True)
def _poisoned() -> Iterator[None]:
    """What a kernel leaves unwritten is NaN, or the largest integer, in every test of the contract."""
    with poisoned():
        yield
