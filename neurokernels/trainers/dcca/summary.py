"""The tables of a sweep, in ``summary.md``: accuracy per arm, differences between arms, correlations."""

from rich.console import Console

from neurokernels.trainers.arms import accuracies, differences, findings
from neurokernels.trainers.dcca.results import Results
from neurokernels.trainers.results import Lines, publish
from neurokernels.trainers.run import RunFolder

#: Accuracy of CORnet-Z on CIFAR-100 with V1 recordings (Pirlot et al. 2022), in per cent.
PUBLISHED = {
    "none": {"clean": 47.4, "super": 59.0},
    "real": {"clean": 52.3, "super": 64.5},
    "shuffled": {"clean": 52.1},
}
_NAMES = {"clean": "clean", "super": "super-class"}


def summarise(results: Results, folder: RunFolder, console: Console) -> None:
    """Shows the tables and writes ``summary.md``."""
    first = results.rows[0]
    published = PUBLISHED if (first["network"], first["data"]) == ("cornet-z", "cifar100") else {}
    brackets = "; in brackets the paper's with its recordings" if published else ""

    def note(arm: str, metric: str) -> str:
        due = published.get(arm, {})
        return f" ({due[metric]:.1f})" if metric in due else ""

    tables = [
        (f"{results.title}: accuracy (%), mean ± sd over seeds{brackets}", accuracies(results, named, note)),
        ("differences in points between networks of the same seed, mean ± sd", differences(results, named)),
        (f"mean of {first['dims']} canonical correlations at the end of training", _correlations(results)),
    ]
    publish(
        [(title, lines) for title, lines in tables if len(lines) > 1], list(findings(results, named)), folder, console
    )


def named(metric: str) -> str:
    """What a metric is called in tables and pictures."""
    attack, _, size = metric.partition("_")
    return f"{attack.upper()} {size}" if size else _NAMES[metric]


def _correlations(results: Results) -> Lines:
    lines = [["arm", "training stimuli", "held-out stimuli", "largest held-out"]]
    for arm in results.arms:
        fitted, others = (results.correlation(arm, part).values for part in ("train", "held_out"))
        if fitted:
            best = max(results.dimensions(arm, "held_out"))
            lines.append([arm, *(value.shown(3) for value in (fitted[-1], others[-1], best))])
    return lines
