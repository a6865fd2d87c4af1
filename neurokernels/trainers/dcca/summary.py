"""The tables of a sweep, in ``summary.md``: accuracy per arm, differences between arms, correlations."""

from collections.abc import Iterator

from rich.console import Console

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
    known = (first["network"], first["data"]) == ("cornet-z", "cifar100")
    brackets = "; in brackets the paper's with its recordings" if known else ""
    tables = [
        (f"{results.title}: accuracy (%), mean ± sd over seeds{brackets}", _accuracies(results, known)),
        ("differences in points between networks of the same seed, mean ± sd", _differences(results)),
        (f"mean of {first['dims']} canonical correlations at the end of training", _correlations(results)),
    ]
    publish([(title, lines) for title, lines in tables if len(lines) > 1], list(_findings(results)), folder, console)


def named(metric: str) -> str:
    """What a metric is called in tables and pictures."""
    attack, _, size = metric.partition("_")
    return f"{attack.upper()} {size}" if size else _NAMES[metric]


def _accuracies(results: Results, known: bool) -> Lines:
    lines = [["arm", "seeds", *map(named, results.metrics)]]
    for arm in results.arms:
        due = PUBLISHED.get(arm, {}) if known else {}
        cells = [
            results.accuracy(arm, metric).shown(1) + (f" ({due[metric]:.1f})" if metric in due else "")
            for metric in results.metrics
        ]
        lines.append([arm, str(len(results.of(arm))), *cells])
    return lines


def _differences(results: Results) -> Lines:
    lines = [["arms", "seeds", *map(named, results.metrics)]]
    for arm, other in results.pairs():
        found = (results.difference(arm, other, metric) for metric in results.metrics)
        cells = [f"{d.mean:+.1f} ± {d.sd:.1f}" if d.sd else f"{d.mean:+.1f}" for d in found]
        lines.append([f"{arm} − {other}", str(len(results.shared(arm, other))), *cells])
    return lines


def _correlations(results: Results) -> Lines:
    lines = [["arm", "training stimuli", "held-out stimuli", "largest held-out"]]
    for arm in results.arms:
        fitted, others = (results.correlation(arm, part).values for part in ("train", "held_out"))
        if fitted:
            best = max(results.dimensions(arm, "held_out"))
            lines.append([arm, *(value.shown(3) for value in (fitted[-1], others[-1], best))])
    return lines


def _findings(results: Results) -> Iterator[str]:
    """Which differences have the same sign in all seeds: few seeds allow no finer statistics."""
    for arm, other in results.pairs():
        count = len(results.shared(arm, other))
        if count < 2:
            continue
        found = {metric: results.differences(arm, other, metric) for metric in results.metrics}
        higher, lower = (
            ", ".join(named(metric) for metric, values in found.items() if all(sign * value > 0 for value in values))
            for sign in (1, -1)
        )
        yield f"{arm} − {other}, in all {count} seeds higher: {higher or 'nothing'}; lower: {lower or 'nothing'}"
    samples = results.rows[0]["attack_samples"]
    yield (
        f"the choice of {samples} images to attack makes standard errors of up to {50 / samples**0.5:.1f} points; all "
        "networks have the same ones"
    )
