"""The sweep of the similarity trainer: images and the population are loaded once for each process."""

import json
from pathlib import Path

from rich.console import Console

from neurokernels.trainers.run import RunFolder
from neurokernels.trainers.similarity import population
from neurokernels.trainers.similarity.population import ABOUT, Material
from neurokernels.trainers.similarity.results import collect
from neurokernels.trainers.similarity.settings import Settings
from neurokernels.trainers.similarity.trainer import train
from neurokernels.trainers.sweep import Sweep, Train


def run_all(settings: Settings, material: Material, out: Path, console: Console) -> None:
    """Trains every network that is not finished yet. See `neurokernels.trainers.sweep.Sweep.run`."""
    RunFolder(out).write(ABOUT, (json.dumps(material.population.about()) + "\n").encode())
    Sweep("similarity", settings, prepare, collect).run(out, console, _on(settings, material))


def prepare(settings: Settings) -> Train:
    """Loads images, and the population from the folder of the sweep."""
    return _on(settings, population.prepare(settings))


def _on(settings: Settings, material: Material) -> Train:
    return lambda run, folder, console: train(settings, material, run, folder, console)
