"""Checks that say what was wrong in one line: op, argument, expected, got, and the fix."""

import math
from operator import index
from typing import Any, NoReturn

import torch

FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def value_error(op: str, argument: str, expected: str, got: Any) -> NoReturn:
    """Raises a ValueError in the house's words."""
    raise ValueError(f"{op}: {argument} must be {expected}, got {got}")


def type_error(op: str, argument: str, expected: str, got: Any) -> NoReturn:
    """Raises a TypeError in the house's words."""
    raise TypeError(f"{op}: {argument} must be {expected}, got {got}")


def floating(op: str, argument: str, tensor: torch.Tensor) -> None:
    """Refuses tensors that are not of one of the four floating point types."""
    if not isinstance(tensor, torch.Tensor):
        type_error(op, argument, "a tensor or a NumPy or CuPy array", type(tensor).__name__)
    if tensor.dtype not in FLOATS:
        type_error(op, argument, "float32, bfloat16, float16 or float64", f"{tensor.dtype}; convert it with .float()")


def same_device(op: str, argument: str, tensor: torch.Tensor, device: torch.device) -> None:
    """Refuses tensors that live elsewhere."""
    if tensor.device != device:
        value_error(op, argument, f"on {device} as x is", f"a tensor on {tensor.device}; move it with .to('{device}')")


def number(op: str, argument: str, value: Any, low: float = -math.inf, high: float = math.inf) -> float:
    """A real number between bounds, not NaN."""
    if type(value) is float and low <= value <= high:
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        try:
            value = float(value.item() if hasattr(value, "item") else value)
        except (TypeError, ValueError, AttributeError):
            type_error(op, argument, "a number or a tensor", type(value).__name__)
    if not low <= value <= high:
        value_error(op, argument, f"in [{low:g}, {high:g}]" if low > -math.inf else "a number", value)
    return float(value)


def count(op: str, argument: str, value: Any, low: int = 0) -> int:
    """An integer that is not below a bound; floats that are whole numbers are not taken for one."""
    if isinstance(value, bool) or not (isinstance(value, int) or hasattr(value, "__index__")):
        kind = ValueError if isinstance(value, float) else TypeError
        raise kind(f"{op}: {argument} must be an integer >= {low}, got {value!r}")
    if index(value) < low:
        value_error(op, argument, f"an integer >= {low}", value)
    return index(value)


def choice(op: str, argument: str, value: Any, options: tuple[str, ...]) -> str:
    """One of a few words."""
    if value not in options:
        value_error(op, argument, f"one of {', '.join(options)}", repr(value))
    return value


def axis(op: str, argument: str, value: Any, ndim: int) -> int:
    """A dimension, counted from the front."""
    if isinstance(value, bool) or not isinstance(value, int):
        type_error(op, argument, "an integer", type(value).__name__)
    if not -ndim <= value < ndim:
        value_error(op, argument, f"in [{-ndim}, {ndim - 1}]", value)
    return value % ndim
