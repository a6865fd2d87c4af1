"""Shared by the tests of the maths."""

from collections.abc import Iterator

import pytest

from tests.poison import poisoned

BACKENDS = ("reference", "cpu", "triton")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    given = any("backend" in mark.args[0] for mark in metafunc.definition.iter_markers("parametrize"))
    if "backend" in metafunc.fixturenames and not given:
        metafunc.parametrize("backend", getattr(metafunc.module, "BACKENDS", BACKENDS))


@pytest.fixture(autouse=True)
def _poisoned() -> Iterator[None]:
    """What a kernel leaves unwritten is NaN, or the largest integer."""
    with poisoned():
        yield
