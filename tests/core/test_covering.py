"""Few rows hold every pair, and the others wait for ``--exhaustive``."""

from itertools import combinations, product

import pytest

from tests.covering import grid, pairwise

OPTIONS = [(("a", "b", "c"), (0, 1), (None, 0.5), (True, False), ("x", "y", "z", "w")), ((1, 2), (3, 4, 5))]


def pairs(rows, options):
    return {(a, b, row[a], row[b]) for row in rows for a, b in combinations(range(len(options)), 2)}


@pytest.mark.parametrize("options", OPTIONS)
def test_every_pair_occurs(options):
    rows = pairwise(*options)
    everything = list(product(*(range(len(values)) for values in options)))
    assert pairs(rows, options) == pairs(everything, options)
    assert pairs(rows[1:], options) != pairs(everything, options)


def test_few_rows_are_enough_and_the_same_ones_every_time():
    rows = pairwise(*OPTIONS[0])
    assert 12 <= len(rows) <= 14 < 96
    assert rows == pairwise(*OPTIONS[0])
    assert len(set(rows)) == len(rows)


def test_the_others_wait():
    cases = grid(*OPTIONS[0])
    assert len(cases) == 96
    always = [case for case in cases if not case.marks]
    assert len(always) == len(pairwise(*OPTIONS[0]))
    assert {mark.name for case in cases for mark in _marks(case)} == {"exhaustive"}
    assert cases[0].id == "a-0-None-True-x"
    assert always[0].values == ("a", 0, None, True, "x")


def _marks(case):
    return [getattr(mark, "mark", mark) for mark in case.marks]
