"""CORnet-Z (Kubilius et al. 2018) for small images, and a smaller relative for a laptop.

A block is a convolution, ReLU and max pooling. There is no batch normalisation: stimuli go through a block too, and
must not change what the images to learn are normalised by.
"""

from collections import OrderedDict
from typing import NamedTuple

import torch
from torch import Tensor, nn

from neurokernels.trainers.weights import glorot

_STEM_STRIDE = 2


class _Block(NamedTuple):
    name: str
    channels: int
    kernel: int


class _Plan(NamedTuple):
    """Blocks, what is read out (means over positions, or every position), and the memory format that is faster."""

    blocks: tuple[_Block, ...]
    pooled: bool
    memory: torch.memory_format


_PLANS = {
    "cornet-z": _Plan(
        (_Block("V1", 64, 7), _Block("V2", 128, 3), _Block("V4", 256, 3), _Block("IT", 512, 3)),
        True,
        torch.contiguous_format,
    ),
    "small": _Plan((_Block("V1", 32, 5), _Block("V2", 64, 3), _Block("V4", 128, 3)), False, torch.channels_last),
}
BLOCKS = {name: tuple(block.name for block in plan.blocks) for name, plan in _PLANS.items()}


class Areas(nn.Module):
    """Blocks named after visual areas, and a linear read-out."""

    def __init__(self, plan: _Plan, shape: tuple[int, int, int], classes: int, stem_stride: int) -> None:
        super().__init__()
        self._memory = plan.memory
        self.blocks = nn.Sequential()
        channels, stride = shape[0], stem_stride
        for block in plan.blocks:
            convolution = nn.Conv2d(channels, block.channels, block.kernel, stride, padding=block.kernel // 2)
            parts = OrderedDict(conv=convolution, relu=nn.ReLU(), pool=nn.MaxPool2d(3, 2, padding=1))
            self.blocks.add_module(block.name, nn.Sequential(parts))
            channels, stride = block.channels, 1
        self.pool = nn.AdaptiveAvgPool2d(1) if plan.pooled else nn.Identity()
        with torch.no_grad():
            features = self.pool(self.blocks(torch.zeros(1, *shape)))
        self.readout = nn.Linear(features.numel(), classes)

    def until(self, block: str, images: Tensor) -> Tensor:
        """What a block makes of images in [0, 1]: ``[B, C, H, W]``."""
        h = ((images - 0.5) * 4).contiguous(memory_format=self._memory)  # pixels of natural images get variance 1
        for name, part in self.blocks.named_children():
            h = part(h)
            if name == block:
                break
        return h

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[B, classes]`` of images ``[B, C, H, W]`` in [0, 1]."""
        logits: Tensor = self.readout(self.pool(self.until("", images)).flatten(1))
        return logits


def build(
    network: str, shape: tuple[int, int, int], classes: int, *, stem_stride: int = _STEM_STRIDE, seed: int = 0
) -> Areas:
    """A network before training, Glorot uniform with zero biases as in CORnet-Z: the same for a seed on every device.

    Args:
        network: ``cornet-z`` or ``small``.
        shape: Of an image, ``(C, H, W)``.
        classes: Number of classes.
        stem_stride: Of the first convolution.
        seed: Seed of the weights.
    """
    plan = _PLANS[network]
    net = Areas(plan, shape, classes, stem_stride)
    glorot(net, seed)
    return net.to(memory_format=plan.memory)  # type: ignore[call-overload]
