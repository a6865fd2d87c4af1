"""A small predictive model of a population, which knows its responses without their noise, and how reliable they are.

Convolutions that all neurons share, and for every neuron a mask over positions times weights over channels (Klindt et
al., "Neural system identification for large populations separating what and where", 2017). Responses are standardised;
their squared error is what the model is fitted by, on images that are not held out.

A neuron's weight in similarities is w v (Li et al. 2019): w = sigma / eta, the standard deviation of its mean responses
over images by that of single responses to one image, and v the correlation of prediction and response on held-out
images.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from rich.console import Console
from torch import Tensor, nn

from neurokernels.data import Recording
from neurokernels.trainers.evaluation import brightness
from neurokernels.trainers.loop import progress
from neurokernels.trainers.run import RunError

_CHANNELS = (16, 32, 32)
_BATCH, _RATE, _DECAY = 64, 3e-3, 1e-2
_MOST_REPEATS = 20  # that means of counts are taken for means of
_TOLERANCE = 1e-3  # of a whole number of spikes


class Noise(NamedTuple):
    """What is known of a session's noise.

    Attributes:
        weight: ``[neurons]`` float64, sigma / eta of every neuron; ones where nothing is known.
        source: ``repeats``, ``counts`` (Poisson's) or ``unknown``.
    """

    weight: Tensor
    source: str


def noise(recording: Recording) -> Noise:
    """Signal over noise of every neuron: from single repeats, or else from spike counts that were averaged.

    Counts vary as Poisson's do, and how many of them made an average shows in its fractions: the fewest repeats that
    leave whole counts of all neurons. Where neither helps nothing is known, and all neurons weigh the same. A neuron
    whose means vary no more than its noise does has no signal: 0.
    """
    averages = recording.responses.double()
    if recording.repeats is not None:
        repeats = recording.repeats.double()
        count = (~repeats.isnan()).sum(-1)
        within = (repeats - averages.unsqueeze(-1)).square().nansum(-1) / (count - 1)
        known = count > 1
        single = _mean(within, known)
        of_mean, source = _mean(within / count, known), "repeats"
    else:
        shown = averaged_from(averages)
        if shown is None:
            return Noise(torch.ones_like(averages[0]), "unknown")
        single = averages.mean(0)
        of_mean, source = (averages / shown.unsqueeze(1)).mean(0), "counts"
    signal = (averages.var(0) - of_mean).clamp(min=0)
    return Noise((signal / single).sqrt().nan_to_num(0), source)  # a silent neuron has neither


def _mean(values: Tensor, where: Tensor) -> Tensor:
    """Over images."""
    return values.where(where, 0).sum(0) / where.sum(0)


def averaged_from(averages: Tensor) -> Tensor | None:
    """How many counts each image's averages ``[N, neurons]`` are means of, ``[N]``; None where they cannot be that."""
    found = torch.zeros(len(averages), dtype=averages.dtype)
    for repeats in range(_MOST_REPEATS, 0, -1):
        spikes = averages * repeats
        whole = ((spikes - spikes.round()).abs() < _TOLERANCE).all(1)
        found[whole] = repeats
    return found if bool((found > 0).all() & (averages >= 0).all()) else None


class Model(nn.Module):
    """Predicts standardised responses of all neurons ``[B, neurons]`` to images ``[B, C, H, W]`` in [0, 1]."""

    def __init__(self, shape: tuple[int, int, int], neurons: int) -> None:
        super().__init__()
        channels, height, width = shape
        first, second, third = _CHANNELS
        self.core = nn.Sequential(
            nn.Conv2d(channels, first, 7, 2, 3), nn.BatchNorm2d(first), nn.ELU(),
            nn.Conv2d(first, second, 3, 1, 1), nn.BatchNorm2d(second), nn.ELU(), nn.AvgPool2d(2, ceil_mode=True),
            nn.Conv2d(second, third, 3, 1, 1), nn.BatchNorm2d(third), nn.ELU(),
        )  # fmt: skip
        places = -(-height // 4) * -(-width // 4)
        self.mask = nn.Parameter(1 / places + 0.01 * torch.randn(places, neurons))
        self.weight = nn.Parameter(0.02 * torch.randn(third, neurons))
        self.bias = nn.Parameter(torch.zeros(neurons))

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        features = self.core(4 * (images - 0.5)).flatten(2).mT
        predicted: Tensor = ((features @ self.weight) * self.mask).sum(1) + self.bias
        return predicted


def union(found: Sequence[Recording]) -> tuple[Tensor, list[Tensor]]:
    """Every image that a session has seen, once, ``[N, C, H, W]``; and for each session which ones, in its order."""
    places: dict[bytes, int] = {}
    images: list[Tensor] = []
    rows: list[Tensor] = []
    for recording in found:
        row = []
        for image in recording.images:
            at = places.setdefault(image.numpy().tobytes(), len(places))
            if at == len(images):
                images.append(image)
            row.append(at)
        rows.append(torch.tensor(row))
    return torch.stack(images), rows


class Fit(NamedTuple):
    """Predictions for all images.

    Attributes:
        predicted: ``[N, neurons]`` of every session, standardised.
        correlation: ``[neurons]`` of every session, float64: with the responses to held-out images; NaN where one of
            them does not vary.
    """

    predicted: list[Tensor]
    correlation: list[Tensor]


def fit(
    found: Sequence[Recording], images: Tensor, rows: Sequence[Tensor], held_out: Tensor, epochs: int, console: Console
) -> Fit:
    """Fits one model to all sessions; what it starts from and its order of images have a fixed seed.

    Args:
        found: The sessions.
        images: ``[N, C, H, W]``, uint8, on the device to train on.
        rows: Which of them each session has seen.
        held_out: ``[N]``, whether nothing is learned from an image.
        epochs: How often every other image is seen.
        console: Where progress is shown.

    Raises:
        RunError: Responses do not vary over the images to learn from.
    """
    device = images.device
    sizes = [recording.responses.shape[1] for recording in found]
    due = torch.full((len(images), sum(sizes)), torch.nan)
    for recording, row, some in zip(found, rows, due.split(sizes, 1), strict=True):
        some[row] = _standardised(recording, ~held_out[row])
    due = due.to(device)
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        model = Model((images.shape[1], images.shape[2], images.shape[3]), sum(sizes)).to(device)
    _learn(model, images, due, (~held_out).nonzero()[:, 0], epochs, console)
    with torch.no_grad():
        every = torch.cat([model(brightness(part)) for part in images.split(256)]).cpu()
    predicted = list(every.split(sizes, 1))
    correlation = [
        correlations(some[row[held_out[row]]], recording.responses[held_out[row]])
        for recording, row, some in zip(found, rows, predicted, strict=True)
    ]
    return Fit(predicted, correlation)


def _standardised(recording: Recording, known: Tensor) -> Tensor:
    values = recording.responses.double()
    mean, deviation = values[known].mean(0), values[known].std(0, correction=0)
    if not bool((deviation > 0).all()):
        silent = (~(deviation > 0)).nonzero()[:, 0].tolist()
        raise RunError(f"recording {recording.name} cannot be used: its neurons {silent} do not vary")
    return ((values - mean) / deviation).float()


def _learn(model: Model, images: Tensor, due: Tensor, chosen: Tensor, epochs: int, console: Console) -> None:
    read_out = [model.mask, model.weight, model.bias]
    groups: list[dict[str, Any]] = [{"params": list(model.core.parameters()), "weight_decay": _DECAY}]
    optimiser = torch.optim.AdamW([*groups, {"params": read_out, "weight_decay": 0.0}], lr=_RATE)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs * -(-len(chosen) // _BATCH))
    generator = torch.Generator().manual_seed(0)
    with progress(console) as bar:
        for _ in bar.track(range(epochs), description="predicting responses"):
            for batch in chosen[torch.randperm(len(chosen), generator=generator)].split(_BATCH):
                if len(batch) == 1:  # nothing to normalise by
                    continue
                answers = due[batch.to(due.device)]
                there = ~answers.isnan()
                error = torch.where(there, model(brightness(images[batch.to(images.device)])) - answers, 0)
                optimiser.zero_grad(set_to_none=True)
                (error.square().sum() / there.sum()).backward()
                optimiser.step()
                rate.step()
    model.eval()


def correlations(x: Tensor, y: Tensor) -> Tensor:
    """Of every column, float64; NaN where one does not vary."""
    x, y = (values.double() - values.double().mean(0) for values in (x, y))
    return (x * y).sum(0) / (x.square().sum(0) * y.square().sum(0)).sqrt()
