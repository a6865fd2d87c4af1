"""Tests that need a CUDA GPU. Without one every test here is skipped, and the skip says so in pytest's summary.

``-p proof.plugin --rehearse`` runs those that use `cases` on the CPU: of the tests of every op and backend one each.
"""

from collections.abc import Iterator

import pytest
import torch

from tests.poison import poisoned

REHEARSED = ("test_every_kernel_gpu.py", "test_fuzz_gpu.py", "test_exchange_gpu.py", "test_searchlight_gpu.py")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    rehearse, seen, again = config.getoption("--rehearse", default=False), set(), []
    for item in items:
        if "gpu" not in item.path.parts:
            continue
        if not rehearse or item.path.name not in REHEARSED:
            item.add_marker(pytest.mark.skip(reason="NO CUDA GPU HERE: nothing in tests/gpu was run"))
            continue
        case = item.callspec.params["case"]
        kind = (item.function, getattr(case.op, "name", case.op), case.backend)
        again += [item] if kind in seen else []
        seen.add(kind)
    if again:
        config.hook.pytest_deselected(items=again)
        items[:] = [item for item in items if item not in again]


@pytest.fixture(autouse=True)
def _full_precision() -> Iterator[None]:
    """Products of float32 are of float32, and what a kernel leaves unwritten is NaN, or the largest integer."""
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = "ieee"
    try:
        with poisoned(warn_only=True):
            yield
    finally:
        torch.backends.cuda.matmul.fp32_precision = before
