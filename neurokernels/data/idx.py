"""The IDX format of the MNIST files: a magic number, the sizes of the dimensions, then the values, row by row."""

import math

import numpy as np
import torch

#: The third byte of the magic number says which type the values have. MNIST uses unsigned bytes alone.
_UINT8 = 0x08


def parse(content: bytes, name: str = "idx") -> torch.Tensor:
    """Reads one IDX file of unsigned bytes.

    Args:
        content: The whole file, decompressed.
        name: What to call it in messages.

    Returns:
        A uint8 tensor with the shape that the header states.

    Raises:
        ValueError: It is not such a file, or it does not hold as many values as its header says.
    """
    if len(content) < 4 or content[:2] != b"\0\0":
        raise ValueError(
            f"{name}: expected an IDX file, which starts with two zero bytes, got {content[:4].hex() or 'none'}"
        )
    kind, dimensions = content[2], content[3]
    if kind != _UINT8:
        raise ValueError(f"{name}: expected unsigned bytes (type 0x08), got type 0x{kind:02x}")
    start = 4 + 4 * dimensions
    if dimensions == 0 or len(content) < start:
        raise ValueError(
            f"{name}: expected a header with the sizes of {dimensions} dimensions, got {len(content)} bytes in all"
        )
    shape = tuple(int.from_bytes(content[at : at + 4], "big") for at in range(4, start, 4))
    values = len(content) - start
    if values != math.prod(shape):
        raise ValueError(
            f"{name}: expected {math.prod(shape)} values for the shape {list(shape)} in its header, got {values}"
        )
    return torch.from_numpy(np.frombuffer(content, np.uint8, offset=start).reshape(shape).copy())
