"""The results of a sweep: one line per network, and what the tables and pictures make of them."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from neurokernels.trainers.arms import Arms, collected
from neurokernels.trainers.dcca.settings import ARMS
from neurokernels.trainers.results import Spread, spread

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


class Results(Arms):
    """A finished sweep, or part of one, whose rows have ``correlations`` too."""

    order = ARMS
    compared = PAIRS

    @property
    def title(self) -> str:
        """What was trained."""
        first = self.rows[0]
        return f"{first['network']} on {self.learned}, {first['epochs']} epochs, {self.whose}, block {first['block']}"

    @property
    def metrics(self) -> list[str]:
        """Accuracies that every network has: clean, super-class, then attacks by their sizes."""
        names = [f"{attack}_{size:g}" for attack in ("fgsm", "pgd") for size in sorted(self.rows[0][attack])]
        return [name for name in ("clean", "super", *names) if all(name in row["result"] for row in self.rows)]

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
    """The results of all finished networks in a folder; see `neurokernels.trainers.arms.collected`."""
    return Results(collected(out, ARMS))
