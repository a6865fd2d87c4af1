"""ResNet18 (He et al. 2016) for small grey images as in Li et al. 2019, and a smaller relative for a laptop."""

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from neurokernels.trainers.weights import he

_WIDTHS = (64, 128, 256, 512)
_SMALL = (16, 32, 64, 128)
#: Where a network is tapped: after the stem and after every section.
TAPS = {
    "resnet18": ("stem", *(f"section{at}" for at in range(1, 1 + len(_WIDTHS)))),
    "small": ("stem", *(f"section{at}" for at in range(1, len(_SMALL)))),
}
_MEMORY = {"resnet18": torch.contiguous_format, "small": torch.channels_last}  # the faster one


class _Residual(nn.Module):
    """Two convolutions beside a shortcut, which is a convolution of one pixel where the shape changes."""

    def __init__(self, inputs: int, channels: int, stride: int) -> None:
        super().__init__()
        self.first = _convolution(inputs, channels, 3, stride)
        self.second = _convolution(channels, channels, 3)
        same = stride == 1 and inputs == channels
        self.shortcut = nn.Identity() if same else _convolution(inputs, channels, 1, stride)

    def forward(self, h: Tensor) -> Tensor:
        """Activations after the sum."""
        summed: Tensor = self.second(self.first(h).relu()) + self.shortcut(h)
        return summed.relu()


def _convolution(inputs: int, channels: int, kernel: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, channels, kernel, stride, padding=kernel // 2, bias=False)
    return nn.Sequential(OrderedDict(conv=convolution, norm=nn.BatchNorm2d(channels)))


def _resnet18(inputs: int) -> Iterator[nn.Module]:
    yield nn.Sequential(_convolution(inputs, _WIDTHS[0], 7), nn.ReLU())
    before = _WIDTHS[0]
    for at, channels in enumerate(_WIDTHS):
        yield nn.Sequential(_Residual(before, channels, 2 if at else 1), _Residual(channels, channels, 1))
        before = channels


def _small(inputs: int) -> Iterator[nn.Module]:
    for at, channels in enumerate(_SMALL):
        yield nn.Sequential(_convolution(inputs, channels, 3 if at else 5, 2), nn.ReLU())
        inputs = channels


class Tapped(nn.Module):
    """A stem and sections, each of which can be looked at, means over positions, and a linear read-out."""

    def __init__(self, network: str, channels: int, classes: int) -> None:
        super().__init__()
        parts = _resnet18(channels) if network == "resnet18" else _small(channels)
        self._memory = _MEMORY[network]
        self.sections = nn.Sequential(OrderedDict(zip(TAPS[network], parts, strict=True)))
        self.readout = nn.Linear((_WIDTHS if network == "resnet18" else _SMALL)[-1], classes)

    def taps(self, images: Tensor) -> list[Tensor]:
        """What every section makes of images in [0, 1]: ``[B, C, H, W]`` each."""
        h = (5 * (images - 0.5)).contiguous(memory_format=self._memory)
        found = []
        for section in self.sections:
            h = section(h)
            found.append(h)
        return found

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[B, classes]`` of images ``[B, C, H, W]`` in [0, 1]."""
        logits: Tensor = self.readout(self.taps(images)[-1].mean((2, 3)))
        return logits


@contextmanager
def statistics_kept(net: nn.Module) -> Iterator[None]:
    """What goes through the network meanwhile leaves the running statistics of its normalisations as they are.

    Stimuli are normalised among themselves, and images to learn are later normalised by images to learn alone.
    """
    norms = [part for part in net.modules() if isinstance(part, nn.BatchNorm2d)]
    for part in norms:
        part.track_running_stats = not part.training  # while it evaluates they are used, and do not change
    try:
        yield
    finally:
        for part in norms:
            part.track_running_stats = True


def build(network: str, channels: int, classes: int, seed: int = 0) -> Tapped:
    """A network before training: the same for a seed on every device.

    Args:
        network: ``resnet18``, with a 7 x 7 stem of stride 1 and no max pooling, or ``small``, four convolutions of
            stride 2; batch normalisation and ReLU follow every convolution of both.
        channels: Of an image.
        classes: Number of classes.
        seed: Seed of the weights.
    """
    net = Tapped(network, channels, classes)
    he(net, seed)
    return net.to(memory_format=_MEMORY[network])  # type: ignore[call-overload]
