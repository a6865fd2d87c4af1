"""The networks of Gerum et al. 2022: tanh everywhere, a linear read-out."""

from math import prod

from torch import Tensor, nn

from neurokernels.trainers.weights import glorot

WIDTHS = {"shallow": (2000,), "deep": (1000, 1000, 1000), "conv": (1000,)}
_CHANNELS, _KERNEL, _POOL = (16, 32), 3, 2
SMALLEST = 10  # pixels along a side that two convolutions with pooling leave something of


class Classifier(nn.Module):
    """Hidden layers, whose last activations the regulariser sees, and a read-out."""

    def __init__(self, features: nn.Module, width: int, classes: int) -> None:
        super().__init__()
        self.features = features
        self.readout = nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[B, classes]`` of images ``[B, C, H, W]`` in [0, 1]."""
        logits: Tensor = self.readout(self.features(images))
        return logits


def build(
    network: str, shape: tuple[int, int, int], classes: int, *, width: int | None = None, seed: int = 0
) -> Classifier:
    """A network before training, Glorot uniform with zero biases: the same for a seed on every device.

    Args:
        network: ``shallow``, ``deep`` or ``conv``.
        shape: Of an image, ``(C, H, W)``.
        classes: Number of classes.
        width: Units of every dense hidden layer; None for the paper's.
        seed: Seed of the weights.
    """
    layers: list[nn.Module] = []
    if network == "conv":
        for channels in _CHANNELS:
            layers += [nn.Conv2d(shape[0], channels, _KERNEL), nn.Tanh(), nn.MaxPool2d(_POOL)]
            shape = (channels, *((side - _KERNEL + 1) // _POOL for side in shape[1:]))  # type: ignore[assignment]
    layers.append(nn.Flatten())
    inputs = prod(shape)
    for units in WIDTHS[network]:
        layers += [nn.Linear(inputs, width or units), nn.Tanh()]
        inputs = width or units
    net = Classifier(nn.Sequential(*layers), inputs, classes)
    glorot(net, seed)
    return net
