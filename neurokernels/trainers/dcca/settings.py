"""What can be chosen on the command line."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

Arm = Literal["none", "scaled", "real", "shuffled", "vicreg", "vicreg-shuffled"]
#: In the order of tables and pictures.
ARMS: tuple[Arm, ...] = ("none", "scaled", "shuffled", "real", "vicreg-shuffled", "vicreg")


@dataclass(frozen=True)
class Run:
    """One network of a sweep."""

    arm: Arm
    seed: int

    @property
    def name(self) -> str:
        """Its folder in that of the sweep."""
        return f"{self.arm}-seed-{self.seed}"

    @property
    def loss(self) -> Literal["dcca", "vicreg"] | None:
        """How activations and responses are compared; None where they are not."""
        return None if self.arm in ("none", "scaled") else "vicreg" if self.arm.startswith("vicreg") else "dcca"

    @property
    def shuffled(self) -> bool:
        """Whether responses come in the wrong order."""
        return self.arm.endswith("shuffled")


@dataclass(frozen=True)
class Settings:
    """Trains the experiment of Pirlot et al. 2022 with its controls, attacks the networks and draws a report."""

    network: Literal["cornet-z", "small"] = "cornet-z"
    """cornet-z: the paper's; small: a laptop preset, three smaller blocks on CIFAR-10 with settings of its own."""
    data: Literal["cifar100", "cifar10", "digits"] = "cifar100"
    """Images to learn."""
    responses: Path | None = None
    """Folder of recordings in the layout of the V4 data of Cowley et al.; without it a synthetic population of Gabor
    filters responds to training images, which are then held out of training."""
    sessions: tuple[str, ...] = ()
    """Recording sessions to use, each with projections of its own; all of the folder if not given."""
    arms: tuple[Arm, ...] = ("none", "real", "shuffled", "vicreg")
    """none: no regulariser. scaled: none either, but the factor on the cross-entropy that the others have. real:
    responses to the same image. shuffled: the same responses in random order. vicreg, vicreg-shuffled: VICReg in place
    of DCCA."""
    seeds: Annotated[tuple[int, ...], tyro.conf.arg(aliases=["--seed"])] = (0, 1, 2, 3, 4)
    """Seeds of weights, of the order of images, of the shuffling and of the split of the recordings."""
    epochs: int = 100
    """Epochs to train."""
    batch: int = 128
    """Images per step."""
    images: int | None = None
    """Training images, evenly spread over all of them; None takes all."""
    learning_rate: float = 0.01
    """Learning rate of stochastic gradient descent."""
    momentum: float = 0.9
    """Its momentum."""
    schedule: Literal["constant", "cosine"] = "constant"
    """Learning rate over training; cosine ends at zero."""
    augment: bool = False
    """Random flips and shifts of up to 2 pixels, of the images to learn alone."""
    stem_stride: int = 2
    """Stride of the first convolution; 1 gives CORnet-Z larger maps of small images."""
    block: Literal["V1", "V2", "V4", "IT"] = "V1"
    """The block that is pulled."""
    mix: float = 0.5
    """The paper's lambda: the loss is mix x alignment + (1 - mix) x cross-entropy."""
    dims: int = 10
    """Canonical dimensions."""
    hidden: tuple[int, ...] = (1024, 1024, 1024)
    """Hidden layers of each projection."""
    dropout: float = 1e-4
    """Dropout in them."""
    weight_decay: float = 1e-5
    """Weight decay on them."""
    pairs: int = 50
    """Stimuli with responses per step."""
    components: int = 800
    """Principal components that responses are reduced to, if they have more."""
    held_out: float = 0.15
    """Share of the stimuli that is kept for the held-out correlations."""
    vicreg_strength: float = 0.25
    """Factor on VICReg beside mix, whose terms are weighted 25, 25 and 1 as published."""
    stimuli: int = 1200
    """Images for the synthetic population."""
    neurons: int = 200
    """Neurons of the synthetic population."""
    quick: bool = False
    """Demonstration: the small network in three arms, one seed, a part of CIFAR-10 and a few epochs; the digits data
    set if no source serves CIFAR-10."""
    out: Path | None = None
    """Folder of the sweep; a new one below runs/ if not given."""
    resume: bool = False
    """Go on with the sweep in --out: finished networks stay, the interrupted one goes on to the same numbers, and
    arms and seeds can be added."""
    jobs: int = 1
    """Networks trained at the same time, each in a process of its own."""
    threads: int = 1
    """CPU threads of each process. One gives the same numbers whatever the number of cores."""
    every: int = 1
    """Epochs between evaluations; the last epoch is always evaluated, and attacked."""
    fgsm: tuple[float, ...] = (0.005, 0.01, 0.02, 0.04)
    """Sizes of the fast gradient sign attack, as parts of the range of a pixel."""
    pgd: tuple[float, ...] = (0.005, 0.01, 0.02)
    """Sizes of the projected gradient attack."""
    pgd_steps: int = 20
    """Steps of the projected gradient attack."""
    pgd_step_size: float = 0.1
    """Size of each of them, as a part of the attack's."""
    attack_samples: int = 2000
    """Test images that are attacked, evenly spread over all of them; clean accuracy takes all."""
    device: str = "auto"
    """Torch device; auto takes a GPU if there is one."""
    backend: str = "auto"
    """Backend of the ops: auto, reference, cpu, triton or cuda."""
    data_root: Path | None = None
    """Folder with data sets; else NEUROKERNELS_DATA, else the user's cache folder."""
    checkpoint_seconds: float = 60.0
    """Longest time between two checkpoints."""

    @property
    def population(self) -> str:
        """Whose responses: the name of their folder, or ``gabor``."""
        return "gabor" if self.responses is None else self.responses.resolve().name

    def runs(self) -> list[Run]:
        """The networks of the sweep: all arms of a seed before the next one, so that it can be stopped at any time."""
        return [Run(arm, seed) for seed in self.seeds for arm in self.arms]

    def numbers(self, run: Run) -> dict[str, Any]:
        """What the numbers of one run depend on."""
        elsewhere = (
            "arms", "seeds", "quick", "out", "resume", "jobs", "data_root", "checkpoint_seconds", "responses"
        )  # fmt: skip
        chosen = {name: value for name, value in asdict(self).items() if name not in elsewhere}
        return asdict(run) | chosen | {"population": self.population}
