"""Stimuli and the responses to them: recordings that the user has, or a synthetic population that sees images."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from neurokernels.data import (
    Dataset,
    Recording,
    gabor_population,
    load,
    principal_components,
    recordings,
    zscore,
)  # fmt: skip
from neurokernels.trainers.dcca.settings import Run, Settings
from neurokernels.trainers.evaluation import Images, evenly
from neurokernels.trainers.images import coloured, set_apart, some
from neurokernels.trainers.run import RunError

_SEED = 0  # of the synthetic population, which is the same in every run as a recording is
_SHUFFLE = 1 << 32  # seeds apart from those of the split


@dataclass(frozen=True)
class Material:
    """What every network of a sweep learns from.

    Attributes:
        images: Images to learn, without those that a synthetic population saw.
        superclass: Of every class, ``[classes]``; None where the data set has none.
        recordings: Stimuli and responses, a recording per session.
    """

    images: Images
    superclass: Tensor | None
    recordings: list[Recording]


@dataclass(frozen=True)
class Session:
    """One recording as a network sees it.

    Attributes:
        stimuli: ``[N, C, H, W]``, uint8.
        responses: ``[N, dims]``, float32.
        train: Indices of the stimuli to learn from.
        held_out: Indices of the others.
    """

    stimuli: Tensor
    responses: Tensor
    train: Tensor
    held_out: Tensor


def prepare(settings: Settings, data: Dataset | None = None) -> Material:
    """Loads images and recordings.

    Raises:
        DataError: One of them cannot be had.
    """
    data = load(settings.data, settings.data_root) if data is None else data
    side = data.train_images.shape[-1]
    found: list[Recording] = []
    if settings.responses is not None:
        found = recordings(settings.responses, settings.sessions or None, size=side)
    else:  # also where no arm needs them: the images that are left are the same for every arm
        data, seen = set_apart(data, settings.stimuli)
        found = [gabor_population(seen, settings.neurons, seed=_SEED)]
    if settings.images is not None:
        data = some(data, evenly(settings.images, len(data.train_images)))
    images = Images(data, torch.device(settings.device))
    superclass = torch.tensor(data.superclass, device=images.device) if data.superclass else None
    channels = images.shape[0]
    return Material(images, superclass, [replace(r, images=coloured(r.images, channels)) for r in found])


def session(recording: Recording, run: Run, settings: Settings) -> Session:
    """A recording split for a run, its responses standardised and reduced by what is known of the training stimuli.

    Raises:
        RunError: There are too few stimuli, or responses that do not vary.
    """
    try:
        train, held_out = recording.split(settings.held_out, run.seed)
        responses = recording.responses
        if run.shuffled:
            generator = torch.Generator().manual_seed(_SHUFFLE + run.seed)
            responses = responses[torch.randperm(len(responses), generator=generator)]
        responses = zscore(responses, train)
        dims = min(settings.components, responses.shape[1], len(train) - 1)
        reduced = principal_components(responses, dims, train)
    except ValueError as why:
        raise RunError(f"recording {recording.name} cannot be used: {why}") from why
    device = torch.device(settings.device)
    return Session(*(part.to(device) for part in (recording.images, reduced, train, held_out)))


def described(found: Sequence[Recording]) -> str:
    """One line on the recordings."""
    return ", ".join(f"{r.name} ({r.responses.shape[1]} neurons x {len(r.images)} images)" for r in found)
