"""The command ``neurokernels train similarity``: the networks of a sweep, then the picture and the tables."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import tyro
from rich.console import Console

from neurokernels import backend, explain, rsa_loss
from neurokernels.bench.clocks import torch_threads
from neurokernels.data import load
from neurokernels.trainers import options
from neurokernels.trainers.run import RunError
from neurokernels.trainers.similarity.population import Population, prepare
from neurokernels.trainers.similarity.report import report
from neurokernels.trainers.similarity.settings import Settings
from neurokernels.trainers.similarity.sweep import run_all

#: A network and a training that a laptop has time for.
_SMALL: dict[str, Any] = {
    "network": "small", "batch": 128, "epochs": 6, "schedule": "cosine", "alpha": 5.0, "pairs": "all",
}  # fmt: skip
#: A demonstration: all arms, two epochs on a part of the images, and weaker attacks.
_QUICK: dict[str, Any] = _SMALL | {
    "seeds": (0,), "images": 3000, "epochs": 2, "stimuli": 400, "neurons": 100, "model_epochs": 6,
    "noise_samples": 500, "attack_samples": 150, "fgsm": (0.008, 0.016), "pgd": (0.008,), "pgd_steps": 5,
    "pgd_step_size": 0.4, "least_steps": 20,
}  # fmt: skip
#: Digits are neither mirrored nor shifted by half their width.
_DIGITS: dict[str, Any] = {"data": "digits", "images": None, "stimuli": 400, "augment": False}


def parse(arguments: Sequence[str]) -> Settings:
    """Settings from the command line; presets and ``--data digits`` change the defaults of what is not given."""
    default = Settings()
    if "--quick" in arguments:
        default = replace(default, **_QUICK)  # one process: others would spend their time loading
    elif "small" in arguments or "--network=small" in arguments:
        default = replace(default, **_SMALL)
    if "digits" in arguments or "--data=digits" in arguments:
        default = replace(default, **_DIGITS)
    return tyro.cli(Settings, args=list(arguments), default=default, prog="neurokernels train similarity")


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
    settings, data = options.data_or_digits(load, settings, console, "cifar10", epochs=4 * settings.epochs, **_DIGITS)
    out = settings.out or options.new_folder(f"similarity-{settings.network}", settings.data)
    settings = replace(settings, out=out)
    probe = torch.eye(4, 2, device=device)
    with backend(settings.backend), torch_threads(settings.threads):
        rsa_loss(probe, probe @ probe.T)  # what cannot run says so before a folder is made
        console.print(explain("rsa_loss", probe, probe).splitlines()[0], highlight=False)
        material = prepare(settings, data, console)
        # the names are part of a run's numbers: a folder that gets further sessions is another experiment
        settings = replace(settings, sessions=material.population.names)
        console.print(f"responses: {described(material.population)}", highlight=False, soft_wrap=True)
        run_all(settings, material, out, console)
        picture = report(out, console)
    console.print(f"\npicture: {picture}\nnumbers: {out / 'summary.md'}", highlight=False, soft_wrap=True)
    return 0


def described(population: Population) -> str:
    """One line on the sessions."""
    return ", ".join(
        f"{row['name']} ({row['neurons']} neurons x {row['images']} images, predicted correlation {row['v']:.2f})"
        for row in population.sessions
    )


def _check(settings: Settings) -> None:
    """Refuses values that a type does not: before data are loaded and folders made."""
    options.at_least_one(
        settings, "epochs", "batch", "images", "model_epochs", "stimuli", "neurons", "jobs", "threads", "every",
        "noise_samples", "pgd_steps", "least_steps", "attack_samples",
    )  # fmt: skip
    options.positive(settings, "learning_rate", "alpha", "pgd_step_size")
    options.common(settings)
    options.shares(settings, "held_out")
    options.shares(settings, "momentum", zero=True)
    options.different(settings, "arms")
    if settings.per_step < 2 or settings.per_step % 2:
        raise RunError(f"--per-step must be an even number from 2 on, got {settings.per_step}")
    options.radii(settings, "noise", "fgsm", "pgd")
    if settings.sessions and settings.responses is None:
        raise RunError("--sessions needs --responses, the folder of the recordings")
