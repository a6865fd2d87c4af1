"""The sweep of the maze trainer: populations share nothing but the settings."""

from pathlib import Path

from rich.console import Console

from neurokernels.trainers.maze.results import collect
from neurokernels.trainers.maze.settings import Settings
from neurokernels.trainers.maze.trainer import train
from neurokernels.trainers.sweep import Sweep, Train


def run_all(settings: Settings, out: Path, console: Console) -> None:
    """Evolves every population that is not finished yet. See `neurokernels.trainers.sweep.Sweep.run`."""
    Sweep("maze", settings, prepare, collect).run(out, console)


def prepare(settings: Settings) -> Train:
    """Has nothing to load."""
    return lambda run, folder, console: train(settings, run, folder, console)
