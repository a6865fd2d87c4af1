"""Trains one network of the sweep: steps and evaluation around the shared loop."""

import json
from collections.abc import Mapping
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional as F

from neurokernels.nn import SpectralRegularizer
from neurokernels.trainers.evaluation import Attacks, Images, accuracy, brightness, evenly
from neurokernels.trainers.loop import Loop, Parts, Row
from neurokernels.trainers.results import result
from neurokernels.trainers.run import RunFolder
from neurokernels.trainers.spectral.evaluation import eigenspectrum, exponent
from neurokernels.trainers.spectral.network import Classifier, build
from neurokernels.trainers.spectral.published import radius
from neurokernels.trainers.spectral.settings import Run, Settings

#: Eigenvalues that are kept for the picture.
SHOWN = 200


class Learner(Parts):
    """A network with its optimiser and its regulariser, if it has one."""

    def __init__(self, net: Classifier, settings: Settings, run: Run) -> None:
        self.net, self.reduced = net, settings.precision == "bfloat16"
        self.optimiser = torch.optim.Adam(net.parameters(), lr=settings.learning_rate, eps=1e-7, fused=True)
        self.regulariser: nn.Module | None = None
        if run.alpha is not None:
            self.regulariser = SpectralRegularizer(
                run.alpha, form=settings.form, strength=run.strength, solver=settings.solver
            )
            self.regulariser.to(next(net.parameters()).device)

    def step(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """One step of training; cross-entropy, share of correct answers and exponent of the batch before it."""
        self.optimiser.zero_grad(set_to_none=True)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.reduced):
            hidden = self.net.features(images)
            logits = self.net.readout(hidden).float()
        loss = task = F.cross_entropy(logits, labels)
        seen = {"loss": task.detach(), "accuracy": (logits.argmax(1) == labels).double().mean()}
        if self.regulariser is not None:
            loss = task + self.regulariser(hidden)
            seen["alpha"] = self.regulariser.metrics()["alpha"]  # type: ignore[operator]
        loss.backward()
        self.optimiser.step()
        return seen

    def parts(self) -> dict[str, Any]:
        """See `Parts`."""
        parts = {"net": self.net, "optimiser": self.optimiser}
        return parts if self.regulariser is None else parts | {"regulariser": self.regulariser}


class Examiner:
    """Evaluates a network on the test images."""

    def __init__(self, settings: Settings, images: Images) -> None:
        chosen = evenly(settings.attack_samples, len(images.test_images)).to(images.device)
        self.images, self.some = images, brightness(images.test_images[chosen])
        self.batch = brightness(images.train_images[: settings.images_per_step])
        self.labels = images.test_labels[chosen]
        shown = radius(settings.network, settings.data)
        fgsm, pgd = (sorted({shown, *radii}) for radii in (settings.fgsm, settings.pgd))
        steps = settings.pgd_steps, settings.pgd_step_size
        self.brief, self.full = Attacks([shown], [shown], *steps), Attacks(fgsm, pgd, *steps)

    def __call__(self, net: Classifier, *, full: bool) -> tuple[Row, list[float]]:
        """Exponent on a batch of training and on test images, clean and attacked accuracy; and the batch's spectrum."""
        shares = eigenspectrum(net, self.batch)
        seen = {"measured_alpha": exponent(shares), "test_alpha": exponent(eigenspectrum(net, self.some))}
        clean = accuracy(net, self.images.test_images, self.images.test_labels)
        attacked = (self.full if full else self.brief)(net, self.some, self.labels)
        return seen | {"clean": clean} | attacked, shares[:SHOWN].tolist()


def train(settings: Settings, images: Images, run: Run, folder: RunFolder, console: Console) -> Row:
    """Trains a network, from its checkpoint if there is one, and writes ``result.json`` at the end.

    Returns:
        The result: settings of the run, last evaluation, and every evaluation before it.

    Raises:
        Interrupted: The run was asked to stop and has saved where it was.
    """
    net = build(settings.network, images.shape, images.classes, width=settings.width, seed=run.seed).to(images.device)
    learner, examine = Learner(net, settings, run), Examiner(settings, images)
    spectra: dict[str, list[float]] = {}

    def step(indices: Tensor) -> dict[str, Tensor]:
        chosen = indices.to(images.device)
        return learner.step(brightness(images.train_images[chosen]), images.train_labels[chosen])

    def finish(epoch: int, means: Mapping[str, float]) -> list[Row]:
        row: Row = {f"train_{name}": value for name, value in means.items()}
        last = epoch == settings.epochs
        if last or epoch % settings.every == 0:
            seen, spectra[str(epoch)] = examine(net, full=last)
            folder.write("spectra.json", json.dumps(spectra).encode())
            row |= seen
        return [row]

    loop = Loop(
        folder, {"learner": learner}, examples=len(images.train_images), batch=settings.images_per_step,
        epochs=settings.epochs, seed=run.seed, checkpoint_seconds=settings.checkpoint_seconds,
    )  # fmt: skip
    if loop.restore():
        console.print(f"{run.name}: going on after {len(loop.history)} full epochs", highlight=False)
        spectra |= folder.read("spectra.json") or {}
    history = loop.run(step, finish, console)
    ends = result(run.name, settings.numbers(run), history, "clean")
    folder.write("result.json", (json.dumps(ends) + "\n").encode())
    return ends
