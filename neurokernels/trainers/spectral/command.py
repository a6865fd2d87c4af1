"""The command ``neurokernels train spectral``: the networks of a sweep, then the picture and the table."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import tyro
from rich.console import Console

from neurokernels import backend, covariance_spectrum, explain
from neurokernels.bench.clocks import torch_threads
from neurokernels.data import load
from neurokernels.trainers import options
from neurokernels.trainers.run import RunError
from neurokernels.trainers.spectral.network import SMALLEST
from neurokernels.trainers.spectral.report import report
from neurokernels.trainers.spectral.settings import Settings
from neurokernels.trainers.spectral.sweep import run_all

#: Three networks of the paper's size; 120 steps at ten times its learning rate go about as far as its 1200.
_QUICK: dict[str, Any] = {
    "alphas": (1.0, 3.0), "strengths": (0.0, 1.0), "epochs": 3, "batch": 1500, "learning_rate": 1e-3, "every": 1,
    "attack_samples": 500,
}  # fmt: skip
_NETWORKS = 3
#: The digits are fewer than a batch of the paper.
_DIGITS: dict[str, Any] = {"data": "digits", "batch": 256}


def parse(arguments: Sequence[str]) -> Settings:
    """Settings from the command line; ``--quick`` and ``--data digits`` change the defaults of what is not given."""
    default = Settings()
    if "--quick" in arguments:
        default = replace(default, jobs=min(_NETWORKS, torch.get_num_threads()), **_QUICK)
    if "digits" in arguments or "--data=digits" in arguments:
        default = replace(default, **_DIGITS)
    return tyro.cli(Settings, args=list(arguments), default=default, prog="neurokernels train spectral")


def main(arguments: Sequence[str]) -> int:
    """Runs the command; returns its exit status.

    Raises:
        RunError, DataError: A setting, a folder or a data set cannot be used.
        BackendError: The backend that was asked for cannot run here.
        Interrupted: The sweep was asked to stop and has saved where it was.
    """
    settings, console = parse(arguments), Console()
    _check(settings)
    device = options.device(settings.device)
    settings = replace(settings, device=str(device))
    fewer: dict[str, Any] = {"epochs": 6 * settings.epochs, "every": 6} | _DIGITS
    settings, data = options.data_or_digits(load, settings, console, "mnist", **fewer)
    out = settings.out or options.new_folder(f"spectral-{settings.network}", settings.data)
    probe = torch.zeros(3, 2, device=device)
    with backend(settings.backend), torch_threads(settings.threads):
        covariance_spectrum(probe)  # what cannot run says so before a folder is made
        console.print(explain("spectrum", probe).splitlines()[0], highlight=False)
        run_all(settings, data, out, console)
        picture = report(out, console)
    console.print(f"\npicture: {picture}\nnumbers: {out / 'summary.md'}", highlight=False, soft_wrap=True)
    return 0


def _check(settings: Settings) -> None:
    """Refuses values that a type does not: before data are loaded and folders made."""
    options.at_least_one(
        settings, "epochs", "batch", "threads", "jobs", "width", "every", "pgd_steps", "attack_samples"
    )  # fmt: skip
    options.positive(settings, "learning_rate", "pgd_step_size")
    options.common(settings)
    for name in ("alphas", "strengths"):
        values = getattr(settings, name)
        if not values or min(values) < 0 or not math.isfinite(sum(values)) or len(set(values)) < len(values):
            raise RunError(f"--{name} must be different numbers from 0 on, got {' '.join(map(str, values)) or 'none'}")
    options.radii(settings, "fgsm", "pgd")
    if settings.network == "conv" and settings.data == "digits":
        raise RunError(f"--network conv needs images of at least {SMALLEST} pixels a side, got the digits' 8")
