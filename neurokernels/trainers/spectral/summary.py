"""The tables of a sweep, in ``summary.md``: beside the published curves, at the end of training and along it."""

import statistics
from collections.abc import Iterator, Sequence

from rich.console import Console

from neurokernels.trainers.results import Lines, Spread, evaluations, publish, spread
from neurokernels.trainers.run import RunFolder
from neurokernels.trainers.spectral.published import Point, radius
from neurokernels.trainers.spectral.results import METRICS, Results, interpolated


def summarise(results: Results, folder: RunFolder, console: Console) -> None:
    """Shows the tables and writes ``summary.md``."""
    size = radius(results.network, results.data)
    title = (
        f"{results.title}, attacks of {size:g}: mean ± sd over seeds; "
        "in brackets what was published for the measured exponent"
    )
    tables = [(title, _end(results))]
    if path := _path(results):
        tables.append(("the plain network along training", path))
    if nearest := _nearest(results):
        tables.append(("mean distance to the published curves, in points of accuracy, after so many epochs", nearest))
    publish(tables, list(_findings(results)), folder, console)


def _end(results: Results) -> Lines:
    """A line per strength and target."""
    lines = [["strength", "target", "seeds", "measured", "on test", *(f"{metric} (%)" for metric in METRICS)]]
    for group in results.groups():
        ends = [row["result"] for row in group.rows]
        alpha = spread(end["measured_alpha"] for end in ends)
        cells = []
        for metric in METRICS:
            found = spread(100 * end[results.key(metric)] for end in ends)
            due = _due(results.published(metric, group.strength), alpha.mean)
            cells.append(found.shown(1) + ("" if due is None else f" ({100 * due:.1f})"))
        target = "–" if group.alpha is None else f"{group.alpha:g}"
        test = spread(end["test_alpha"] for end in ends)
        lines.append([f"{group.strength:g}", target, str(len(ends)), alpha.shown(2), test.shown(2), *cells])
    return lines


def _due(points: Sequence[Point], alpha: float) -> float | None:
    """What was published for an exponent; the plain network is a single point."""
    return points[0].accuracy if len(points) == 1 else interpolated(points, alpha)


def _path(results: Results) -> Lines:
    """The plain network from evaluation to evaluation, beside a run in plain PyTorch."""
    plain = [evaluations(row) for row in results.rows if row["alpha"] is None]
    if not plain:
        return []
    beside = {row["epoch"]: row for row in results.plain_torch()}
    names = {"alpha": "measured_alpha"} | {metric: results.key(metric) for metric in METRICS}
    lines = [["epoch", "measured", *(f"{metric} (%)" for metric in METRICS)]]
    lines[0] += ["plain PyTorch, one seed"] if beside else []
    for some in zip(*plain, strict=False):
        values = [spread(row[name] for row in some) for name in names.values()]
        line = [str(some[0]["epoch"]), values[0].shown(2)]
        line += [Spread(100 * v.mean, 100 * v.sd).shown(1) for v in values[1:]]
        if beside:
            seen = beside.get(some[0]["epoch"])
            line.append(f"{seen['alpha']:.2f} / " + " / ".join(f"{100 * seen[m]:.1f}" for m in METRICS) if seen else "")
        lines.append(line)
    return lines


def _nearest(results: Results) -> Lines:
    """Per strength and epoch, how far measured points are from the published curve at the same exponent."""
    lines = [["strength", "epoch", "networks", *METRICS]]
    for strength in results.strengths:
        rows = [row for row in results.rows if row["strength"] == strength]
        epochs = sorted({seen["epoch"] for row in rows for seen in evaluations(row)})
        for epoch in epochs:
            seen = [e for row in rows for e in evaluations(row) if e["epoch"] == epoch]
            apart: dict[str, list[float]] = {metric: [] for metric in METRICS}
            for metric in METRICS:
                points = results.published(metric, strength)
                dues = [(e[results.key(metric)], _due(points, e["measured_alpha"])) for e in seen]
                apart[metric] = [100 * abs(found - due) for found, due in dues if due is not None]
            if all(apart.values()):
                means = [f"{statistics.mean(values):.1f}" for values in apart.values()]
                lines.append([f"{strength:g}", str(epoch), str(len(apart["clean"])), *means])
    return lines if len(lines) > 1 else []


def _findings(results: Results) -> Iterator[str]:
    """What the paper is about, in numbers: which target is the most robust one at every strength."""
    for metric in METRICS[1:]:
        for strength in results.strengths:
            groups = [group for group in results.groups() if group.strength == strength]
            means = {g.alpha: spread(row["result"][results.key(metric)] for row in g.rows).mean for g in groups}
            alpha, best = max(means.items(), key=lambda item: item[1])
            where = "plain network" if alpha is None else f"strength {strength:g}, best target {alpha:g}"
            points = results.published(metric, strength)
            top = max(points, key=lambda p: p.accuracy) if points else None
            beside = f"; published: {100 * top.accuracy:.1f} at measured {top.alpha:g}" if top else ""
            yield f"{metric}, {where}: {100 * best:.1f} %{beside}"
