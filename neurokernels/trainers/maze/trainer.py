"""Evolves one population of the sweep: generations, tests in unseen mazes, checkpoints."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from neurokernels import maze_rollout
from neurokernels.evolution import Evolution, Generation, Mazes, Population, evolve, fitness
from neurokernels.trainers.loop import Interrupted, Row, progress, signals
from neurokernels.trainers.maze.labyrinths import held_out, training
from neurokernels.trainers.maze.settings import Run, Settings
from neurokernels.trainers.run import RunError, RunFolder

#: What a checkpoint is, beside the lines of ``metrics.jsonl`` up to its generation.
POPULATION = "population.safetensors"
#: The agent that was chosen at the end.
BEST = "best.safetensors"


class Examiner:
    """Chooses an agent by training alone, and tests it."""

    def __init__(self, settings: Settings, train: Mazes) -> None:
        self.settings, self.train = settings, train
        device, seen = torch.device(settings.device), train.to("cpu")
        self.held = {n: held_out(settings.held_out, n, apart_from=seen).to(device) for n in settings.sizes}

    def choose(self, population: Population, run: Run) -> Population:
        """The best of the elite that `evolve` returned.

        It comes first, but for the arm with noise: there the order is that of single noisy evaluations, so the elite
        is evaluated on the training mazes once more, with all connections.
        """
        if run.arm != "noise":
            return population[:1]
        elite = population[: max(1, round(self.settings.elite * len(population)))]
        found, _ = fitness(elite, self.train, steps=self.settings.steps, mode=self.settings.mode)
        return elite[int(found.argmax())]

    def __call__(self, agent: Population) -> Row:
        """Goals per maze and share of mazes solved, in training and in every size of unseen mazes."""
        seen = {"kept": float(agent.kept[0]), "edges": int(agent.edges[0])}
        row: Row = seen | self._tested(agent, "train", self.train, self.settings.steps)
        for size, mazes in self.held.items():
            row |= self._tested(agent, f"{size}", mazes, self.settings.steps_in(size))
        return row

    def _tested(self, agent: Population, name: str, mazes: Mazes, steps: int) -> Row:
        goals: Tensor = maze_rollout(agent, mazes, steps=steps, mode=self.settings.mode).goals[0].double()
        return {f"goals_{name}": float(goals.mean()), f"solved_{name}": float((goals > 0).double().mean())}


class Lineage:
    """A population on its way through the generations, and what was noted of each."""

    def __init__(self, settings: Settings, run: Run, folder: RunFolder) -> None:
        self.settings, self.run, self.folder = settings, run, folder
        self.device = torch.device(settings.device)
        self.train = training(settings.mazes, settings.size, run.seed).to(self.device)
        self.examine = Examiner(settings, self.train)
        self.rows: list[Row] = []
        self.population = Population.random(
            settings.agents, hidden=settings.hidden, density=run.amount if run.arm == "sparse" else 1.0, seed=run.seed,
            gain=settings.gain, recurrent=settings.recurrent, activation=settings.activation,
        ).to(self.device)  # fmt: skip

    def restore(self) -> bool:
        """Goes back to the folder's checkpoint; says whether there was one."""
        path = self.folder.path / POPULATION
        if not path.exists():
            return False
        try:
            self.population = Population.load(path).to(self.device)
            lines = (self.folder.path / "metrics.jsonl").read_text().splitlines()
            rows = [json.loads(line) for line in lines]
        except (OSError, ValueError) as why:
            raise RunError(f"{why}; remove {self.folder.path} to start this run anew") from why
        # Metrics are written before the population: after a kill between the two they are ahead of it.
        self.rows = rows[: self.population.generation]
        if len(self.rows) < self.population.generation:
            raise RunError(
                f"{path} is of generation {self.population.generation}, of which metrics.jsonl knows nothing"
            )
        return True

    def save(self) -> None:
        """Writes the checkpoint."""
        self.folder.write_metrics(self.rows)
        _write(self.population, self.folder.path / POPULATION)

    def step(self) -> Row:
        """Goes on by a generation, and tests the best agent if it is time to."""
        began, before = time.monotonic(), self.rows[-1]["seconds"] if self.rows else 0.0
        settings, run = self.settings, self.run
        evolved: Evolution = evolve(
            self.population, self.train, generations=1, severance=run.amount_of("severance"),
            noise=run.amount_of("noise"), l1=run.amount_of("l1"), mutation=settings.mutation, elite=settings.elite,
            seed=run.seed, steps=settings.steps, mode=settings.mode,
        )  # fmt: skip
        self.population = evolved.population
        row = _described(evolved.history[0], self.population.network.edges)
        if row["generation"] % settings.every == 0 or row["generation"] == settings.generations:
            row |= self.examine(self.examine.choose(self.population, run))
        self.rows.append(row | {"seconds": round(before + time.monotonic() - began, 3)})
        return self.rows[-1]

    def steps(self) -> Iterator[Row]:
        """The generations that are left."""
        while self.population.generation < self.settings.generations:
            yield self.step()

    def finish(self) -> Row:
        """Keeps the agent that was chosen, and writes ``result.json``."""
        self.save()
        _write(self.examine.choose(self.population, self.run).to("cpu"), self.folder.path / BEST)
        ends = {"name": self.run.name} | self.settings.numbers(self.run)
        ends |= {"curves": _curves(self.rows), "result": self.rows[-1], "seconds": round(self.rows[-1]["seconds"], 1)}
        self.folder.write("result.json", (json.dumps(ends) + "\n").encode())
        return ends


