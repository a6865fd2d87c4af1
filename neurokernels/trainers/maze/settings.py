"""What can be chosen on the command line."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

#: What a run does beside evolving: nothing, sever connections, start with few of them, silence some in each evaluation,
#: or pay for the size of weights.
ARMS = ("none", "severance", "sparse", "noise", "l1")


@dataclass(frozen=True)
class Run:
    """One population of a sweep.

    Attributes:
        arm: One of `ARMS`.
        amount: Probability of severance, density at the start, probability of silence, or cost; 0 for ``none``.
        seed: Of training mazes, first weights and evolution: the same ones for every arm.
    """

    arm: str
    amount: float
    seed: int

    @property
    def label(self) -> str:
        """What runs that differ by their seed alone have in common."""
        return "none" if self.arm == "none" else f"{self.arm} {self.amount:g}"

    @property
    def name(self) -> str:
        """Its folder in that of the sweep."""
        return f"{self.label.replace(' ', '-')}-seed-{self.seed}"

    def amount_of(self, arm: str) -> float:
        """Its amount if it is of that arm, else 0."""
        return self.amount if self.arm == arm else 0.0


@dataclass(frozen=True)
class Settings:
    """Evolves small networks in mazes with and without severed connections, and tests them in mazes they never saw."""

    severances: tuple[float, ...] = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
    """Probabilities that a connection of a child is severed for good: one population for each of them and each seed."""
    sparse: tuple[float, ...] = (0.3, 0.1)
    """Control: densities of networks that are sparse from the start, of which nothing is severed."""
    noises: tuple[float, ...] = (0.01, 0.05)
    """Control like dropout: probabilities that a connection is silent while a generation is evaluated."""
    l1s: tuple[float, ...] = (0.001, 0.01)
    """Control: costs in goals per maze of each unit of a weight's magnitude."""
    seeds: Annotated[tuple[int, ...], tyro.conf.arg(aliases=["--seed"])] = (0, 1, 2, 3, 4)
    """Seeds of training mazes, first weights and evolution; each arm has the same ones."""
    generations: int = 300
    """Generations of each population."""
    agents: int = 200
    """Agents of a population."""
    mazes: int = 16
    """Mazes that fitness is measured on."""
    size: int = 8
    """Cells along a side of these mazes."""
    steps: int = 200
    """Steps of an episode in them. In larger mazes they grow with the number of cells."""
    larger: tuple[int, ...] = (12, 16)
    """Cells along a side of larger mazes to test in."""
    held_out: int = 256
    """Mazes of each size to test in."""
    every: int = 20
    """Generations from one test to the next; the last one is always tested."""
    hidden: int = 20
    """Units of the hidden layer."""
    recurrent: bool = True
    """Whether hidden units read each other one step later."""
    activation: Literal["tanh", "relu", "sign"] = "tanh"
    """Of hidden units. relu needs --mode float."""
    gain: float = 1.0
    """Standard deviation of a unit's input at the start if all its sources were 1."""
    mutation: float = 0.1
    """Standard deviation of what is added to every weight of a child."""
    elite: float = 0.2
    """Part of the population that stays and has children."""
    mode: Literal["exact", "float"] = "exact"
    """exact: int8 weights, the same numbers on every machine; float: the same for any number of threads."""
    quick: bool = False
    """Laptop preset: two arms, two seeds and smaller mazes."""
    out: Path | None = None
    """Folder of the sweep; a new one below runs/ if not given."""
    resume: bool = False
    """Go on with the sweep in --out: finished populations stay, the interrupted one goes on to the same generations;
    arms and seeds can be added."""
    jobs: int = 1
    """Populations evolved at the same time, each in a process of its own."""
    threads: int = 1
    """CPU threads of each process; they change no number."""
    device: str = "auto"
    """Torch device; auto takes a GPU if there is one."""
    backend: str = "auto"
    """Backend of the ops: auto, reference, cpu, triton or cuda."""
    checkpoint_seconds: float = 60.0
    """Longest time between two checkpoints."""

    @property
    def epochs(self) -> int:
        """What a sweep counts."""
        return self.generations

    @property
    def sizes(self) -> tuple[int, ...]:
        """Of the mazes to test in, the training size first."""
        return (self.size, *self.larger)

    def steps_in(self, size: int) -> int:
        """Steps of an episode in mazes of a size: in proportion to their cells."""
        return self.steps * size * size // (self.size * self.size)

    def runs(self) -> list[Run]:
        """The populations of the sweep, seed by seed: an interrupted sweep can be compared."""
        kinds = [("none", 0.0)]
        amounts = {"severance": self.severances, "sparse": self.sparse, "noise": self.noises, "l1": self.l1s}
        kinds += [(arm, amount) for arm in ARMS[1:] for amount in amounts[arm]]
        return [Run(*kind, seed) for seed in self.seeds for kind in kinds]

    def numbers(self, run: Run) -> dict[str, Any]:
        """What the numbers of one run depend on."""
        elsewhere = (
            "severances", "sparse", "noises", "l1s", "seeds", "quick", "out", "resume", "jobs", "checkpoint_seconds",
            "threads",
        )  # fmt: skip
        return asdict(run) | {name: value for name, value in asdict(self).items() if name not in elsewhere}
