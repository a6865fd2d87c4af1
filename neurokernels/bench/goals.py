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


#: A row, or several of which the best counts.
Names = str | tuple[str, ...]


def seconds(rows: Mapping[str, RowResult], name: Names) -> float:
    """The best time of a row, or of the fastest of several.

    Raises:
        Unmeasured: No such row is there and gave a time.
    """
    return _fastest(rows, name)[0]


def _fastest(rows: Mapping[str, RowResult], name: Names) -> tuple[float, RowResult]:
    chosen = [rows[n] for n in _several(name) if n in rows]
    timed = [(row.timing.best, row) for row in chosen if row.timing]
    if not timed:
        raise Unmeasured(_said(name))
    return min(timed, key=lambda found: found[0])


def _several(name: Names) -> tuple[str, ...]:
    return (name,) if isinstance(name, str) else name


def _said(name: Names) -> str:
    return " or ".join(_several(name))


def faster(name: Names, than: str, times: float) -> Goal:
    """The goal that a row, or the fastest of several, is at least so many times as fast as another."""
    return Goal(
        f"{_said(name)} against {than}: times as fast", lambda rows: seconds(rows, than) / seconds(rows, name), times
    )


def within(name: Names, limit: float) -> Goal:
    """The goal that a call of a row, or of the fastest of several, takes at most so many seconds."""
    return Goal(f"{_said(name)}: microseconds", lambda rows: seconds(rows, name) * 1e6, limit * 1e6, at_least=False)


def bandwidth(name: Names, share: float) -> Goal:
    """The goal that a row, or the fastest of several, moves its bytes at no less than a share of a copy's rate."""

    def measure(rows: Mapping[str, RowResult]) -> float:
        found = _fastest(rows, name)[1].share
        if found is None:
            raise Unmeasured(_said(name))
        return found

    return Goal(f"{_said(name)}: share of memory-copy bandwidth", measure, share)


def at_most(name: Names, figure: str, bound: float) -> Goal:
    """The goal that one of the further figures of a row, or the least of several rows, stays below a bound."""
    return Goal(f"{_said(name)}: {figure}", lambda rows: min(_figures(rows, name, figure)), bound, at_least=False)


def at_least(name: Names, figure: str, bound: float) -> Goal:
    """The goal that one of the further figures of a row, or the largest of several rows, reaches a bound."""
    return Goal(f"{_said(name)}: {figure}", lambda rows: max(_figures(rows, name, figure)), bound)


def _figures(rows: Mapping[str, RowResult], name: Names, figure: str) -> list[float]:
    found = [rows[n].extra[figure] for n in _several(name) if n in rows and figure in rows[n].extra]
    if not found:
        raise Unmeasured(_said(name))
    return found
