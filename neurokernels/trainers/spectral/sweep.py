"""The sweep of the spectral trainer: what its networks share is loaded once for each process."""

from pathlib import Path

import torch
from rich.console import Console

from neurokernels.data import Dataset, load
from neurokernels.trainers.evaluation import Images
from neurokernels.trainers.spectral.results import collect
from neurokernels.trainers.spectral.settings import Settings
from neurokernels.trainers.spectral.trainer import train
from neurokernels.trainers.sweep import Sweep, Train


def run_all(settings: Settings, data: Dataset, out: Path, console: Console) -> None:
    """Trains every network that is not finished yet. See `neurokernels.trainers.sweep.Sweep.run`."""
    Sweep("spectral", settings, prepare, collect).run(out, console, _on(settings, data))


def prepare(settings: Settings) -> Train:
    """Loads the images."""
    return _on(settings, load(settings.data, settings.data_root))


def _on(settings: Settings, data: Dataset) -> Train:
    images = Images(data, torch.device(settings.device))
    return lambda run, folder, console: train(settings, images, run, folder, console)
