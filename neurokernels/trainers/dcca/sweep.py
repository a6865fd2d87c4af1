"""The sweep of the DCCA trainer: images and recordings are loaded once for each process."""

from pathlib import Path

from rich.console import Console

from neurokernels.trainers.dcca import stimuli
from neurokernels.trainers.dcca.results import collect
from neurokernels.trainers.dcca.settings import Settings
from neurokernels.trainers.dcca.stimuli import Material
from neurokernels.trainers.dcca.trainer import train
from neurokernels.trainers.sweep import Sweep, Train


def run_all(settings: Settings, material: Material, out: Path, console: Console) -> None:
    """Trains every network that is not finished yet. See `neurokernels.trainers.sweep.Sweep.run`."""
    Sweep("dcca", settings, prepare, collect).run(out, console, _on(settings, material))


def prepare(settings: Settings) -> Train:
    """Loads images and recordings."""
    return _on(settings, stimuli.prepare(settings))


def _on(settings: Settings, material: Material) -> Train:
    return lambda run, folder, console: train(settings, material, run, folder, console)
