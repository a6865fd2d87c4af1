"""Figures to reach, declared beside the races that measure them. One that is missed is said so and fails nothing."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from neurokernels.bench.results import GoalResult, RowResult


@dataclass(frozen=True)
class Goal:
    """A figure to reach.

    Attributes:
        claim: What is hoped for, in words.
        measure: Takes the figure from the rows by name; may raise `Unmeasured`.
        bound: The figure.
        at_least: Whether more is better.
    """

    claim: str
    measure: Callable[[Mapping[str, RowResult]], float]
    bound: float
    at_least: bool = True

    def judge(self, rows: Mapping[str, RowResult]) -> GoalResult:
        """The goal with what the rows give for it, by name."""
        try:
            measured = self.measure(rows)
        except Unmeasured:
            measured = None
        return GoalResult(self.claim, self.bound, self.at_least, measured)


class Unmeasured(Exception):
    """A goal needs a figure that no row gave."""


def seconds(rows: Mapping[str, RowResult], name: str) -> float:
    """The best time of a row.

    Raises:
        Unmeasured: The row is not there or gave no time.
    """
    row = rows.get(name)
    if row is None or row.timing is None:
        raise Unmeasured(name)
    return row.timing.best


def faster(name: str, than: str, times: float) -> Goal:
    """The goal that a row is at least so many times as fast as another."""
    return Goal(f"{name} against {than}: times as fast", lambda rows: seconds(rows, than) / seconds(rows, name), times)


def within(name: str, limit: float) -> Goal:
    """The goal that a call of a row takes at most so many seconds."""
    return Goal(f"{name}: microseconds", lambda rows: seconds(rows, name) * 1e6, limit * 1e6, at_least=False)


def bandwidth(name: str, share: float) -> Goal:
    """The goal that a row moves its counted bytes at no less than a share of the memory copy's rate."""

    def measure(rows: Mapping[str, RowResult]) -> float:
        seconds(rows, name)
        if rows[name].share is None:
            raise Unmeasured(name)
        return rows[name].share or 0.0

    return Goal(f"{name}: share of memory-copy bandwidth", measure, share)


def at_most(name: str, figure: str, bound: float) -> Goal:
    """The goal that one of a row's further figures stays below a bound."""

    def measure(rows: Mapping[str, RowResult]) -> float:
        if name not in rows or figure not in rows[name].extra:
            raise Unmeasured(name)
        return rows[name].extra[figure]

    return Goal(f"{name}: {figure}", measure, bound, at_least=False)
