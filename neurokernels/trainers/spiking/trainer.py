"""Trains the digit network: steps, evaluation and schedule, around the shared loop."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Literal

import torch
from rich.console import Console
from torch import Tensor

from neurokernels.data import Dataset
from neurokernels.encoders import Events, poisson_events
from neurokernels.trainers.loop import Loop, Parts, Row
from neurokernels.trainers.run import RunFolder
from neurokernels.trainers.spiking.network import SpikingNet, loss_and_hits
from neurokernels.trainers.spiking.settings import Settings

_WHAT = ("loss", "accuracy")


class Learner(Parts):
    """A network with its optimiser and learning-rate schedule."""

    def __init__(self, net: SpikingNet, settings: Settings) -> None:
        self.net, self.monitor = net, settings.monitor
        self.optimiser = torch.optim.Adam(net.parameters(), lr=settings.learning_rate, eps=1e-7)  # Keras' epsilon
        # patience 6 is 7 in Keras, which counts the epoch that exhausts it
        mode: Literal["max", "min"] = "max" if settings.monitor == "test_accuracy" else "min"
        self.schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(
            self.optimiser, mode, factor=0.1, patience=6, threshold=1e-4, threshold_mode="abs"
        )

    def step(self, events: Events, labels: Tensor) -> tuple[Tensor, Tensor]:
        """One step of training; loss and share of correct answers before it."""
        self.optimiser.zero_grad(set_to_none=True)
        loss, hits = loss_and_hits(self.net(events), labels)
        loss.backward()
        self.optimiser.step()
        return loss.detach(), hits

    def parts(self) -> dict[str, Any]:
        """See `Parts`."""
        return {"net": self.net, "optimiser": self.optimiser, "schedule": self.schedule}


@dataclass
class Trained:
    """What a run leaves behind for the report."""

    seed: int
    history: list[Row]
    before: SpikingNet
    after: SpikingNet


def initial(settings: Settings, data: Dataset, seed: int, device: torch.device) -> SpikingNet:
    """The network of a seed before training; the same on every device."""
    generator = torch.Generator().manual_seed(seed)
    pixels = data.train_images[0].numel()
    return SpikingNet(pixels, settings.hidden, len(data.classes), settings.dt, generator).to(device)


class Encoder:
    """Shows images as Poisson spikes."""

    def __init__(self, settings: Settings, device: torch.device, seed: int) -> None:
        self.steps, self.rate, self.device = settings.steps, settings.dt, device
        self.generator = torch.Generator(device).manual_seed(seed)

    def __call__(self, images: Tensor) -> Events:
        """Spikes of uint8 images ``[B, H, W]``."""
        brightness = images.to(self.device).flatten(1).float() / 255
        return poisson_events(brightness, self.steps, rate=self.rate, generator=self.generator)


def evaluate(nets: Mapping[str, SpikingNet], encoder: Encoder, images: Tensor, labels: Tensor) -> dict[str, Row]:
    """Loss and accuracy of every network on the same spikes."""
    sums = {name: torch.zeros(2, dtype=torch.float64, device=encoder.device) for name in nets}
    with torch.no_grad():
        for some, answers in zip(images.split(500), labels.to(encoder.device).split(500), strict=True):
            events = encoder(some)
            for name, net in nets.items():
                sums[name] += torch.stack(loss_and_hits(net(events), answers)).double() * len(answers)
    return {
        name: {"test_loss": float(total[0]) / len(images), "test_accuracy": float(total[1]) / len(images)}
        for name, total in sums.items()
    }


def train(settings: Settings, data: Dataset, seed: int, folder: RunFolder, console: Console) -> Trained:
    """Trains the network of one seed, from its checkpoint if there is one.

    Raises:
        Interrupted: The run was asked to stop and has saved where it was.
    """
    torch.manual_seed(seed)  # nothing here draws from the global generator, but a user's own layer may
    device = torch.device(settings.device)
    net = initial(settings, data, seed, device)
    nets = {"fused": net, "plain": net.as_plain()} if settings.compare else {"fused": net}
    before = deepcopy(net)
    learners = {name: Learner(net, settings) for name, net in nets.items()}
    encoder = Encoder(settings, device, seed)
    train_labels = data.train_labels.to(device)

    def step(indices: Tensor) -> dict[str, Tensor]:
        events, labels = encoder(data.train_images[indices]), train_labels[indices.to(device)]
        found = {name: learner.step(events, labels) for name, learner in learners.items()}
        return {
            f"{name} {what}": value for name, pair in found.items() for what, value in zip(_WHAT, pair, strict=True)
        }

    def finish(epoch: int, means: Mapping[str, float]) -> list[Row]:
        # a generator of its own, so that testing leaves the training spikes as they are
        unseen = Encoder(settings, device, seed=1_000_000 * (seed + 1) + epoch)
        tested = evaluate(nets, unseen, data.test_images, data.test_labels)
        rows: list[Row] = []
        for name, learner in learners.items():
            trained = {f"train_{what}": means[f"{name} {what}"] for what in _WHAT}
            rate = learner.optimiser.param_groups[0]["lr"]
            rows.append({"network": name, **trained, **tested[name], "learning_rate": rate})
            learner.schedule.step(rows[-1][learner.monitor])
        return rows

    loop = Loop(
        folder, {**learners, "spikes": encoder.generator}, examples=len(data.train_images), batch=settings.batch,
        epochs=settings.epochs, seed=seed, checkpoint_seconds=settings.checkpoint_seconds,
    )  # fmt: skip
    if loop.restore():
        console.print(f"seed {seed}: going on after {len(loop.history) // len(nets)} full epochs", highlight=False)
    return Trained(seed, loop.run(step, finish, console), before, net)
