"""The compiled core: loaded at most once, with the reason where there is none, and how many threads it may use."""

import json
import os
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType

import torch  # before the core: its OpenMP calls then bind to torch's runtime, and both share one pool of threads

from neurokernels._version import __version__

_REBUILD = "install neurokernels again (in a source tree: pip install -e .)"
_LARGE = 4 << 20
_forked = False


def _after_fork() -> None:
    global _forked
    _forked = True


# An OpenMP region in a forked child waits for threads that only the parent has.
os.register_at_fork(after_in_child=_after_fork)


def build_reason(part: str) -> str | None:
    """Why a part of the build (``native`` or ``cuda``) was not made when neurokernels was installed; None if it was."""
    try:
        reasons: dict[str, str | None] = json.loads(Path(__file__).parents[1].joinpath("_build.json").read_text())
        return reasons[part]
    except FileNotFoundError:
        return f"it was never built: {_REBUILD}"


@cache
def _load() -> tuple[ModuleType | None, str | None]:
    if os.environ.get("NEUROKERNELS_NATIVE") == "0":
        return None, "NEUROKERNELS_NATIVE=0 switches the compiled core off"
    try:
        module = import_module("neurokernels._native")
    except ImportError as error:
        return None, build_reason("native") or f"the compiled core does not load ({error}): {_REBUILD}"
    if module.version != __version__:
        return None, f"the compiled core is of version {module.version}, the rest of {__version__}: {_REBUILD}"
    return module, None


def available() -> bool:
    """Whether the compiled core can be used."""
    return _load()[0] is not None


def reason() -> str | None:
    """Why the compiled core cannot be used, in a sentence; None if it can."""
    return _load()[1]


def core() -> ModuleType:
    """The compiled module.

    Raises:
        RuntimeError: There is none; the message says why.
    """
    module, why = _load()
    if module is None:
        raise RuntimeError(f"neurokernels has no compiled core here: {why}")
    return module


def fresh(*outputs: torch.Tensor) -> None:
    """Prepares large outputs that nobody has written to yet: see csrc/common/pages.h."""
    for tensor in outputs:
        if tensor.nbytes >= _LARGE:
            core().expect_large_pages(tensor.data_ptr(), tensor.nbytes)


def threads() -> int:
    """Threads for the next call into the core: as many as torch uses, one in a forked child."""
    return 1 if _forked else torch.get_num_threads()


def isa() -> str:
    """The instruction set of the kernels: ``x86-64-v4``, ``x86-64-v3`` or ``default``; ``none`` without a core."""
    module = _load()[0]
    return module.isa if module else "none"
