"""Stimuli, and how alike they are: to a population that saw them, and in their pixels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from neurokernels.data import Dataset, Recording, gabor_population, load, recordings
from neurokernels.trainers import images as pictures
from neurokernels.trainers.evaluation import Images, evenly
from neurokernels.trainers.loop import Row
from neurokernels.trainers.run import RunError, RunFolder
from neurokernels.trainers.similarity.encoding import correlations, fit, noise, union
from neurokernels.trainers.similarity.settings import Run, Settings

_SEED = 0  # of the synthetic population and of the held-out stimuli, which are the same in every run
_SHUFFLE = 1 << 32  # seeds apart from those of the draws
_FILE = "population.pt"
#: What tables and pictures know of the population, beside ``results.jsonl``.
ABOUT = "population.json"
SHOWN = 40  # stimuli in the pictures of similarities


@dataclass(frozen=True)
class Population:
    """Stimuli and what is known of them; a similarity is the product of two rows.

    Attributes:
        stimuli: ``[N, 1, H, W]``, uint8.
        neural: ``[N, neurons]``, float32: predicted responses, weighted, centred and normed session by session.
        pixel: ``[N, H * W]``, float32: pixels, centred and normed.
        held_out: ``[N]``, bool: stimuli that nothing is learned from.
        sessions: A row for the tables per session.
    """

    stimuli: Tensor
    neural: Tensor
    pixel: Tensor
    held_out: Tensor
    sessions: list[Row]

    @property
    def names(self) -> tuple[str, ...]:
        """Of the sessions."""
        return tuple(row["name"] for row in self.sessions)

    def target(self, run: Run) -> Tensor | None:
        """The rows whose products a network of this run is pulled to; None where it is not."""
        if run.arm == "none":
            return None
        rows = self.pixel if run.arm == "pixel" else self.neural
        if run.arm == "shuffled":  # among those that are learned from, and among the others
            generator = torch.Generator().manual_seed(_SHUFFLE + run.seed)
            rows = rows.clone()
            for part in (self.held_out, ~self.held_out):
                places = part.nonzero()[:, 0]
                rows[places] = rows[places[torch.randperm(len(places), generator=generator)]]
        return rows

    def shown(self) -> Tensor:
        """Some held-out stimuli, in an order in which those that are alike to the neurons are close."""
        places = self.held_out.nonzero()[:, 0]
        places = places[evenly(SHOWN, len(places))]
        rows = self.neural[places].double()
        _, vectors = torch.linalg.eigh(rows @ rows.T)
        first = vectors[:, -1]
        return places[(first * first[first.abs().argmax()].sign()).argsort()]

    def about(self) -> Row:
        """For tables and pictures: the sessions, how similarities agree, and those of the stimuli that are shown."""
        shown, held_out = self.shown(), self.held_out
        alike = {name: condensed(rows[shown]) for name, rows in (("neural", self.neural), ("pixel", self.pixel))}
        return {
            "sessions": self.sessions, "stimuli": len(self.stimuli), "held_out": int(held_out.sum()),
            "neural_pixel": agreement(condensed(self.neural[held_out]), condensed(self.pixel[held_out])),
            "shown": {name: [round(value, 3) for value in values.tolist()] for name, values in alike.items()},
        }  # fmt: skip


@dataclass(frozen=True)
class Material:
    """What every network of a sweep learns from: grey images without those that a synthetic population saw."""

    images: Images
    population: Population


def condensed(rows: Tensor) -> Tensor:
    """Products of all pairs of rows, i < j row by row: ``[N (N - 1) / 2]``."""
    i, j = torch.triu_indices(len(rows), len(rows), 1, device=rows.device)
    return (rows @ rows.T)[i, j]


def agreement(x: Tensor, y: Tensor) -> float:
    """Pearson correlation of two condensed matrices."""
    return float(correlations(x.unsqueeze(1), y.unsqueeze(1)))


def unit(rows: Tensor) -> Tensor:
    """Rows without their mean, each with norm 1."""
    centred = rows.double() - rows.double().mean(0)
    return centred / centred.norm(dim=1, keepdim=True)


def prepare(settings: Settings, data: Dataset | None = None, console: Console | None = None) -> Material:
    """Loads images, and the population: the one that the sweep's folder keeps, or a new one, which it keeps then.

    Raises:
        DataError: One of them cannot be had.
        RunError: A recording cannot be used, or the folder keeps another population.
    """
    data = load(settings.data, settings.data_root) if data is None else data
    seen = None
    if settings.responses is None:  # also where no arm needs them: the images that are left are the same for every arm
        data, seen = pictures.set_apart(data, settings.stimuli)
    if settings.images is not None:
        data = pictures.some(data, evenly(settings.images, len(data.train_images)))
    images = Images(pictures.grey(data), torch.device(settings.device))
    population = _kept(settings)
    if population is None:
        found = _recorded(settings, images.shape[-1], seen)
        population = made(found, settings, console or Console(quiet=True))
        _keep(population, settings)
    return Material(images, population)


def _recorded(settings: Settings, side: int, seen: Tensor | None) -> list[Recording]:
    if seen is not None:
        return [gabor_population(seen, settings.neurons, seed=_SEED)]
    assert settings.responses is not None
    return recordings(settings.responses, settings.sessions or None, size=side)


def made(found: Sequence[Recording], settings: Settings, console: Console) -> Population:
    """The population of some recordings.

    Raises:
        RunError: Its responses do not vary, or nothing of them can be predicted.
    """
    images, rows = union(found)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(_SEED))
    held_out = torch.zeros(len(images), dtype=torch.bool)
    held_out[order[: round(settings.held_out * len(images))]] = True
    if min(int(held_out[row].sum()) for row in rows) < 2 or min(int((~held_out)[row].sum()) for row in rows) < 2:
        raise RunError(f"--held-out {settings.held_out} leaves a session less than two stimuli on one side")
    device = torch.device(settings.device)
    learned = fit(found, images.to(device), rows, held_out, settings.model_epochs, console)
    parts, sessions = [], []
    for recording, row, predicted, v in zip(found, rows, learned.predicted, learned.correlation, strict=True):
        w, source = noise(recording)
        weight = (w * v).nan_to_num(0).clamp(min=0)  # what cannot be predicted says nothing
        used = int((weight > 0).sum())
        if not used:
            raise RunError(f"recording {recording.name} cannot be used: none of its neurons can be predicted")
        part = unit(predicted.double() * weight)
        measured = unit(_scaled(recording.responses) * weight)
        test = held_out[row]
        agrees = agreement(condensed(measured[test]), condensed(part[row[test]]))
        parts.append(part)
        sessions.append(
            {
                "name": recording.name, "neurons": len(v), "used": used, "images": len(row), "noise": source,
                "w": float(w.mean()), "v": float(v.nan_to_num(0).mean()), "agreement": agrees,
            }
        )  # fmt: skip
    neural = torch.cat(parts, 1) / len(parts) ** 0.5  # products are means over the sessions
    stimuli = pictures.coloured(images, 1)
    pixel = unit(stimuli.flatten(1))
    return Population(stimuli, neural.float(), pixel.float(), held_out, sessions)


def _scaled(responses: Tensor) -> Tensor:
    values = responses.double()
    return (values - values.mean(0)) / values.std(0, correction=0)


def _asked(settings: Settings) -> dict[str, Any]:
    names = ("data", "population", "held_out", "model_epochs", "stimuli", "neurons")
    return {name: getattr(settings, name) for name in names}


def _keep(population: Population, settings: Settings) -> None:
    if settings.out is None:
        return
    RunFolder(settings.out).save({"asked": _asked(settings), "population": vars(population)}, _FILE)


def _kept(settings: Settings) -> Population | None:
    """The population that the folder of the sweep keeps, if any."""
    saved: Mapping[str, Any] | None = RunFolder(settings.out).load(_FILE) if settings.out is not None else None
    if saved is None:
        return None
    population, asked = Population(**saved["population"]), _asked(settings)
    differ = [name for name in asked if asked[name] != saved["asked"][name]]
    if settings.sessions and settings.sessions != population.names:
        differ.append("sessions")
    if differ:
        raise RunError(
            f"{settings.out} keeps a population with other {', '.join(differ)}: repeat what it was made with, or "
            "choose another folder with --out"
        )
    return population
