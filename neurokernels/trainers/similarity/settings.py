"""What can be chosen on the command line."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

Arm = Literal["none", "shuffled", "pixel", "neural"]
#: In the order of tables and pictures.
ARMS: tuple[Arm, ...] = ("none", "shuffled", "pixel", "neural")


@dataclass(frozen=True)
class Run:
    """One network of a sweep."""

    arm: Arm
    seed: int

    @property
    def name(self) -> str:
        """Its folder in that of the sweep."""
        return f"{self.arm}-seed-{self.seed}"


@dataclass(frozen=True)
class Settings:
    """Trains the experiment of Li et al. 2019 with its controls, adds noise, attacks the networks, draws a report."""

    network: Literal["resnet18", "small"] = "resnet18"
    """resnet18: the paper's, for a GPU; small: a laptop preset, four convolutions and settings of its own."""
    data: Literal["cifar10", "cifar100", "digits"] = "cifar10"
    """Images to learn, in grey."""
    responses: Path | None = None
    """Folder of recordings in the layout of the V4 data of Cowley et al.; without it a synthetic population of Gabor
    filters responds to training images, which are then held out of training."""
    sessions: tuple[str, ...] = ()
    """Recording sessions to use; all of the folder if not given."""
    arms: tuple[Arm, ...] = ("none", "neural", "shuffled", "pixel")
    """What images are to be alike in. none: nothing. neural: predicted responses. shuffled: predicted responses to
    another image. pixel: their own pixels."""
    seeds: Annotated[tuple[int, ...], tyro.conf.arg(aliases=["--seed"])] = (0, 1, 2, 3, 4)
    """Seeds of weights, of the order of images and stimuli, and of the shuffling."""
    epochs: int = 40
    """Epochs to train."""
    batch: int = 64
    """Images per step."""
    images: int | None = None
    """Training images, evenly spread over all of them; None takes all."""
    learning_rate: float = 0.1
    """Learning rate of stochastic gradient descent."""
    momentum: float = 0.9
    """Its momentum."""
    schedule: Literal["steps", "cosine"] = "steps"
    """Learning rate over training. steps: x 0.3 after every tenth of training, and back to the first after half of it,
    as in the paper. cosine: down to zero."""
    augment: bool = True
    """Random flips and shifts of up to 4 pixels, of the images to learn alone."""
    alpha: float = 10.0
    """Factor on the similarity loss beside the cross-entropy; the paper takes 10 to 20."""
    scale: Literal["code", "paper"] = "code"
    """Of the similarity loss: code compares log(1 + s) - log(1 - s), paper half of it, a quarter of the loss."""
    pairs: Literal["disjoint", "all"] = "disjoint"
    """Pairs of the stimuli of a step: disjoint ones as in the paper, or every pair."""
    per_step: int = 32
    """Stimuli per step."""
    held_out: float = 0.15
    """Share of the stimuli that neither the predictive model nor a network learns from."""
    model_epochs: int = 20
    """Epochs to train the model that predicts the responses."""
    stimuli: int = 1200
    """Images for the synthetic population."""
    neurons: int = 200
    """Neurons of the synthetic population."""
    quick: bool = False
    """Demonstration: the small network in all arms, one seed, a part of CIFAR-10 and a few epochs; the digits data set
    if no source serves CIFAR-10."""
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
    """Epochs between evaluations; the last epoch is always evaluated, with noise and attacks."""
    noise: tuple[float, ...] = (0.05, 0.1, 0.15, 0.2, 0.25)
    """Standard deviations of the noise that is added, as parts of the range of a pixel."""
    noise_samples: int | None = None
    """Test images that noise is added to, evenly spread over all of them; None takes all."""
    fgsm: tuple[float, ...] = (0.004, 0.008, 0.016, 0.032)
    """Sizes of the fast gradient sign attack, as parts of the range of a pixel."""
    pgd: tuple[float, ...] = (0.004, 0.008, 0.016)
    """Sizes of the projected gradient attack."""
    pgd_steps: int = 20
    """Steps of the projected gradient attack."""
    pgd_step_size: float = 0.1
    """Size of each of them, as a part of the attack's."""
    least_steps: int = 60
    """Steps of the search for the smallest change that leads to a wrong answer."""
    attack_samples: int = 1000
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
