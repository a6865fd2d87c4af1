"""The results of a sweep: one line per network, and what is known of the population."""

from dataclasses import dataclass
from pathlib import Path

from neurokernels.trainers.arms import Arms, collected
from neurokernels.trainers.loop import Row
from neurokernels.trainers.results import Spread, spread
from neurokernels.trainers.run import RunError, RunFolder
from neurokernels.trainers.similarity.population import ABOUT
from neurokernels.trainers.similarity.settings import ARMS

#: Comparisons of two arms of the same seed: with nothing, and of the neurons with everything else.
PAIRS = (
    ("shuffled", "none"),
    ("pixel", "none"),
    ("neural", "none"),
    ("neural", "shuffled"),
    ("neural", "pixel"),
    ("pixel", "shuffled"),
)


@dataclass(frozen=True)
class Results(Arms):
    """A finished sweep, or part of one.

    Attributes:
        rows: A result per network, with its ``losses`` by epoch, the weights of its ``taps``, and how alike the stimuli
            ``shown`` are to it.
        about: What `Population.about` says.
    """

    about: Row

    order = ARMS
    compared = PAIRS

    @property
    def title(self) -> str:
        """What was trained."""
        first = self.rows[0]
        what = f"{first['network']} on {self.learned} in grey, {first['epochs']} epochs"
        return f"{what}, {self.whose}, α = {first['alpha']:g}"

    @property
    def metrics(self) -> list[str]:
        """Accuracies: clean, noise and attacks by their sizes."""
        found = (f"{kind}_{size:g}" for kind in ("noise", "fgsm", "pgd") for size in sorted(self.rows[0][kind]))
        return ["clean", *found]

    def ends(self, arm: str, name: str) -> Spread:
        """Something that is no accuracy in the last evaluation, over seeds."""
        return spread(row["result"][name] for row in self.of(arm))

    def losses(self, arm: str) -> list[Spread]:
        """The similarity loss in training by epoch, over seeds; none for the arm without."""
        return [spread(values) for values in zip(*(row["losses"] for row in self.of(arm)), strict=True)]

    def alike(self, arm: str) -> list[float]:
        """How alike the stimuli that are shown are to the networks of an arm, condensed, mean over seeds."""
        return [spread(values).mean for values in zip(*(row["shown"] for row in self.of(arm)), strict=True)]


def collect(out: Path) -> Results:
    """The results of all finished networks in a folder; see `neurokernels.trainers.arms.collected`."""
    rows, about = collected(out, ARMS), RunFolder(out).read(ABOUT)
    if about is None:
        raise RunError(f"{out} holds no {ABOUT}")
    return Results(rows, about)
