"""Where benchmarks run, on which of our backends, and at what size.

On a GPU that is `triton` and `cuda`, where an op has them; else `cpu`. A rehearsal (``-p proof.plugin --rehearse``)
races the groups of a GPU on the CPU, where its kernels are interpreted and emulated, with tiny sizes.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

import neurokernels as nk
from neurokernels._core import backends
from neurokernels.bench import Absent, Row

Shape = TypeVar("Shape", bound=tuple[int, ...])

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

#: Whether groups of a GPU are raced: on one, or in a rehearsal.
GPU = DEVICE == "cuda"
REHEARSAL = False
#: In a graph the time that Python takes to launch kernels does not count.
CLOCK = "graph" if DEVICE == "cuda" else "auto"
OURS: tuple[str, ...] = ("triton", "cuda") if GPU else ("cpu",)


def rehearse() -> None:
    """To be called before benchmark files are imported."""
    global GPU, REHEARSAL, OURS
    GPU, REHEARSAL, OURS = True, True, ("triton", "cuda")


def small(shape: Shape, most: int = 6) -> Shape:
    """The shape; in a rehearsal none of its sizes is more than a few."""
    return tuple(min(n, most) for n in shape) if REHEARSAL else shape  # type: ignore[return-value]


def names(op: str) -> tuple[str, ...]:
    """Those of our backends that an op has, in the order of ``auto``; the first of ours if it has none."""
    return tuple(row.name for row in backends.rows(op) if row.name in OURS) or OURS[:1]


def ours(op: str, x: Tensor, call: Callable[..., Any], suffix: str = "", **options: Any) -> list[Row | Absent]:
    """A row for each of our backends, or its reason to stay away; first the one that ``auto`` takes.

    Args:
        op: The op, as in the table of backends.
        x: The tensor that decides.
        call: What is raced.
        suffix: What the rows' names have after that of the backend.
        options: Of the rows.
    """
    table = {row.name: row for row in backends.rows(op)}
    eager = sorted(names(op), key=lambda n: n not in table or bool(table[n].why_not(x) or table[n].yields(x)))
    made: list[Row | Absent] = []
    for name in eager:
        reason = table[name].why_not(x) if name in table else f"{op} has no such backend"
        if reason:
            made.append(Absent(name + suffix, reason))
        else:
            made.append(Row(name + suffix, call, ours=True, scope=partial(nk.backend, name), **options))
    return made


def mine(op: str, suffix: str = "") -> tuple[str, ...]:
    """The names of `ours`, for goals: the fastest counts."""
    return tuple(name + suffix for name in names(op))


def text(shape: Sequence[int]) -> str:
    """``100x64``."""
    return "x".join(map(str, shape))
