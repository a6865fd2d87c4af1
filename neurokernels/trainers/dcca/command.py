"""The command ``neurokernels train dcca``: the networks of a sweep, then the picture and the tables."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import tyro
from rich.console import Console

from neurokernels import backend, dcca_loss, explain
from neurokernels.bench.clocks import torch_threads
from neurokernels.data import load
from neurokernels.trainers import options
from neurokernels.trainers.dcca.network import BLOCKS
from neurokernels.trainers.dcca.report import report
from neurokernels.trainers.dcca.settings import Settings
from neurokernels.trainers.dcca.stimuli import described, prepare
from neurokernels.trainers.dcca.sweep import run_all
from neurokernels.trainers.run import RunError

#: Ten epochs on CIFAR-10 in which the small network comes to about 70 %.
_SMALL: dict[str, Any] = {
    "network": "small", "data": "cifar10", "epochs": 10, "learning_rate": 0.02, "schedule": "cosine",
    "hidden": (256, 256, 256),
}  # fmt: skip
#: A demonstration: three arms, some epochs on a part of the images, and weaker attacks.
_QUICK: dict[str, Any] = _SMALL | {
    "arms": ("none", "real", "shuffled"), "seeds": (0,), "images": 6000, "epochs": 3, "stimuli": 600,
    "attack_samples": 300, "fgsm": (0.01, 0.02), "pgd": (0.01,), "pgd_steps": 10, "pgd_step_size": 0.2,
}  # fmt: skip
_DIGITS: dict[str, Any] = {"data": "digits", "images": None, "stimuli": 400}


def parse(arguments: Sequence[str]) -> Settings:
    """Settings from the command line; presets and ``--data digits`` change the defaults of what is not given."""
    default = Settings()
    if "--quick" in arguments:
        default = replace(default, jobs=min(2, torch.get_num_threads()), **_QUICK)
    elif "small" in arguments or "--network=small" in arguments:
        default = replace(default, **_SMALL)
    if "digits" in arguments or "--data=digits" in arguments:
        default = replace(default, **_DIGITS)
    return tyro.cli(Settings, args=list(arguments), default=default, prog="neurokernels train dcca")


def main(arguments: Sequence[str]) -> int:
    """Runs the command; returns its exit status.

    Raises:
        RunError, DataError: A setting, a folder, a recording or a data set cannot be used.
        BackendError: The backend that was asked for cannot run here.
        Interrupted: The sweep was asked to stop and has saved where it was.
    """
    settings, console = parse(arguments), Console()
    _check(settings)
    device = options.device(settings.device)
    settings = replace(settings, device=str(device))
    settings, data = options.data_or_digits(load, settings, console, "cifar10", epochs=8 * settings.epochs, **_DIGITS)
    out = settings.out or options.new_folder(f"dcca-{settings.network}", settings.data)
    probe = torch.eye(4, 2, device=device)
    with backend(settings.backend), torch_threads(settings.threads):
        dcca_loss(probe, probe)  # what cannot run says so before a folder is made
        console.print(explain("dcca", probe, probe).splitlines()[0], highlight=False)
        material = prepare(settings, data)
        # the names are part of a run's numbers: a folder that gets further sessions is another experiment
        settings = replace(settings, sessions=tuple(found.name for found in material.recordings))
        console.print(f"responses: {described(material.recordings)}", highlight=False, soft_wrap=True)
        run_all(settings, material, out, console)
        picture = report(out, console)
    console.print(f"\npicture: {picture}\nnumbers: {out / 'summary.md'}", highlight=False, soft_wrap=True)
    return 0


def _check(settings: Settings) -> None:
    """Refuses values that a type does not: before data are loaded and folders made."""
    options.at_least_one(
        settings, "epochs", "batch", "images", "stem_stride", "dims", "components", "stimuli", "neurons", "jobs",
        "threads", "every", "pgd_steps", "attack_samples",
    )  # fmt: skip
    options.positive(settings, "learning_rate", "vicreg_strength", "pgd_step_size")
    options.common(settings)
    options.shares(settings, "mix", "held_out")
    options.shares(settings, "momentum", "dropout", zero=True)
    options.different(settings, "arms")
    if not 0 <= settings.weight_decay < float("inf"):
        raise RunError(f"--weight-decay must be from 0 on, got {settings.weight_decay}")
    if settings.pairs < 2:
        raise RunError(f"--pairs must be at least 2, got {settings.pairs}")
    if settings.hidden and min(settings.hidden) < 1:
        raise RunError(f"--hidden must be sizes from 1 on, got {' '.join(map(str, settings.hidden))}")
    options.radii(settings, "fgsm", "pgd")
    if settings.block not in BLOCKS[settings.network]:
        known = ", ".join(BLOCKS[settings.network])
        raise RunError(f"--block must be one of {known} for --network {settings.network}, got {settings.block}")
    if settings.sessions and settings.responses is None:
        raise RunError("--sessions needs --responses, the folder of the recordings")
