"""The results of a sweep: one line per network, and what the tables and pictures make of them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from neurokernels.trainers.dcca.settings import ARMS, Arm
from neurokernels.trainers.loop import Row
from neurokernels.trainers.results import Spread, finished, read_lines, spread, write_lines
from neurokernels.trainers.run import RunFolder

#: Comparisons of two arms of the same seed: with nothing, with the factor on the cross-entropy alone, which all
#: regularised networks have, and with each other.
PAIRS = (
    ("scaled", "none"),
    ("shuffled", "none"),
    ("real", "none"),
    ("vicreg-shuffled", "none"),
    ("vicreg", "none"),
    ("shuffled", "scaled"),
    ("real", "scaled"),
    ("vicreg", "scaled"),
    ("real", "shuffled"),
    ("vicreg", "vicreg-shuffled"),
    ("vicreg", "real"),
)


class Curve(NamedTuple):
    """A mean over seeds by epoch."""

    epochs: list[int]
    values: list[Spread]


@dataclass(frozen=True)
class Results:
    """A finished sweep, or part of one.

    Attributes:
        rows: A result per network: its settings, ``result``, ``trajectory`` and ``correlations``.
    """

    rows: list[Row]

    @property
    def title(self) -> str:
        """What was trained."""
        first = self.rows[0]
        whose = "a synthetic V1 population" if first["population"] == "gabor" else f"recordings {first['population']}"
        learned = f"{first['images']:,} images of {first['data']}" if first["images"] else first["data"]
        return f"{first['network']} on {learned}, {first['epochs']} epochs, {whose}, block {first['block']}"

    @property
    def arms(self) -> list[Arm]:
        """Those with results, in the order of the tables."""
        return [arm for arm in ARMS if self.of(arm)]

    @property
    def metrics(self) -> list[str]:
        """Accuracies that every network has: clean, super-class, then attacks by their sizes."""
        names = [f"{attack}_{size:g}" for attack in ("fgsm", "pgd") for size in sorted(self.rows[0][attack])]
        return [name for name in ("clean", "super", *names) if all(name in row["result"] for row in self.rows)]

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
        return (pair for pair in PAIRS if self.shared(*pair))

    def dimensions(self, arm: str, part: str) -> list[Spread]:
        """Every canonical correlation at the end of training, over seeds and sessions; none for arms without."""
        ends = [row["correlations"][str(row["epochs"])].get(part, []) for row in self.of(arm)]
        return [spread(values) for values in zip(*(session for end in ends for session in end), strict=True)]

    def correlation(self, arm: str, part: str) -> Curve:
        """Mean canonical correlation over training, over seeds; empty for arms without."""
        return self._curve(arm, lambda end: end.get(part))

    def _curve(self, arm: str, take: Callable[[dict[str, list[list[float]]]], list[list[float]] | None]) -> Curve:
        seen: dict[int, list[float]] = {}
        for row in self.of(arm):
            for epoch, found in row["correlations"].items():
                values = [value for session in take(found) or [] for value in session]
                if values:
                    seen.setdefault(int(epoch), []).append(sum(values) / len(values))
        return Curve(sorted(seen), [spread(seen[epoch]) for epoch in sorted(seen)])


def collect(out: Path) -> Results:
    """The results of all finished networks in a folder, from theirs or, where they are not kept, from its own file.

    Writes ``results.jsonl``.

    Raises:
        RunError: It holds no results, or files that cannot be read or written.
    """
    rows = finished(out)
    if not rows:
        return Results(read_lines(out, "results.jsonl"))
    rows.sort(key=lambda row: (ARMS.index(row["arm"]), row["seed"]))
    write_lines(RunFolder(out), "results.jsonl", rows)
    return Results(rows)
