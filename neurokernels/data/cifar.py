"""The binary format of the CIFAR files: records of label bytes, then 32 x 32 pixels, red, green and blue in turn."""

import io
from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray

from neurokernels.data.sources import SourceError

_SIDE, _CHANNELS = 32, 3
PIXELS = _CHANNELS * _SIDE * _SIDE


def parse(contents: Iterable[bytes], labels: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Reads files one after the other.

    Args:
        contents: The whole files.
        labels: Label bytes in front of every image: 1 for CIFAR-10, 2 for CIFAR-100 (the superclass, then the class).

    Returns:
        Images ``[N, 3, 32, 32]`` uint8 and labels ``[N, labels]`` int64. The last column is the class.

    Raises:
        ValueError: A file does not hold whole records.
    """
    size = labels + PIXELS
    records = []
    for content in contents:
        if len(content) % size:
            raise ValueError(f"cifar: expected records of {size} bytes, got a file of {len(content)}")
        records.append(np.frombuffer(content, np.uint8).reshape(-1, size))
    table = torch.from_numpy(np.concatenate(records))
    images = table[:, labels:].reshape(-1, _CHANNELS, _SIDE, _SIDE)
    return images.contiguous(), table[:, :labels].long()


def records(picture: bytes, labels: NDArray[np.uint8]) -> bytes:
    """An official file, from a lossless picture that has an image in every row, one pixel after the other.

    Args:
        picture: The picture ``[N, 1024]`` in RGB, in a format that Pillow reads.
        labels: ``[N, labels]``, the bytes in front of every image.

    Raises:
        SourceError: It is no such picture, or Pillow is not installed.
    """
    try:
        from PIL import Image, UnidentifiedImageError
    except ModuleNotFoundError as missing:
        raise SourceError(f"its pictures need {missing.name}: pip install 'neurokernels[train]'") from missing
    try:
        with Image.open(io.BytesIO(picture), formats=("PNG",)) as opened:
            size, mode = opened.size, opened.mode
            if (size, mode) != ((PIXELS // _CHANNELS, len(labels)), "RGB"):
                raise SourceError(f"a picture has {size[0]} x {size[1]} pixels in {mode}, expected one image per row")
            pixels = np.asarray(opened)
    except (UnidentifiedImageError, OSError, SyntaxError) as why:
        raise SourceError(f"a picture cannot be read: {why}") from why
    return np.concatenate((labels, pixels.transpose(0, 2, 1).reshape(len(labels), PIXELS)), axis=1).tobytes()
