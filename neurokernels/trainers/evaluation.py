"""What trainers of image classifiers share: images in memory, accuracy on them, and accuracy under attack.

The attacks are Foolbox's (Rauber et al. 2020): gradient signs of the cross-entropy, every step followed by a projection
onto the ball of radius epsilon (largest change of a pixel) and a clip to [0, 1]. Both start at the image itself.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from foolbox.attacks import FGSM, LinfPGD
from foolbox.attacks.fast_minimum_norm import LInfFMNAttack
from foolbox.models.pytorch import PyTorchModel
from torch import Tensor, nn

from neurokernels.data import Dataset

#: Images that go through a network at once when it is evaluated.
BATCH = 1000


class Images:
    """A data set in memory on a device: uint8 ``[N, C, H, W]``, batches by index."""

    def __init__(self, data: Dataset, device: torch.device) -> None:
        def placed(images: Tensor) -> Tensor:
            return (images if images.ndim == 4 else images.unsqueeze(1)).to(device)

        self.device, self.classes = device, len(data.classes)
        self.train_images, self.test_images = placed(data.train_images), placed(data.test_images)
        self.train_labels, self.test_labels = data.train_labels.to(device), data.test_labels.to(device)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of one image, ``(C, H, W)``."""
        channels, height, width = self.train_images.shape[1:]
        return channels, height, width


def evenly(count: int, total: int) -> Tensor:
    """Indices of that many things, evenly spread over all of them; all where there are no more.

    The first images of a test set need not be like the others: those of MNIST are much harder than the last ones.
    """
    few = min(count, total)
    return torch.arange(few) * total // few


@dataclass(frozen=True)
class Attacks:
    """Which attacks, and how strong.

    Attributes:
        fgsm: Radii of the fast gradient sign attack (Goodfellow et al. 2015).
        pgd: Radii of the projected gradient attack (Madry et al. 2018).
        steps: Its steps.
        step_size: Size of each of them.
        relative: Whether that is a share of the radius.
    """

    fgsm: Sequence[float]
    pgd: Sequence[float]
    steps: int = 40
    step_size: float = 0.01
    relative: bool = False

    def __call__(self, net: nn.Module, images: Tensor, labels: Tensor) -> dict[str, float]:
        """Accuracy under every attack: ``fgsm_0.05`` and so on.

        Args:
            net: Gives logits; it comes back in the mode that it was in, without gradients.
            images: ``[N, C, H, W]`` in [0, 1].
            labels: ``[N]``.
        """
        size = {"rel_stepsize" if self.relative else "abs_stepsize": self.step_size}
        pgd = LinfPGD(steps=self.steps, random_start=False, **size)
        attacks = {"fgsm": (FGSM(), self.fgsm), "pgd": (pgd, self.pgd)}
        hits = {f"{name}_{radius:g}": 0 for name, (_, radii) in attacks.items() for radius in radii}
        with _still(net):
            target = PyTorchModel(net, bounds=(0, 1), device=images.device)
            for some, answers in zip(images.split(BATCH), labels.split(BATCH), strict=True):
                for name, (attack, radii) in attacks.items():
                    for radius in radii:
                        _, _, fooled = attack(target, some, answers, epsilons=radius)
                        hits[f"{name}_{radius:g}"] += len(some) - int(fooled.sum())
        return {name: count / len(images) for name, count in hits.items()}


def smallest_changes(net: nn.Module, images: Tensor, labels: Tensor, steps: int) -> Tensor:
    """How far, at most, a pixel must change for an answer to become wrong: ``[N]``, as a part of its range.

    Found by the fast minimum-norm attack (Pintor et al. 2021); 0 where the answer is wrong already, 1, which is the
    whole range, where the attack finds nothing.

    Args:
        net: As in `Attacks`.
        images: ``[N, C, H, W]`` in [0, 1].
        labels: ``[N]``.
        steps: Of the attack.
    """
    attack, found = LInfFMNAttack(steps=steps), []
    with _still(net):
        target = PyTorchModel(net, bounds=(0, 1), device=images.device)
        for some, answers in zip(images.split(BATCH), labels.split(BATCH), strict=True):
            changed, _, fooled = attack(target, some, answers, epsilons=None)
            distance = (changed - some).abs().flatten(1).amax(1)
            wrong = predictions(net, some) != answers
            found.append(distance.where(fooled, 1).where(~wrong, 0))
    return torch.cat(found)


class Noise:
    """Accuracy on images with Gaussian noise, the same for every network, clamped to the range that an image has.

    Args:
        sizes: Standard deviations of the noise.
        images: uint8 ``[N, C, H, W]``.
        labels: ``[N]``.
    """

    def __init__(self, sizes: Sequence[float], images: Tensor, labels: Tensor) -> None:
        self.sizes, self.images, self.labels = tuple(sizes), images, labels

    def __call__(self, net: nn.Module) -> dict[str, float]:
        """``noise_0.1`` and so on."""
        hits = {f"noise_{size:g}": 0 for size in self.sizes}
        generator = torch.Generator().manual_seed(0)
        for some, answers in zip(self.images.split(BATCH), self.labels.split(BATCH), strict=True):
            x = brightness(some)
            least, most = x.amin((1, 2, 3), keepdim=True), x.amax((1, 2, 3), keepdim=True)
            drawn = torch.randn(x.shape, generator=generator).to(x.device)
            for size in self.sizes:
                noisy = (x + size * drawn).clamp(least, most)
                hits[f"noise_{size:g}"] += int((predictions(net, noisy) == answers).sum())
        return {name: count / len(self.images) for name, count in hits.items()}


@contextmanager
def _still(net: nn.Module) -> Iterator[None]:
    """Evaluation mode, and no gradients of parameters: attacks need those of the images alone."""
    training, wanted = net.training, [parameter.requires_grad for parameter in net.parameters()]
    net.eval().requires_grad_(False)
    try:
        yield
    finally:
        net.train(training)
        for parameter, wants in zip(net.parameters(), wanted, strict=True):
            parameter.requires_grad_(wants)


@torch.no_grad()
def predictions(net: nn.Module, images: Tensor) -> Tensor:
    """The class that each of the images ``[N, C, H, W]``, uint8 or in [0, 1], is taken for, ``[N]``."""
    training = net.training
    net.eval()
    found = [net(brightness(some)).argmax(1) for some in images.split(BATCH)]
    net.train(training)
    return torch.cat(found)


def accuracy(net: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Share of correct answers on uint8 images ``[N, C, H, W]``."""
    return share(predictions(net, images) == labels)


def share(hits: Tensor) -> float:
    """Share of what is true."""
    return int(hits.sum()) / len(hits)


def brightness(images: Tensor) -> Tensor:
    """Pixels in [0, 1] of uint8 images; others have them already."""
    return images.float().div_(255) if images.dtype == torch.uint8 else images
