"""The tables of a sweep, in ``summary.md``: accuracy per arm, differences between arms, similarities, sessions."""

from rich.console import Console

from neurokernels.trainers.arms import accuracies, differences, findings
from neurokernels.trainers.results import Lines, publish
from neurokernels.trainers.run import RunFolder
from neurokernels.trainers.similarity.results import Results


def summarise(results: Results, folder: RunFolder, console: Console) -> None:
    """Shows the tables and writes ``summary.md``."""
    about = results.about
    tables = [
        (f"{results.title}: accuracy (%), mean ± sd over seeds", accuracies(results, named)),
        ("differences in points between networks of the same seed, mean ± sd", differences(results, named)),
        (
            "median smallest change that makes an answer wrong (x 1000, parts of a pixel's range), similarity loss at "
            f"the end, correlation with similarities of neurons and pixels ({about['held_out']} held-out stimuli)",
            _similarities(results),
        ),
        ("sessions: signal over noise w and predicted correlation v, means over neurons", _sessions(results)),
    ]
    alike = f"over held-out stimuli the similarities of neurons and of pixels correlate by {about['neural_pixel']:.2f}"
    found = [(title, lines) for title, lines in tables if len(lines) > 1]
    publish(found, [*findings(results, named), alike], folder, console)


def named(metric: str) -> str:
    """What a metric is called in tables and pictures."""
    kind, _, size = metric.partition("_")
    return f"{kind if kind == 'noise' else kind.upper()} {size}" if size else kind


def _similarities(results: Results) -> Lines:
    lines = [["arm", "smallest change", "similarity loss", "neurons", "pixels"]]
    for arm in results.arms:
        least = results.ends(arm, "least")
        losses = results.losses(arm)
        cells = [
            least._replace(mean=1000 * least.mean, sd=1000 * least.sd).shown(2),
            losses[-1].shown(3) if losses else "–",
            *(results.ends(arm, f"{name}_agreement").shown(3) for name in ("neural", "pixel")),
        ]
        lines.append([arm, *cells])
    return lines


def _sessions(results: Results) -> Lines:
    lines = [["session", "neurons", "used", "images", "noise from", "w", "v", "agreement"]]
    for row in results.about["sessions"]:
        cells = [*(row[name] for name in ("name", "neurons", "used", "images", "noise"))]
        lines.append([*map(str, cells), *(f"{row[name]:.2f}" for name in ("w", "v", "agreement"))])
    return lines
