"""Which kernel runs a call, and why not another one.

Every op has a table of rows, one per backend, in the order in which ``auto`` tries them. One function per row says
why it would refuse a call; it serves ``auto``, the error of a forced backend, `explain`, and the table of
`show_config`.
"""

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any

import torch

NAMES = ("auto", "reference", "cpu", "triton", "cuda")

#: What a compiled graph hands to a leaf op instead of a name: look again when the graph runs.
INHERIT = ""


class BackendError(RuntimeError):
    """The backend that was asked for cannot run this call; the message says why."""


_imported = cache(import_module)


@dataclass(frozen=True)
class Backend:
    """One row of an op's table.

    Attributes:
        name: One of ``reference``, ``cpu``, ``triton``, ``cuda``.
        devices: Device types that it serves; empty means every one.
        refuse: Says in a sentence why it cannot run a call with a tensor like this one, or returns None.
        module: The module with the kernels, imported at first use.
        yields: Says why ``auto`` passes over it where it could run, for example because a later row is faster; or None.
    """

    name: str
    devices: tuple[str, ...]
    refuse: Callable[[torch.Tensor], str | None]
    module: str
    yields: Callable[[torch.Tensor], str | None] = lambda x: None

    def why_not(self, x: torch.Tensor) -> str | None:
        """The reason why this row cannot run a call on ``x``, or None."""
        if self.devices and x.device.type not in self.devices:
            return f"it serves {' and '.join(self.devices)} tensors and this one is on {x.device.type}"
        return self.refuse(x)

    def kernels(self) -> ModuleType:
        """The module that holds the kernels."""
        return _imported(self.module)


_tables: dict[str, tuple[Backend, ...]] = {}
_forced: ContextVar[str | None] = ContextVar("neurokernels_backend", default=None)
_default = "auto"
_warned: set[str] = set()
_listeners: list[Callable[[str, str], None]] = []


def _checked(name: str) -> str:
    if name not in NAMES:
        raise ValueError(f"backend must be one of {', '.join(NAMES)}, got {name!r}")
    return name


def set_backend(name: str) -> None:
    """Sets the backend for the whole process: ``auto``, ``reference``, ``cpu``, ``triton`` or ``cuda``.

    Raises:
        ValueError: There is no such backend.
    """
    global _default
    _default = _checked(name)


@contextmanager
def backend(name: str) -> Iterator[None]:
    """Forces a backend within a ``with`` block, in this thread. A call that it cannot run raises `BackendError`.

    The backward pass runs on the backend of its forward pass, wherever it is called. A compiled graph looks again each
    time it runs, forward and backward.

    Raises:
        ValueError: There is no such backend.
    """
    token = _forced.set(_checked(name))
    try:
        yield
    finally:
        _forced.reset(token)


def requested() -> str:
    """The backend that the surrounding block or the process asks for."""
    return _forced.get() or _default


def register(op: str, *rows: Backend) -> None:
    """Gives an op its table, in the order in which ``auto`` tries it."""
    _tables[op] = rows


def rows(op: str) -> tuple[Backend, ...]:
    """The table of an op."""
    if op not in _tables:
        raise ValueError(f"there is no op {op!r}; ops: {', '.join(_tables)}")
    return _tables[op]


def select(op: str, name: str, x: torch.Tensor) -> Backend:
    """The row that runs a call of ``op`` on ``x`` under the backend ``name``."""
    if name == INHERIT:
        name = requested()
    table = _tables[op]
    row = _chosen(table, name, x)
    if row is not None:
        _note(op, name, row, x)
        return row
    reasons = {row.name: row.why_not(x) for row in table}
    if name == "auto":
        raise BackendError(f"{op}: no backend can run this call: {'; '.join(f'{n}: {r}' for n, r in reasons.items())}")
    if name in reasons:
        raise BackendError(f"{op}: backend {name!r} was asked for and cannot run: {reasons[name]}")
    raise BackendError(f"{op}: backend {name!r} was asked for and {op} has no such kernel; it has {', '.join(reasons)}")


def _chosen(table: tuple[Backend, ...], name: str, x: torch.Tensor) -> Backend | None:
    """The row of that name if it can run the call; for ``auto`` the first that can, and that yields only to none."""
    yielding = None
    for row in table:
        if name in ("auto", row.name) and row.why_not(x) is None:
            if name != "auto" or row.yields(x) is None:
                return row
            yielding = yielding or row
    return yielding


def _note(op: str, name: str, row: Backend, x: torch.Tensor) -> None:
    for listener in _listeners:
        listener(op, row.name)
    if name == "auto" and row.name == "reference" and x.device.type == "cuda" and op not in _warned:
        _warned.add(op)
        warnings.warn(f"{op} runs on the plain PyTorch reference for this CUDA tensor. {explain(op, x)}", stacklevel=3)


@contextmanager
def record() -> Iterator[list[tuple[str, str]]]:
    """Collects (op, backend) of every kernel that runs inside the block, in every thread: how tests know what ran."""
    ran: list[tuple[str, str]] = []
    _listeners.append(listener := lambda op, name: ran.append((op, name)))
    try:
        yield ran
    finally:
        _listeners.remove(listener)


def explain(op: str, x: Any = None, *_: Any, **__: Any) -> str:
    """Says which backend would run ``op`` on a tensor and why the others would not.

    Args:
        op: The op's name, for example ``"lif"``.
        x: The op's first argument, a tensor or an array; None stands for a float32 tensor on the CPU. The arguments
            that follow it may be given as for the op itself.

    Returns:
        A few lines of text.

    Raises:
        ValueError: There is no such op.
    """
    import_module("neurokernels.ops")
    table, name = rows(op), requested()
    x = torch.empty(0) if x is None else x if isinstance(x, torch.Tensor) else torch.as_tensor(x)
    chosen = _chosen(table, name, x)
    lines = [f"{op}: {chosen.name if chosen else 'nothing'} runs (backend {name}, {x.dtype} on {x.device})"]
    lines += [f"  {row.name}: {row.why_not(x) or ('runs' if row is chosen else _could(row, x))}" for row in table]
    return "\n".join(lines)


def _could(row: Backend, x: torch.Tensor) -> str:
    why = row.yields(x)
    return f"could run; auto passes it over: {why}" if why else "could run"


def table() -> dict[str, dict[str, str | None]]:
    """For every op and backend, why it cannot run here (None where it can); for a tensor on a device that it serves."""
    import_module("neurokernels.ops")
    cuda = torch.device("cuda") if torch.cuda.is_available() else None
    found: dict[str, dict[str, str | None]] = {}
    for op, table in _tables.items():
        found[op] = dict.fromkeys(NAMES[1:], "not written for this op")
        for row in table:
            on_gpu = cuda is not None and "cpu" not in row.devices
            found[op][row.name] = row.why_not(torch.empty(0, device=cuda if on_gpu else "cpu"))
    return found


_default = _checked(os.environ.get("NEUROKERNELS_BACKEND") or "auto")
