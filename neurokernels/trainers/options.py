"""What the settings of all trainers share: checks that a type does not make, the device, the name of a new folder."""

import math
import time
from pathlib import Path
from typing import Any

import torch

from neurokernels._core.backends import NAMES
from neurokernels.trainers.run import RunError


def at_least_one(settings: Any, *names: str) -> None:
    """Refuses counts below 1. None, for the paper's value, passes."""
    for name in names:
        value = getattr(settings, name)
        if value is not None and value < 1:
            raise RunError(f"{_option(name)} must be at least 1, got {value}")


def positive(settings: Any, *names: str) -> None:
    """Refuses numbers that are not above 0, or not finite."""
    for name in names:
        if not 0 < getattr(settings, name) < math.inf:
            raise RunError(f"{_option(name)} must be above 0, got {getattr(settings, name)}")


def radii(settings: Any, *names: str) -> None:
    """Refuses sizes of attacks that are not in (0, 1]."""
    for name in names:
        if not all(0 < radius <= 1 for radius in getattr(settings, name)):
            got = " ".join(map(str, getattr(settings, name)))
            raise RunError(f"{_option(name)} must be in (0, 1], parts of the range of a pixel, got {got}")


def common(settings: Any) -> None:
    """Checks ``seeds``, ``backend``, ``out`` and ``resume``, which every trainer has."""
    seeds = settings.seeds
    if not seeds or min(seeds) < 0 or len(set(seeds)) < len(seeds):
        raise RunError(f"--seeds must be different numbers from 0 on, got {' '.join(map(str, seeds)) or 'none'}")
    if settings.backend not in NAMES:
        raise RunError(f"--backend must be one of {', '.join(NAMES)}, got {settings.backend!r}")
    if settings.resume and settings.out is None:
        raise RunError("--resume needs --out, the folder of the run to go on with")


def device(name: str) -> torch.device:
    """The device of that name; for ``auto`` a GPU if there is one.

    Raises:
        RunError: It cannot be used here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as why:
        raise RunError(f"--device {name} cannot be used: {str(why).splitlines()[0]}") from why


def new_folder(trainer: str, data: str) -> Path:
    """A folder below ``runs`` that says what and when."""
    return Path("runs") / time.strftime(f"{trainer}-{data}-%Y%m%d-%H%M%S")


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