def _write(population: Population, path: Path) -> None:
    try:
        population.save(path)
    except OSError as why:
        raise RunError(f"{path} cannot be written: {why}; choose another folder with --out") from why


def _described(seen: Generation, edges: int) -> Row:
    """A generation in numbers. Generations are counted from 1."""
    return {
        "generation": seen.number + 1,
        "best_fitness": float(seen.fitness.max()),
        "mean_fitness": float(seen.fitness.mean()),
        "mean_goals": float(seen.goals.mean()),
        "mean_kept": float(seen.edges.double().mean() / edges),
    }


def _curves(rows: list[Row]) -> dict[str, list[Any]]:
    """The tested generations, column by column, with the digits that a picture needs."""
    tested = [row for row in rows if "goals_train" in row]
    return {name: [_short(row[name]) for row in tested] for name in tested[0] if name not in ("seconds", "edges")}


def _short(value: Any) -> Any:
    return float(f"{value:.4g}") if isinstance(value, float) else value


def train(settings: Settings, run: Run, folder: RunFolder, console: Console) -> Row:
    """Evolves a population, from its checkpoint if there is one, and writes ``result.json`` at the end.

    Returns:
        The result: settings of the run, the tested generations, and the last one.

    Raises:
        Interrupted: The run was asked to stop and has saved where it was.
    """
    lineage = Lineage(settings, run, folder)
    if lineage.restore():
        console.print(f"{run.name}: going on after generation {lineage.population.generation}", highlight=False)
    with signals() as received, progress(console) as bar:
        task = bar.add_task("", total=settings.generations, completed=lineage.population.generation)
        saved = time.monotonic()
        for row in lineage.steps():
            if "goals_train" in row:
                console.print(_line(row, settings), highlight=False, soft_wrap=True)
            if received or "goals_train" in row or time.monotonic() - saved >= settings.checkpoint_seconds:
                lineage.save()
                saved = time.monotonic()
            if received:
                raise Interrupted(received[0], f"generation {row['generation']} of {settings.generations}")
            bar.update(task, completed=row["generation"], description=f"fitness {row['best_fitness']:.2f}")
    return lineage.finish()


def _line(row: Row, settings: Settings) -> str:
    tests = "  ".join(f"{n}: {row[f'goals_{n}']:.2f} ({row[f'solved_{n}']:.0%})" for n in ("train", *settings.sizes))
    began, ended = f"generation {row['generation']:4d}", f"kept {row['kept']:.1%}  {row['seconds']:.1f} s"
    return f"{began}  goals per maze (solved) {tests}  {ended}"
