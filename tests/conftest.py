"""Hypothesis profiles, CUDA kernels that are emulated without a GPU, and a Triton interpreter that takes half the time.

The same examples are drawn every time; ``--hypothesis-profile=long`` looks for new ones, forty times as many.
"""

import inspect
import os
from functools import cache
from typing import Any

import torch
from hypothesis import HealthCheck, settings

from tests import emulator

_SLOW = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.differing_executors]
settings.register_profile(
    "default", max_examples=50, derandomize=True, database=None, deadline=None, suppress_health_check=_SLOW
)
settings.register_profile("long", deadline=None, max_examples=2000, suppress_health_check=_SLOW, print_blob=True)
settings.load_profile("default")


def _remember_builtins() -> None:
    """Lets Triton's interpreter remember what it replaces.

    It searches its whole language for built-in functions whenever a kernel calls a function, which takes half its time.
    """
    from triton.language import core
    from triton.runtime import interpreter

    @cache
    def builtins(package: Any) -> list[tuple[str, Any]]:
        return [(name, member) for name, member in inspect.getmembers(package) if core.is_builtin(member)]

    def patch(package: Any, *how: Any) -> None:
        for name, member in builtins(package):
            if getattr(package, name) is member:
                interpreter._patch_attr(package, name, member, *how)

    for package in (interpreter.tl, interpreter.tl.core, interpreter.tl.math, interpreter.tl.tensor):
        builtins(package)
    interpreter._patch_builtin = patch


if not torch.cuda.is_available():
    emulator.install()

if os.environ.get("TRITON_INTERPRET") == "1":
    _remember_builtins()
