"""Sweeps of networks in arms and seeds: what is told apart is the arm, between networks of the same seed."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from neurokernels.trainers.loop import Row
from neurokernels.trainers.results import Lines, Spread, finished, read_lines, spread, write_lines
from neurokernels.trainers.run import RunFolder


@dataclass(frozen=True)
class Arms:
    """A finished sweep, or part of one.

    Attributes:
        rows: A result per network, which has its settings, ``arm`` and ``seed`` among them, ``result`` and
            ``trajectory``.
    """

    rows: list[Row]

    #: All arms, in the order of the tables.
    order: ClassVar[Sequence[str]] = ()
    #: Comparisons of two arms of the same seed.
    compared: ClassVar[Sequence[tuple[str, str]]] = ()

    @property
    def arms(self) -> list[str]:
        """Those with results."""
        return [arm for arm in self.order if self.of(arm)]

    @property
    def learned(self) -> str:
        """Which images were learned."""
        first = self.rows[0]
        return f"{first['images']:,} images of {first['data']}" if first["images"] else first["data"]

    @property
    def whose(self) -> str:
        """Whose responses they were pulled to."""
        name = self.rows[0]["population"]
        return "a synthetic V1 population" if name == "gabor" else f"recordings {name}"

    @property
    def metrics(self) -> list[str]:
        """Accuracies that every network has, in the order of the tables."""
        return []

    def of(self, arm: str) -> list[Row]:
        """The networks of an arm by seed."""
        return [row for row in self.rows if row["arm"] == arm]

    def accuracy(self, arm: str, metric: str) -> Spread:
        """In per cent, over seeds."""
        return spread(100 * row["result"][metric] for row in self.of(arm))

    def differences(self, arm: str, other: str, metric: str) -> list[float]:
        """In points, of each seed that both arms have."""
        ends = [{row["seed"]: row["result"][metric] for row in self.of(name)} for name in (arm, other)]
        return [100 * (ends[0][seed] - ends[1][seed]) for seed in self.shared(arm, other)]

    def difference(self, arm: str, other: str, metric: str) -> Spread:
        """In points, over these seeds."""
        return spread(self.differences(arm, other, metric))

    def shared(self, arm: str, other: str) -> list[int]:
        """The seeds that two arms share."""
        seeds = [{row["seed"] for row in self.of(name)} for name in (arm, other)]
        return sorted(seeds[0] & seeds[1])

    def pairs(self) -> Iterator[tuple[str, str]]:
        """The comparisons that can be made."""
        return (pair for pair in self.compared if self.shared(*pair))


def collected(out: Path, order: Sequence[str]) -> list[Row]:
    """The results of all finished networks in a folder, from theirs or, where they are not kept, from its own file.

    Writes ``results.jsonl``.

    Raises:
        RunError: It holds no results, or files that cannot be read or written.
    """
    rows = finished(out)
    if not rows:
        return read_lines(out, "results.jsonl")
    rows.sort(key=lambda row: (order.index(row["arm"]), row["seed"]))
    write_lines(RunFolder(out), "results.jsonl", rows)
    return rows


def accuracies(results: Arms, named: Callable[[str], str], note: Callable[[str, str], str] = lambda *_: "") -> Lines:
    """Accuracy in per cent: a line per arm, a column per metric, with a note behind it."""
    lines = [["arm", "seeds", *map(named, results.metrics)]]
    for arm in results.arms:
        cells = [results.accuracy(arm, metric).shown(1) + note(arm, metric) for metric in results.metrics]
        lines.append([arm, str(len(results.of(arm))), *cells])
    return lines


def signed(found: Spread, digits: int = 1) -> str:
    """A difference as tables show it."""
    mean = f"{found.mean:+.{digits}f}"
    return f"{mean} ± {found.sd:.{digits}f}" if found.sd else mean


def differences(results: Arms, named: Callable[[str], str]) -> Lines:
    """Differences in points: a line per comparison, a column per metric."""
    lines = [["arms", "seeds", *map(named, results.metrics)]]
    for arm, other in results.pairs():
        cells = [signed(results.difference(arm, other, metric)) for metric in results.metrics]
        lines.append([f"{arm} − {other}", str(len(results.shared(arm, other))), *cells])
    return lines


def findings(results: Arms, named: Callable[[str], str]) -> Iterator[str]:
    """Which differences have the same sign in all seeds: few seeds allow no finer statistics."""
    for arm, other in results.pairs():
        count = len(results.shared(arm, other))
        if count < 2:
            continue
        found = {metric: results.differences(arm, other, metric) for metric in results.metrics}
        higher, lower = (
            ", ".join(named(metric) for metric, values in found.items() if all(sign * value > 0 for value in values))
            for sign in (1, -1)
        )
        yield f"{arm} − {other}, in all {count} seeds higher: {higher or 'nothing'}; lower: {lower or 'nothing'}"
    samples = results.rows[0]["attack_samples"]
    yield (
        f"the choice of {samples} images to attack makes standard errors of up to {50 / samples**0.5:.1f} points; all "
        "networks have the same ones"
    )
