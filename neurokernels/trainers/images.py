"""Images on their way into networks: parts of a data set, their colours, and random shifts and flips."""

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from neurokernels.data import Dataset
from neurokernels.trainers.evaluation import evenly

_LUMINANCE = (0.299, 0.587, 0.114)  # of red, green and blue (ITU-R BT.601)


def set_apart(data: Dataset, count: int) -> tuple[Dataset, Tensor]:
    """The data set without some training images, evenly spread over it, and these as ``[count, C, H, W]``."""
    chosen = torch.zeros(len(data.train_images), dtype=torch.bool)
    chosen[evenly(count, len(chosen))] = True
    seen = data.train_images[chosen]
    return some(data, ~chosen), seen if seen.ndim == 4 else seen.unsqueeze(1)


def some(data: Dataset, chosen: Tensor) -> Dataset:
    """The data set with these training images alone."""
    return replace(data, train_images=data.train_images[chosen], train_labels=data.train_labels[chosen])


def coloured(images: Tensor, channels: int) -> Tensor:
    """uint8 images ``[N, C, H, W]`` with that many channels: 1 for their luminance, 3 for colours."""
    if images.shape[1] == channels:
        return images
    if channels == 1:
        weights = torch.tensor(_LUMINANCE).view(3, 1, 1)
        return torch.cat([(part * weights).sum(1, keepdim=True).round().to(torch.uint8) for part in images.split(1000)])
    return images.expand(-1, channels, -1, -1).contiguous()


def grey(data: Dataset) -> Dataset:
    """The data set without its colours."""

    def luminance(images: Tensor) -> Tensor:
        return coloured(images if images.ndim == 4 else images.unsqueeze(1), 1)

    return replace(data, train_images=luminance(data.train_images), test_images=luminance(data.test_images))


def augmented(images: Tensor, generator: torch.Generator, shift: int = 2) -> Tensor:
    """Images ``[B, C, H, W]``, shifted by up to that many pixels into their mirrored edges, half of them flipped."""
    count, _, height, width = images.shape
    padded = F.pad(images, (shift,) * 4, mode="reflect")
    down, right = torch.randint(0, 2 * shift + 1, (2, count, 1), generator=generator)
    flipped = torch.rand(count, 1, generator=generator) < 0.5
    across = torch.arange(width)
    columns = (right + torch.where(flipped, across.flip(0), across)).to(images.device)
    rows = (down + torch.arange(height)).to(images.device)
    each = torch.arange(count, device=images.device)
    return padded[each[:, None, None], :, rows[:, :, None], columns[:, None, :]].movedim(-1, 1)
