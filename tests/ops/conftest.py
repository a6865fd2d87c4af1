"""Shared by the tests of the maths."""

from collections.abc import Iterator

import pytest

from tests.poison import poisoned

BACKENDS = ("reference", "cpu", "triton")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "backend" in metafunc.fixturenames:
        metafunc.parametrize("backend", getattr(metafunc.module, "BACKENDS", BACKENDS))


@pytest.fixture(autouse=True)
def _poisoned() -> Iterator[None]:
    """What a kernel leaves unwritten is NaN, or the largest integer."""
    with poisoned():
        yield
