"""What the settings of all trainers share: checks that a type does not make, the device, the name of a new folder."""

import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from neurokernels._core.backends import NAMES
from neurokernels.data import DataError, Dataset
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


def shares(settings: Any, *names: str, zero: bool = False) -> None:
    """Refuses numbers that are not in (0, 1); with ``zero`` that are not in [0, 1)."""
    for name in names:
        value = getattr(settings, name)
        if not (0 <= value < 1 and (value or zero)):
            raise RunError(f"{_option(name)} must be in {'[' if zero else '('}0, 1), got {value}")


def different(settings: Any, name: str) -> None:
    """Refuses no values, and values that are there twice."""
    values = getattr(settings, name)
    if not values or len(set(values)) < len(values):
        raise RunError(f"{_option(name)} must be different ones, got {' '.join(map(str, values)) or 'none'}")


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


def data_or_digits(
    load: Callable[..., Dataset], settings: Any, console: Console, official: str, **digits: Any
) -> tuple[Any, Dataset]:
    """The data set of the settings; for ``--quick``, where nothing serves the official one, scikit-learn's digits.

    Args:
        load: `neurokernels.data.load`.
        settings: With ``data``, ``data_root`` and ``quick``.
        console: Which is told.
        official: The data set that the digits can stand in for.
        digits: What else changes with it.

    Raises:
        DataError: It cannot be had.
    """
    try:
        return settings, load(settings.data, settings.data_root)
    except DataError as why:
        if not settings.quick or settings.data != official:
            raise
        console.print(str(why), markup=False)
        name = {"cifar10": "CIFAR-10"}.get(official, official.upper())
        console.print(f"[bold]{name} cannot be had, so this run learns scikit-learn's small digits instead.[/bold]")
        return replace(settings, **digits), load("digits")


def new_folder(trainer: str, data: str) -> Path:
    """A folder below ``runs`` that says what and when."""
    return Path("runs") / time.strftime(f"{trainer}-{data}-%Y%m%d-%H%M%S")


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
