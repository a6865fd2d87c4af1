"""Tensors in a file, in the safetensors format: eight bytes of length, a JSON header, and the bytes of the tensors.

The format has no code in it and nothing to execute, unlike a pickle. The safetensors package reads these files, and its
own are read here: a test has both. The core depends on torch alone, and this is all of the format that it needs.

Source: https://github.com/huggingface/safetensors, "Format".
"""

import json
import math
import os
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

_NAMES = {torch.float32: "F32", torch.uint8: "U8"}
_DTYPES = {name: dtype for dtype, name in _NAMES.items()}
_LONGEST_HEADER = 1 << 20


def write(path: str | Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Writes CPU or GPU tensors of float32 or uint8, all or nothing."""
    header: dict[str, Any] = {"__metadata__": metadata}
    data, at = [], 0
    for name, tensor in tensors.items():
        data.append(tensor.detach().cpu().contiguous().numpy().tobytes())
        header[name] = {
            "dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [at, at + len(data[-1])],
        }  # fmt: skip
        at += len(data[-1])
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of eight
    path = Path(path)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(data))
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def read(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a file.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is no complete file of this format, or has tensors of another type.
    """
    content = Path(path).read_bytes()
    header, data = _header(path, content)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict):
        _refuse(path, "its metadata is no JSON object")
    tensors, at = {}, 0
    for name, entry in sorted(header.items(), key=lambda item: _begin(path, *item)):
        dtype, shape, (begin, end) = _DTYPES.get(entry.get("dtype")), entry.get("shape"), entry["data_offsets"]
        if dtype is None:
            _refuse(path, f"tensor {name!r} is of type {entry.get('dtype')!r}, not {' or '.join(_DTYPES)}")
        if not isinstance(shape, list) or not all(type(side) is int and side >= 0 for side in shape):
            _refuse(path, f"the shape of tensor {name!r} is {shape!r}")
        if begin != at or end - begin != math.prod(shape) * dtype.itemsize or end > len(data):
            _refuse(path, f"tensor {name!r} of shape {shape} does not lie at bytes {begin} to {end} of {len(data)}")
        tensors[name], at = torch.frombuffer(bytearray(data[begin:end] or b"\0" * 4), dtype=dtype), end
        tensors[name] = tensors[name][: math.prod(shape)].reshape(shape)
    if at != len(data):
        _refuse(path, f"{len(data) - at} bytes belong to no tensor")
    return tensors, metadata


def _header(path: str | Path, content: bytes) -> tuple[dict[str, Any], bytes]:
    size = int.from_bytes(content[:8], "little")
    if len(content) < 8 or size > min(len(content) - 8, _LONGEST_HEADER):
        _refuse(path, "its header is cut short or too long")
    try:
        header = json.loads(content[8 : 8 + size])
    except (ValueError, RecursionError) as error:
        _refuse(path, f"its header is not JSON ({error})")
    if not isinstance(header, dict):
        _refuse(path, "its header is no JSON object")
    return header, content[8 + size :]


def _begin(path: str | Path, name: str, entry: Any) -> int:
    offsets = entry.get("data_offsets") if isinstance(entry, dict) else None
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(type(offset) is int for offset in offsets):
        _refuse(path, f"tensor {name!r} has no two data_offsets")
    return offsets[0]


def _refuse(path: str | Path, reason: str) -> NoReturn:
    raise ValueError(f"{path}: this is not a complete safetensors file: {reason}")
