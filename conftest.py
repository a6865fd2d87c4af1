"""What every run of pytest shares: seeds, the choice of backends, and ``pytest --benchmark``."""

import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parent
BACKENDS = ("reference", "cpu", "triton", "cuda")

# Triton reads this when it is imported: without a GPU its kernels then run on the CPU, one program at a time.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("neurokernels")
    group.addoption("--benchmark", action="store_true", help="run benchmarks/ (bench_*.py) instead of the tests")
    group.addoption(
        "--benchmark-results",
        type=Path,
        default=ROOT / "benchmarks" / "results",
        metavar="DIR",
        help="where benchmark results are kept, one folder per machine (default: benchmarks/results)",
    )
    group.addoption(
        "--backend",
        action="append",
        choices=BACKENDS,
        help="of the tests that are made for one backend each, run those of this one (may be repeated)",
    )
    group.addoption(
        "--exhaustive",
        action="store_true",
        help="run every combination of options, not only the covering arrays (tests/covering.py)",
    )


def pytest_configure(config: pytest.Config) -> None:
    if not config.getoption("--benchmark"):
        return
    config.addinivalue_line("python_files", "bench_*.py")
    config.addinivalue_line("python_functions", "bench_*")
    if config.args_source is not pytest.Config.ArgsSource.ARGS:
        config.args = [str(ROOT / "benchmarks")]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    wanted, everything = config.getoption("--backend"), config.getoption("--exhaustive")

    def chosen(item: pytest.Item) -> bool:
        of_backend = not wanted or _backend(item) in (None, *wanted)
        return of_backend and (everything or not item.get_closest_marker("exhaustive"))

    others = [item for item in items if not chosen(item)]
    if others:
        config.hook.pytest_deselected(items=others)
        items[:] = [item for item in items if chosen(item)]


def _backend(item: pytest.Item) -> str | None:
    """The backend a test was made for: its parameter of that name."""
    return getattr(item, "callspec", None) and item.callspec.params.get("backend")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 (what seeds the libraries that still draw from it)
    torch.manual_seed(0)
