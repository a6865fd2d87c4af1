"""What can be chosen on the command line."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro


@dataclass(frozen=True)
class Settings:
    """Trains the spiking digit network of Gerum & Schilling 2021 and draws a report."""

    data: Literal["mnist", "digits"] = "mnist"
    """Images to learn."""
    epochs: int = 30
    """Epochs to train."""
    seeds: Annotated[tuple[int, ...], tyro.conf.arg(aliases=["--seed"])] = (0,)
    """One network is trained per seed."""
    quick: bool = False
    """Laptop preset: 3 epochs, --compare, and the digits data set if no source serves MNIST."""
    compare: bool = False
    """Train the same network with plain PyTorch loops beside it, on the same spikes."""
    out: Path | None = None
    """Folder of the run; a new one below runs/ if not given."""
    resume: bool = False
    """Go on with the run in --out, to the same numbers as if it had never stopped."""
    device: str = "auto"
    """Torch device; auto takes a GPU if there is one."""
    backend: str = "auto"
    """Backend of the ops: auto, reference, cpu, triton or cuda."""
    threads: int = 1
    """CPU threads. One gives the same numbers whatever the number of cores, and does not suffer on a busy machine."""
    steps: int = 100
    """Time steps that an image is shown for."""
    dt: float = 0.005
    """Length of a time step: the spike probability of a white pixel, and ten times the largest initial leak."""
    batch: int = 256
    """Images per training step."""
    hidden: int = 128
    """LIF neurons."""
    learning_rate: float = 1e-3
    """Initial learning rate of Adam."""
    monitor: Literal["test_accuracy", "train_loss"] = "test_accuracy"
    """What must improve, or else the learning rate falls to a tenth after 7 epochs. The authors' script watches the
    test accuracy; train_loss keeps the test images out of it."""
    data_root: Path | None = None
    """Folder with data sets; else NEUROKERNELS_DATA, else the user's cache folder."""
    checkpoint_seconds: float = 60.0
    """Longest time between two checkpoints."""

    def numbers(self, seed: int) -> dict[str, Any]:
        """What the numbers of one run depend on."""
        elsewhere = ("seeds", "quick", "out", "resume", "data_root", "checkpoint_seconds")
        return {"seed": seed} | {name: value for name, value in asdict(self).items() if name not in elsewhere}
