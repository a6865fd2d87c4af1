"""Trains one network of the sweep: steps and evaluation around the shared loop."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional as F

from neurokernels.nn import DCCARegularizer
from neurokernels.trainers.dcca.alignment import correlations
from neurokernels.trainers.dcca.network import Areas, build
from neurokernels.trainers.dcca.settings import Run, Settings
from neurokernels.trainers.dcca.stimuli import Material, Session, session
from neurokernels.trainers.evaluation import Attacks, Images, brightness, evenly, predictions, share
from neurokernels.trainers.images import augmented
from neurokernels.trainers.loop import Loop, Parts, Row
from neurokernels.trainers.results import result
from neurokernels.trainers.run import RunFolder

#: By evaluated epoch: ``train`` and ``held_out``, each a list of correlations per session.
Correlations = dict[str, dict[str, list[list[float]]]]


class Learner(Parts):
    """A network, a regulariser for each session if there are any, and the optimiser of all of them."""

    def __init__(
        self, net: Areas, settings: Settings, run: Run, sessions: Sequence[Session], steps: int, draws: torch.Generator
    ) -> None:
        self.net, self.settings, self.sessions, self.draws = net, settings, sessions, draws
        self.weight = 1.0 if run.arm == "none" else 1 - settings.mix
        self.regularisers = nn.ModuleList(_regulariser(net, settings, run, seen) for seen in sessions)
        groups: list[dict[str, Any]] = [
            {"params": list(net.parameters())},
            {"params": list(self.regularisers.parameters()), "weight_decay": settings.weight_decay},
        ]
        self.optimiser = torch.optim.SGD(
            groups if sessions else groups[:1], lr=settings.learning_rate, momentum=settings.momentum, fused=True
        )
        falls = settings.schedule == "cosine"
        self.rate = torch.optim.lr_scheduler.LambdaLR(
            self.optimiser, lambda step: (1 + math.cos(math.pi * min(step / steps, 1))) / 2 if falls else 1.0
        )

    def step(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """One step of training; cross-entropy, share of correct answers and alignment loss before it."""
        self.optimiser.zero_grad(set_to_none=True)
        logits = self.net(images)
        task = F.cross_entropy(logits, labels)
        seen = {"loss": task.detach(), "accuracy": (logits.argmax(1) == labels).double().mean()}
        loss = self.weight * task
        if self.sessions:
            alignment = self._alignment()
            seen["alignment"] = alignment.detach()
            loss = loss + self.settings.mix * alignment
        loss.backward()
        self.optimiser.step()
        self.rate.step()
        return seen

    def _alignment(self) -> Tensor:
        """The regulariser on some stimuli of one session; sessions take turns."""
        turn = self.rate.last_epoch % len(self.sessions)
        source, regulariser = self.sessions[turn], self.regularisers[turn]
        order = torch.randperm(len(source.train), generator=self.draws)[: self.settings.pairs]
        chosen = source.train[order.to(source.train.device)]
        h = self.net.until(self.settings.block, brightness(source.stimuli[chosen]))
        loss: Tensor = regulariser(h, source.responses[chosen])
        return loss

    def parts(self) -> dict[str, Any]:
        """See `Parts`."""
        return {"net": self.net, "regularisers": self.regularisers, "optimiser": self.optimiser, "rate": self.rate}


def _regulariser(net: Areas, settings: Settings, run: Run, seen: Session) -> DCCARegularizer:
    with torch.no_grad():
        features = net.until(settings.block, brightness(seen.stimuli[:1])).numel()
    regulariser = DCCARegularizer(
        settings.dims, features=(features, seen.responses.shape[1]), hidden=settings.hidden,
        dropout=settings.dropout, loss=run.loss or "dcca",
        strength=settings.vicreg_strength if run.loss == "vicreg" else 1.0,
    )  # fmt: skip
    return regulariser.to(seen.stimuli.device)


class Examiner:
    """Evaluates a network on the test images, and its projections on the stimuli."""

    def __init__(self, settings: Settings, images: Images, superclass: Tensor | None) -> None:
        chosen = evenly(settings.attack_samples, len(images.test_images)).to(images.device)
        self.images, self.superclass, self.block = images, superclass, settings.block
        self.some, self.labels = brightness(images.test_images[chosen]), images.test_labels[chosen]
        steps = settings.pgd_steps, settings.pgd_step_size
        self.attacks = Attacks(sorted(settings.fgsm), sorted(settings.pgd), *steps, relative=True)

    def __call__(self, learner: Learner, *, full: bool) -> tuple[Row, dict[str, list[list[float]]]]:
        """Clean, super-class and, in full, attacked accuracy, mean correlations; and all correlations."""
        answers, labels = predictions(learner.net, self.images.test_images), self.images.test_labels
        seen: Row = {"clean": share(answers == labels)}
        if self.superclass is not None:
            seen["super"] = share(self.superclass[answers] == self.superclass[labels])
        pairs = [
            correlations(learner.net, self.block, regulariser, source)  # type: ignore[arg-type]
            for regulariser, source in zip(learner.regularisers, learner.sessions, strict=True)
        ]
        both = dict(zip(("train", "held_out"), zip(*pairs, strict=True), strict=False))
        seen |= {f"{part}_correlation": float(torch.stack(values).mean()) for part, values in both.items()}
        if full:
            seen |= self.attacks(learner.net, self.some, self.labels)
        return seen, {part: [[round(c, 4) for c in some.tolist()] for some in values] for part, values in both.items()}


def train(settings: Settings, material: Material, run: Run, folder: RunFolder, console: Console) -> Row:
    """Trains a network, from its checkpoint if there is one, and writes ``result.json`` at the end.

    Returns:
        The result: settings of the run, last evaluation, every evaluation before it, and the correlations at each.

    Raises:
        Interrupted: The run was asked to stop and has saved where it was.
        RunError: A recording cannot be used.
    """
    torch.manual_seed(run.seed)  # for the weights of the projections and the dropout in them
    images = material.images
    draws, changes = (torch.Generator().manual_seed(run.seed) for _ in range(2))
    net = build(settings.network, images.shape, images.classes, stem_stride=settings.stem_stride, seed=run.seed)
    sessions = [session(found, run, settings) for found in material.recordings] if run.loss else []
    steps = settings.epochs * math.ceil(len(images.train_images) / settings.batch)
    learner = Learner(net.to(images.device), settings, run, sessions, steps, draws)
    examine, found = Examiner(settings, images, material.superclass), Correlations()

    def step(indices: Tensor) -> dict[str, Tensor]:
        chosen = indices.to(images.device)
        batch = images.train_images[chosen]
        batch = augmented(batch, changes) if settings.augment else batch
        return learner.step(brightness(batch), images.train_labels[chosen])

    def finish(epoch: int, means: Mapping[str, float]) -> list[Row]:
        row: Row = {f"train_{name}": value for name, value in means.items()}
        last = epoch == settings.epochs
        if last or epoch % settings.every == 0:
            seen, found[str(epoch)] = examine(learner, full=last)
            folder.write("correlations.json", json.dumps(found).encode())
            row |= seen
        return [row]

    loop = Loop(
        folder, {"learner": learner, "draws": draws, "changes": changes}, examples=len(images.train_images),
        batch=settings.batch, epochs=settings.epochs, seed=run.seed, checkpoint_seconds=settings.checkpoint_seconds,
    )  # fmt: skip
    if loop.restore():
        console.print(f"{run.name}: going on after {len(loop.history)} full epochs", highlight=False)
        found |= folder.read("correlations.json") or {}
    history = loop.run(step, finish, console)
    ends = result(run.name, settings.numbers(run), history, "clean", correlations=found)
    folder.write("result.json", (json.dumps(ends) + "\n").encode())
    return ends
