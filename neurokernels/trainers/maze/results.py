"""The results of a sweep: a line per population, the agent that is shown, and paired comparisons over seeds."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from scipy import stats  # type: ignore[import-untyped]

from neurokernels.evolution import Population
from neurokernels.trainers.loop import Row
from neurokernels.trainers.maze.labyrinths import follow_wall, held_out, training
from neurokernels.trainers.maze.settings import ARMS, Run
from neurokernels.trainers.maze.trainer import BEST
from neurokernels.trainers.results import finished, read_lines, write_lines
from neurokernels.trainers.run import RunError, RunFolder

#: The agent that the pictures show, beside ``results.jsonl``.
AGENT = "agent.safetensors"


class Group(NamedTuple):
    """The populations that differ by their seed alone."""

    arm: str
    amount: float
    rows: list[Row]

    @property
    def label(self) -> str:
        """As tables and pictures call it."""
        return Run(self.arm, self.amount, 0).label

    def values(self, column: str) -> list[float]:
        """The last test of every seed."""
        return [row["result"][column] for row in self.rows]


class Difference(NamedTuple):
    """A paired comparison with the populations that nothing was done to.

    Attributes:
        mean: Of arm - none over the seeds that both have.
        low: Lower end of the 95 % confidence interval of the mean.
        high: Upper end.
        p: Of the paired t-test, two-sided; NaN where it says nothing.
        seeds: How many.
    """

    mean: float
    low: float
    high: float
    p: float
    seeds: int


@dataclass(frozen=True)
class Results:
    """A finished sweep, or part of one.

    Attributes:
        rows: A result per population: its settings, ``curves`` and ``result``.
        agent: The one that is shown, of the population `shown`.
    """

    rows: list[Row]
    agent: Population

    @property
    def settings(self) -> Row:
        """What all populations have in common."""
        return self.rows[0]

    @property
    def sizes(self) -> list[int]:
        """Of the mazes that were tested in, the training size first."""
        return [self.settings["size"], *self.settings["larger"]]

    def steps_in(self, size: int) -> int:
        """Steps of an episode in mazes of a size."""
        return int(self.settings["steps"] * size * size // self.settings["size"] ** 2)

    @property
    def seeds(self) -> list[int]:
        """In ascending order."""
        return sorted({row["seed"] for row in self.rows})

    @property
    def title(self) -> str:
        """What evolved."""
        s = self.settings
        return (
            f"{s['agents']} agents, {s['hidden']} hidden units, {s['mazes']} mazes of {s['size']} x {s['size']}, "
            f"{s['generations']} generations"
        )

    @cached_property
    def wall_followers(self) -> dict[str, Row]:
        """What wall followers reach in the mazes of the sweep, by hand: goals and share of mazes solved."""
        return {hand: self._followed(hand) for hand in ("left", "right")}

    def _followed(self, hand: str) -> Row:
        s = self.settings
        trained = [training(s["mazes"], s["size"], seed) for seed in self.seeds]
        goals = {"train": torch.cat([follow_wall(mazes, s["steps"], hand) for mazes in trained])}
        goals |= {f"{n}": follow_wall(held_out(s["held_out"], n), self.steps_in(n), hand) for n in self.sizes}
        found = {f"goals_{name}": float(each.double().mean()) for name, each in goals.items()}
        return found | {f"solved_{name}": float((each > 0).double().mean()) for name, each in goals.items()}

    def groups(self) -> list[Group]:
        """Arm by arm, the one without anything first, by ascending amount."""
        kinds = sorted({(ARMS.index(row["arm"]), row["amount"]) for row in self.rows})
        return [
            Group(ARMS[arm], amount, [row for row in self.rows if (row["arm"], row["amount"]) == (ARMS[arm], amount)])
            for arm, amount in kinds
        ]

    def interval(self, group: Group, column: str) -> Difference:
        """Mean of a column over the seeds of a group, and its 95 % confidence interval."""
        values = group.values(column)
        return paired(values) if len(values) > 1 else Difference(values[0], values[0], values[0], float("nan"), 1)

    def compared(self, group: Group, measure: Callable[[Row], float]) -> Difference | None:
        """A group beside the populations that nothing was done to, seed by seed; None without two common seeds."""
        plain = {row["seed"]: measure(row["result"]) for row in self.rows if row["arm"] == "none"}
        pairs = [(measure(row["result"]), plain[row["seed"]]) for row in group.rows if row["seed"] in plain]
        return paired([a - b for a, b in pairs]) if len(pairs) > 1 and group.arm != "none" else None

    def severed_together(self, measure: Callable[[Row], float]) -> Difference | None:
        """The mean of all severed arms beside none, over the seeds that all of them have; None without two of them."""
        groups = [group for group in self.groups() if group.arm in ("none", "severance")]
        arms = [{row["seed"]: measure(row["result"]) for row in group.rows} for group in groups]
        seeds = set.intersection(*(set(arm) for arm in arms)) if arms else set()
        if len(seeds) < 2 or len(arms) < 2 or groups[0].arm != "none":
            return None
        plain, *severed = arms
        return paired([sum(arm[seed] for arm in severed) / len(severed) - plain[seed] for seed in sorted(seeds)])


def paired(differences: list[float]) -> Difference:
    """Mean, confidence interval and t-test of at least two differences."""
    values, count = np.round(differences, 12), len(differences)
    mean = float(values.mean())
    if values.min() == values.max():  # the test has nothing to divide by
        return Difference(mean, mean, mean, float("nan"), count)
    error = float(values.std(ddof=1)) / count**0.5
    half = float(stats.t.ppf(0.975, count - 1)) * error
    p = 2 * float(stats.t.sf(abs(mean) / error, count - 1))
    return Difference(mean, mean - half, mean + half, p, count)


def holm(ps: list[float]) -> list[float]:
    """P values corrected for their number (Holm 1979, Scand J Statist 6). NaN counts and stays NaN."""
    order = sorted(range(len(ps)), key=lambda i: (ps[i] != ps[i], ps[i]))
    corrected, least = [float("nan")] * len(ps), 0.0
    for rank, i in enumerate(order):
        if ps[i] == ps[i]:
            least = max(least, min(1.0, (len(ps) - rank) * ps[i]))
            corrected[i] = least
    return corrected


def shown(rows: list[Row]) -> Row:
    """Whose agent is shown: of the severed ones, or of all, the fittest in training; then the sparsest."""
    severed = [row for row in rows if row["arm"] == "severance"] or rows
    return max(severed, key=lambda row: (row["result"]["goals_train"], -row["result"]["edges"]))


def collect(out: Path) -> Results:
    """The results of all finished populations in a folder, from theirs or, where they are not kept, from its own files.

    Writes ``results.jsonl`` and the agent that is shown.

    Raises:
        RunError: It holds no results, or files that cannot be read or written.
    """
    rows = finished(out)
    if rows:
        rows.sort(key=lambda row: (ARMS.index(row["arm"]), row["amount"], row["seed"]))
        folder = RunFolder(out)
        write_lines(folder, "results.jsonl", rows)
        try:
            folder.write(AGENT, (out / shown(rows)["name"] / BEST).read_bytes())
        except FileNotFoundError as why:
            raise RunError(f"{why.filename} is missing; remove its folder and add --resume to evolve it anew") from why
    rows = rows or read_lines(out, "results.jsonl")
    try:
        return Results(rows, Population.load(out / AGENT))
    except (OSError, ValueError) as why:
        raise RunError(f"{out} holds no agent to show: {why}") from why
