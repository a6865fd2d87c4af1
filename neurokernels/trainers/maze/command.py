"""The command ``neurokernels train maze``: the populations of a sweep, then pictures and tables."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import tyro
from rich.console import Console

from neurokernels import backend, explain, maze_rollout
from neurokernels.bench.clocks import torch_threads
from neurokernels.evolution import Population
from neurokernels.trainers import options
from neurokernels.trainers.maze.labyrinths import held_out, training
from neurokernels.trainers.maze.report import report
from neurokernels.trainers.maze.settings import Settings
from neurokernels.trainers.maze.sweep import run_all
from neurokernels.trainers.run import RunError

#: Four populations in mazes that are learned in seconds.
_QUICK: dict[str, Any] = {
    "severances": (0.1,), "sparse": (), "noises": (), "l1s": (), "seeds": (0, 1), "generations": 60, "agents": 100,
    "mazes": 8, "size": 6, "steps": 120, "larger": (9,), "held_out": 128,
}  # fmt: skip
_AMOUNTS = {"severances": 1.0, "sparse": 1.0, "noises": 1.0, "l1s": math.inf}


def parse(arguments: Sequence[str]) -> Settings:
    """Settings from the command line; ``--quick`` changes the defaults of what is not given."""
    default = Settings()
    if "--quick" in arguments:
        default = replace(default, jobs=min(2, torch.get_num_threads()), **_QUICK)
    return tyro.cli(Settings, args=list(arguments), default=default, prog="neurokernels train maze")


def main(arguments: Sequence[str]) -> int:
    """Runs the command; returns its exit status.

    Raises:
        RunError: A setting or a folder cannot be used.
        BackendError: The backend that was asked for cannot run here.
        Interrupted: The sweep was asked to stop and has saved where it was.
    """
    settings, console = parse(arguments), Console()
    _check(settings)
    device = options.device(settings.device)
    settings = replace(settings, device=str(device))
    out = settings.out or options.new_folder("maze", f"{settings.size}x{settings.size}")
    with backend(settings.backend), torch_threads(settings.threads):
        _probe(settings, console)
        run_all(settings, out, console)
        pictures = report(out, console)
    names = "\n".join(f"picture: {picture}" for picture in pictures)
    console.print(f"\n{names}\nnumbers: {out / 'summary.md'}", highlight=False, soft_wrap=True)
    return 0


def _probe(settings: Settings, console: Console) -> None:
    """What cannot run says so before a folder is made."""
    device = torch.device(settings.device)
    train = training(settings.mazes, settings.size, 0)
    try:
        agent = Population.random(
            1, hidden=settings.hidden, recurrent=settings.recurrent, activation=settings.activation
        ).to(device)
        for size in settings.sizes:
            held_out(settings.held_out, size, apart_from=train)
        maze_rollout(agent, train.to(device), steps=1, mode=settings.mode)
    except ValueError as why:
        raise RunError(str(why)) from why
    console.print(explain("maze_rollout", agent.weights).splitlines()[0], highlight=False)


def _check(settings: Settings) -> None:
    """Refuses values that a type does not: before anything is computed and folders made."""
    options.at_least_one(
        settings, "generations", "agents", "mazes", "steps", "held_out", "every", "hidden", "jobs", "threads"
    )  # fmt: skip
    options.positive(settings, "gain", "mutation")
    options.common(settings)
    for name, most in _AMOUNTS.items():
        values = getattr(settings, name)
        if not all(0 < value <= most and value < math.inf for value in values) or len(set(values)) < len(values):
            span = "above 0" if most == math.inf else f"in (0, {most:g}]"
            raise RunError(f"--{name} must be different numbers {span}, got {' '.join(map(str, values))}")
    if not 0 < settings.elite <= 1:
        raise RunError(f"--elite must be in (0, 1], got {settings.elite}")
    if len(set(settings.sizes)) < len(settings.sizes) or min(settings.sizes) < 2:
        got = " ".join(map(str, settings.larger))
        raise RunError(f"--larger must be different sizes from 2 on, other than --size {settings.size}, got {got}")
