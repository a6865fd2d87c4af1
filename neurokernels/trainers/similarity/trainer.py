"""Trains one network of the sweep: steps and evaluation around the shared loop."""

import json
import math
from collections.abc import Mapping
from typing import Any

import torch
from rich.console import Console
from torch import Tensor
from torch.nn import functional as F

from neurokernels import rdm
from neurokernels.nn import SimilarityRegularizer
from neurokernels.trainers.evaluation import Attacks, Images, Noise, accuracy, brightness, evenly, smallest_changes
from neurokernels.trainers.images import augmented
from neurokernels.trainers.loop import Loop, Parts, Row
from neurokernels.trainers.results import result
from neurokernels.trainers.run import RunFolder
from neurokernels.trainers.similarity.network import TAPS, Tapped, build, statistics_kept
from neurokernels.trainers.similarity.population import Material, Population, agreement, condensed
from neurokernels.trainers.similarity.settings import Run, Settings

_SHIFT = 4  # pixels to each side
_TENTHS, _FALL = 10, 0.3


def rate(settings: Settings, done: float) -> float:
    """Factor on the learning rate when that share of training is done."""
    if settings.schedule == "cosine":
        return (1 + math.cos(math.pi * min(done, 1))) / 2
    return _FALL ** (int(min(done, 0.999) * _TENTHS + 1e-9) % (_TENTHS // 2))


class Learner(Parts):
    """A network, what pulls its similarities if anything does, and the optimiser of both."""

    def __init__(
        self, net: Tapped, settings: Settings, run: Run, population: Population, steps: int, draws: torch.Generator
    ) -> None:
        self.net, self.settings, self.draws = net, settings, draws
        device = next(net.parameters()).device
        self.regulariser = SimilarityRegularizer(
            layers=len(TAPS[settings.network]), strength=settings.alpha, scale=settings.scale, pairs=settings.pairs
        ).to(device)
        target = population.target(run)
        self.target = None if target is None else target[~population.held_out].to(device)
        self.stimuli = population.stimuli[~population.held_out].to(device)
        weights = [] if target is None else list(self.regulariser.parameters())
        self.optimiser = torch.optim.SGD(
            [*net.parameters(), *weights], lr=settings.learning_rate, momentum=settings.momentum, fused=True
        )
        self.rate = torch.optim.lr_scheduler.LambdaLR(self.optimiser, lambda step: rate(settings, step / steps))

    def step(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """One step of training; cross-entropy, share of correct answers and similarity loss before it."""
        self.optimiser.zero_grad(set_to_none=True)
        logits = self.net(images)
        loss = F.cross_entropy(logits, labels)
        seen = {"loss": loss.detach(), "accuracy": (logits.argmax(1) == labels).double().mean()}
        if self.target is not None:
            chosen = torch.randperm(len(self.stimuli), generator=self.draws)[: self.settings.per_step]
            chosen = chosen.to(self.stimuli.device)
            with statistics_kept(self.net):
                taps = self.net.taps(brightness(self.stimuli[chosen]))
            rows = self.target[chosen]
            loss = loss + self.regulariser(tuple(taps), rows @ rows.T)
            seen["similarity"] = self.regulariser.metrics()["loss"]
        loss.backward()
        self.optimiser.step()
        self.rate.step()
        return seen

    @torch.no_grad()
    def similarities(self, stimuli: Tensor) -> Tensor:
        """How alike uint8 stimuli are to the network, condensed ``[N (N - 1) / 2]``; centred among themselves."""
        self.net.eval()
        taps = self.net.taps(brightness(stimuli.to(self.stimuli.device)))
        self.net.train()
        weights = self.regulariser.logits.softmax(0)
        centred = ((h - h.mean((0, 2, 3), keepdim=True)).flatten(1) for h in taps)
        unlike = [rdm(h, metric="cosine") for h in centred]
        return 1 - (weights @ torch.stack(unlike)).cpu()

    def parts(self) -> dict[str, Any]:
        """See `Parts`."""
        return {"net": self.net, "regulariser": self.regulariser, "optimiser": self.optimiser, "rate": self.rate}


class Examiner:
    """Evaluates a network on the test images, and its similarities on held-out stimuli."""

    def __init__(self, settings: Settings, material: Material) -> None:
        images, self.population = material.images, material.population
        self.images, self.least_steps = images, settings.least_steps
        count = len(images.test_images)
        noisy = evenly(settings.noise_samples or count, count).to(images.device)
        self.noise = Noise(sorted(settings.noise), images.test_images[noisy], images.test_labels[noisy])
        chosen = evenly(settings.attack_samples, count).to(images.device)
        self.some, self.labels = brightness(images.test_images[chosen]), images.test_labels[chosen]
        steps = settings.pgd_steps, settings.pgd_step_size
        self.attacks = Attacks(sorted(settings.fgsm), sorted(settings.pgd), *steps, relative=True)

    def __call__(self, learner: Learner, *, full: bool) -> Row:
        """Clean accuracy and agreement of similarities on held-out stimuli; in full with noise and attacks."""
        net, population = learner.net, self.population
        held_out = population.held_out
        found = learner.similarities(population.stimuli[held_out])
        seen: Row = {"clean": accuracy(net, self.images.test_images, self.images.test_labels)}
        for name, rows in (("neural", population.neural), ("pixel", population.pixel)):
            seen[f"{name}_agreement"] = agreement(found, condensed(rows[held_out]))
        if full:
            seen |= self.noise(net) | self.attacks(net, self.some, self.labels)
            changes = smallest_changes(net, self.some, self.labels, self.least_steps)
            right = changes[changes > 0]
            seen["least"] = float(right.median()) if len(right) else 0.0
        return seen


def train(settings: Settings, material: Material, run: Run, folder: RunFolder, console: Console) -> Row:
    """Trains a network, from its checkpoint if there is one, and writes ``result.json`` at the end.

    Returns:
        The result: settings of the run, last evaluation, every evaluation before it, and what is alike to the network.

    Raises:
        Interrupted: The run was asked to stop and has saved where it was.
    """
    images: Images = material.images
    draws, changes = (torch.Generator().manual_seed(run.seed) for _ in range(2))
    net = build(settings.network, images.shape[0], images.classes, seed=run.seed).to(images.device)
    steps = settings.epochs * math.ceil(len(images.train_images) / settings.batch)
    learner = Learner(net, settings, run, material.population, steps, draws)
    examine = Examiner(settings, material)

    def step(indices: Tensor) -> dict[str, Tensor]:
        chosen = indices.to(images.device)
        batch = images.train_images[chosen]
        batch = augmented(batch, changes, _SHIFT) if settings.augment else batch
        return learner.step(brightness(batch), images.train_labels[chosen])

    def finish(epoch: int, means: Mapping[str, float]) -> list[Row]:
        row: Row = {f"train_{name}": value for name, value in means.items()}
        last = epoch == settings.epochs
        return [row | (examine(learner, full=last) if last or epoch % settings.every == 0 else {})]

    loop = Loop(
        folder, {"learner": learner, "draws": draws, "changes": changes}, examples=len(images.train_images),
        batch=settings.batch, epochs=settings.epochs, seed=run.seed, checkpoint_seconds=settings.checkpoint_seconds,
    )  # fmt: skip
    if loop.restore():
        console.print(f"{run.name}: going on after {len(loop.history)} full epochs", highlight=False)
    history = loop.run(step, finish, console)
    shown = learner.similarities(material.population.stimuli[material.population.shown()])
    ends = result(
        run.name, settings.numbers(run), history, "clean",
        losses=[round(row["train_similarity"], 5) for row in history if "train_similarity" in row],
        taps=[round(weight, 4) for weight in learner.regulariser.logits.softmax(0).tolist()],
        shown=[round(value, 3) for value in shown.tolist()],
    )  # fmt: skip
    folder.write("result.json", (json.dumps(ends) + "\n").encode())
    return ends
