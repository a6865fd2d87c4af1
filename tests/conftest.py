"""Hypothesis profiles, CUDA kernels that are emulated without a GPU, and a Triton interpreter in a hurry.

The same examples are drawn every time; ``--hypothesis-profile=long`` looks for new ones, forty times as many.
"""

import os

import torch
from hypothesis import HealthCheck, settings

from tests import emulator

_SLOW = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.differing_executors]
settings.register_profile(
    "default", max_examples=50, derandomize=True, database=None, deadline=None, suppress_health_check=_SLOW
)
settings.register_profile("long", deadline=None, max_examples=2000, suppress_health_check=_SLOW, print_blob=True)
settings.load_profile("default")


if not torch.cuda.is_available():
    emulator.install()

if os.environ.get("TRITON_INTERPRET") == "1":
    from tests import interpreter

    interpreter.hurry()
