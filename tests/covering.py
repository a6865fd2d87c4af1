"""Covering arrays: few of the combinations of options, in which every two values of two options still meet.

What goes wrong hangs on one option or on two of them that meet, hardly ever on more (Kuhn, Wallace and Gallo, Software
fault interactions and implications for software testing, IEEE TSE 2004). ``--exhaustive`` runs all combinations.
"""

from collections.abc import Sequence
from itertools import combinations, product
from typing import Any

import pytest


def pairwise(*options: Sequence[Any]) -> list[tuple[int, ...]]:
    """Rows of indices, one for each option, that hold every pair of values of every two options.

    Greedy: always the first of the rows with the most pairs that have not met, so that the same ones come every time.
    """
    places = list(combinations(range(len(options)), 2))
    left = {(a, b, i, j) for a, b in places for i in range(len(options[a])) for j in range(len(options[b]))}
    rows = list(product(*(range(len(values)) for values in options)))
    held = {row: {(a, b, row[a], row[b]) for a, b in places} for row in rows}
    chosen: list[tuple[int, ...]] = []
    while left:
        chosen.append(max(rows, key=lambda row: len(held[row] & left)))
        left -= held[chosen[-1]]
    return chosen


def grid(*options: Sequence[Any]) -> list[Any]:
    """Parameter sets of all combinations; those beyond `pairwise` are run with ``--exhaustive`` alone."""
    needed = set(pairwise(*options))
    return [
        pytest.param(
            *(values[i] for values, i in zip(options, row, strict=True)),
            marks=() if row in needed else pytest.mark.exhaustive,
            id="-".join(_name(values[i]) for values, i in zip(options, row, strict=True)),
        )
        for row in product(*(range(len(values)) for values in options))
    ]


def _name(value: Any) -> str:
    return str(value).removeprefix("torch.")
