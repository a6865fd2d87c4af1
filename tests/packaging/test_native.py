"""How the package speaks of a compiled core that is there, absent, switched off or stale."""

import pytest

from neurokernels._version import __version__

SAY = """
from neurokernels._core import native
print(native.available(), native.isa(), native.reason(), sep="|")
try:
    native.core()
except RuntimeError as why:
    print(why)
"""


def says(tree, **env: str) -> tuple[list[str], str]:
    """Whether there is a core, its instruction set, and why there is none; then what `native.core` raises."""
    first, _, error = tree.python("-c", SAY, **env).strip().partition("\n")
    return first.split("|"), error


def test_a_core_switched_off(small):
    (available, isa, reason), error = says(small, NEUROKERNELS_NATIVE="0")
    assert (available, isa) == ("False", "none")
    assert "NEUROKERNELS_NATIVE=0" in reason
    assert error.endswith(reason)


def test_a_core_never_built(small):
    (available, isa, reason), error = says(small)
    assert (available, isa) == ("False", "none")
    assert "never built" in reason
    assert "pip install -e ." in reason
    assert error.endswith(reason)


def test_a_core_of_another_version(small):
    small.build()
    (small.package / "_version.py").write_text('__version__ = "9.9.9"\n')
    (available, isa, reason), error = says(small)
    assert (available, isa) == ("False", "none")
    assert __version__ in reason
    assert "9.9.9" in reason
    assert error.endswith(reason)


@pytest.mark.parametrize("content", [b"", b"\x7fELF not a library"], ids=["empty", "garbage"])
def test_a_core_that_does_not_load(small, content):
    small.build()
    small.library().unlink()
    small.library().write_bytes(content)
    (available, _, reason), _ = says(small)
    assert available == "False"
    assert "does not load" in reason
    assert small.library().name in reason
