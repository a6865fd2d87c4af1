"""The results of a sweep: one line per network, and what the tables and pictures make of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from neurokernels.trainers.loop import Row
from neurokernels.trainers.results import finished, read_lines, write_lines
from neurokernels.trainers.run import RunFolder
from neurokernels.trainers.spectral.published import Point, curves, plain_trajectory, radius

_PANELS = 4
METRICS = ("clean", "fgsm", "pgd")


class Group(NamedTuple):
    """The networks that differ by their seed alone. ``alpha`` is the target, None for the plain network."""

    strength: float
    alpha: float | None
    rows: list[Row]


@dataclass(frozen=True)
class Results:
    """A finished sweep, or part of one.

    Attributes:
        rows: A result per network: its settings, ``result`` and ``trajectory``.
        spectra: For some of them: ``name``, ``strength``, ``alpha`` and ``spectra``, eigenvalues by epoch.
    """

    rows: list[Row]
    spectra: list[Row]

    @property
    def network(self) -> str:
        """Which of the paper's networks."""
        return str(self.rows[0]["network"])

    @property
    def data(self) -> str:
        """What it learned."""
        return str(self.rows[0]["data"])

    @property
    def epochs(self) -> int:
        """Epochs that every network was trained."""
        return int(self.rows[0]["epochs"])

    @property
    def strengths(self) -> list[float]:
        """In ascending order."""
        return sorted({row["strength"] for row in self.rows})

    @property
    def title(self) -> str:
        """What was trained."""
        return f"{self.network} network on {self.data}, {self.epochs} epochs of batches of {self.rows[0]['batch']}"

    def key(self, metric: str) -> str:
        """The column of ``clean``, ``fgsm`` or ``pgd`` at the size of attack that the paper shows."""
        return metric if metric == "clean" else f"{metric}_{radius(self.network, self.data):g}"

    def groups(self) -> list[Group]:
        """Plain networks first, then by strength and target."""
        pairs = sorted({(row["strength"], row["alpha"]) for row in self.rows}, key=lambda pair: (pair[0], pair[1] or 0))
        return [Group(*pair, [row for row in self.rows if (row["strength"], row["alpha"]) == pair]) for pair in pairs]

    def published(self, metric: str, strength: float) -> list[Point]:
        """The published curve in order of its exponents."""
        points = (p for p in curves(self.network, self.data) if (p.metric, p.strength) == (metric, strength))
        return sorted(points, key=lambda point: point.alpha)

    def plain_torch(self) -> list[dict[str, float]]:
        """The run of the plain network in plain PyTorch, where there is one with this batch."""
        return plain_trajectory(self.network, self.data, self.rows[0]["batch"])


def collect(out: Path) -> Results:
    """The results of all finished networks in a folder, from theirs or, where they are not kept, from its own files.

    Writes ``results.jsonl`` and, for the picture, ``spectra.jsonl``.

    Raises:
        RunError: It holds no results, or files that cannot be read or written.
    """
    rows = finished(out)
    if not rows:
        return Results(read_lines(out, "results.jsonl"), read_lines(out, "spectra.jsonl"))
    folder = RunFolder(out)
    rows.sort(key=lambda row: (row["strength"], row["alpha"] or 0.0, row["seed"]))
    write_lines(folder, "results.jsonl", rows)
    chosen = [row for row in _shown(rows) if (out / row["name"] / "spectra.json").exists()]
    spectra = [
        {what: row[what] for what in ("name", "strength", "alpha")}
        | {"spectra": _rounded(folder.read(f"{row['name']}/spectra.json"))}
        for row in chosen
    ]
    write_lines(folder, "spectra.jsonl", spectra)
    return Results(rows, spectra)


def _shown(rows: Sequence[Row]) -> list[Row]:
    """The plain network, and the lowest, middle and highest target at the greatest strength: first seed of each."""
    first = min(row["seed"] for row in rows)
    rows = [row for row in rows if row["seed"] == first]
    plain = [row for row in rows if row["alpha"] is None]
    pulled = [row for row in rows if row["alpha"] is not None and row["strength"] == rows[-1]["strength"]]
    at = sorted({0, len(pulled) // 2, len(pulled) - 1}) if pulled else []
    return (plain + [pulled[index] for index in at])[:_PANELS]


def _rounded(spectra: dict[str, list[float]]) -> dict[str, list[float]]:
    return {epoch: [float(f"{value:.4g}") for value in values] for epoch, values in spectra.items()}


def interpolated(points: Sequence[Point], alpha: float) -> float | None:
    """A published curve at an exponent; None beyond its ends, which were rounded to a tenth."""
    if not points or not points[0].alpha - 0.05 <= alpha <= points[-1].alpha + 0.05:
        return None
    return float(np.interp(alpha, [p.alpha for p in points], [p.accuracy for p in points]))
