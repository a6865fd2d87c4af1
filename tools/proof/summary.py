"""What the proof found: one row for each part and stage, out of records, logs and results; as a table and as JSON."""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from proof.plan import BENCHES, PARTS, ROOT, STAGES, Options
from proof.running import Outcome

HEADER = ("part", "stage", "result", "seconds", "what was found")
#: The worst of several results comes last.
_ORDER = ("passed", "not proven", "failed")
_SUMMARY = re.compile(r"={5,} (?:ERROR|RACECHECK|LEAK) SUMMARY: (.*)")


@dataclass
class Row:
    """What a stage found of a part.

    Attributes:
        part: The part.
        stage: The stage.
        result: ``passed``, ``not proven`` or ``failed``.
        seconds: From the first start to the last end of its processes, where they run side by side; else the sum.
        found: In a few words.
        failures: Tests, groups and steps that did not pass, each with its reason.
        skipped: Reasons for which tests were left out, with their number.
        goals: Goals of benchmarks, in words.
    """

    part: str
    stage: str
    result: str
    seconds: float
    found: str
    failures: list[str] = field(default_factory=list)
    skipped: dict[str, int] = field(default_factory=dict)
    goals: list[str] = field(default_factory=list)


def rows(options: Options, outcomes: Iterable[Outcome], since: str) -> list[Row]:
    """The rows, by part and stage in the order of the plan; build and report first and last if they did not pass.

    Args:
        options: What was asked for.
        outcomes: What became of the steps that have run.
        since: The date of the start, as results are stamped: older groups in the same files are none of ours.
    """
    found: dict[tuple[str, str], list[Outcome]] = {}
    for outcome in outcomes:
        found.setdefault((outcome.part, outcome.stage), []).append(outcome)
    order = [("all", "build"), *((part, stage) for part in PARTS for stage in STAGES), ("all", "report")]
    made = []
    for part, stage in order:
        steps = found.get((part, stage), [])
        if not steps or (part == "all" and all(step.status == "passed" for step in steps)):
            continue
        made.append(_row(options, part, stage, steps, since))
    return made


def _row(options: Options, part: str, stage: str, steps: list[Outcome], since: str) -> Row:
    side_by_side = stage in ("check", "sanitize")
    seconds = [step.seconds for step in steps]
    row = Row(part, stage, "passed", max(seconds) if side_by_side else sum(seconds), "")
    for step in steps:
        if step.status == "absent":
            row.result = _worse(row.result, "not proven")
            row.failures.append(f"{step.step}: {step.reason}")
        elif step.status != "passed":
            row.result = "failed"
            row.failures.append(f"{step.step}: {step.reason}")
    records = [record for step in steps for record in _records(options.work / f"{step.step}.jsonl")]
    if records:
        _judge(row, records)
    if stage == "check" and part == "env":
        row.found = _environment(options)
    elif stage == "check":
        row.found = _tests(records)
    elif stage == "sanitize":
        row.found = _sanitized(row, steps)
    elif stage == "bench":
        row.found = _raced(row, options, part, since)
    return row


def _worse(one: str, other: str) -> str:
    return max(one, other, key=_ORDER.index)


def _records(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a record; the last one may be cut short."""
    if path.exists():
        for line in path.read_text().splitlines():
            try:
                yield json.loads(line)
            except json.JSONDecodeError:
                return


def _judge(row: Row, records: list[dict[str, Any]]) -> None:
    for record in records:
        if record["outcome"] == "failed":
            row.result = "failed"
            row.failures.append(f"{record['test']}: {record['message'].splitlines()[0] if record['message'] else ''}")
        elif record["outcome"] == "late":
            row.result = _worse(row.result, "not proven")
            row.failures.append(f"{record['test']}: left out, the time was up")
        elif record["outcome"] == "skipped":
            reason = record["message"].removeprefix("Skipped: ")
            row.skipped[reason] = row.skipped.get(reason, 0) + 1


def _tests(records: list[dict[str, Any]]) -> str:
    counts = {name: sum(r["outcome"] == name for r in records) for name in ("passed", "failed", "skipped", "late")}
    said = [f"{count} {name}" for name, count in counts.items() if count or name == "passed"]
    judged = [record for record in records if record["ulps"] > 0]
    if judged:
        worst, tightest = max(r["ulps"] for r in judged), max(r["share"] for r in judged)
        said.append(f"worst {worst:.3g} ulps, {tightest:.0%} of what is allowed")
    return ", ".join(said)


def _environment(options: Options) -> str:
    try:
        report = json.loads((options.proof / "environment.json").read_text())
    except (OSError, json.JSONDecodeError):
        return "no report"
    routes = [f"{name} {'runs' if route['ok'] else 'DOES NOT RUN'}" for name, route in report["routes"].items()]
    absent = [name.split(".")[0] for name, peer in report["peers"].items() if not peer["ok"] and " " not in name]
    packages = ", ".join(f"{n} {report['packages'].get(n)}" for n in ("torch", "triton", "cupy-cuda13x"))
    return "; ".join([", ".join(routes), packages, *([f"without {', '.join(absent)}"] if absent else [])])


def sanitizer_verdict(text: str) -> tuple[bool | None, str]:
    """What a sanitizer's log says: whether it is clean, None if it does not say; and in words."""
    found = _SUMMARY.findall(text)
    if not found:
        said = [line for line in text.splitlines() if line.startswith("=========")]
        return None, said[-1].strip("= ") if said else "no summary in its log"
    clean = all(re.match(r"0 (errors|hazards)", line) for line in found)
    return clean, found[-1].strip()


def _sanitized(row: Row, steps: list[Outcome]) -> str:
    said = []
    for step in steps:
        tool, log = step.step.split("-")[0], Path(ROOT, step.log)
        text = log.read_text(errors="replace") if step.log and log.exists() else ""
        kernels = re.search(r"(\d+) CUDA kernels ran", text)
        if step.status == "absent":
            said.append(f"{tool}: absent")
            continue
        clean, words = sanitizer_verdict(text)
        if clean is None:
            row.result = _worse(row.result, "not proven")
        elif not clean:
            row.result = "failed"
            row.failures.append(f"{step.step}: {words}")
        said.append(f"{tool}: {words}" + (f", {kernels[1]} kernels" if kernels else ""))
    return "; ".join(said)


def _raced(row: Row, options: Options, part: str, since: str) -> str:
    """Groups of this run: how many, the best ratio to another row, and goals."""
    groups: list[dict[str, Any]] = []
    for name in BENCHES[part]:
        path = options.results / options.slug / f"{name}.json"
        try:
            document = json.loads(path.read_text())
        except (OSError, json.JSONDecodeError):
            continue
        groups += [g for g in document["groups"] if g["stamp"]["date"] >= since]
    best = max((found for group in groups for found in _ratios(group)), default=None)
    judged = [(group["name"], goal) for group in groups for goal in group["goals"]]
    met = [_met(goal) for _, goal in judged]
    row.goals = [
        f"{'met' if good else 'missed'}: {name}: {goal['claim']} (bound {goal['bound']:.4g}, measured "
        f"{'nothing' if goal['measured'] is None else format(goal['measured'], '.4g')})"
        for (name, goal), good in zip(judged, met, strict=True)
    ]
    if not groups:
        row.result = _worse(row.result, "failed")
        row.failures.append(f"bench-{part}: no group was raced")
    said = [f"{len(groups)} groups"]
    if best:
        said.append(f"best {best[0]:.3g} x {best[1]} ({best[2]})")
    if judged:
        said.append(f"goals {sum(met)} of {len(met)}")
    return ", ".join(said)


def _ratios(group: dict[str, Any]) -> Iterator[tuple[float, str, str]]:
    """How many times as fast ours is as the fastest of the others; a row of kernels alone is no call."""
    timed = [(row["timing"]["best"], row["name"], row["ours"]) for row in group["rows"] if row["timing"]]
    mine = [time for time, name, ours in timed if ours and not name.endswith(" kernels")]
    others = [(time, name) for time, name, ours in timed if not ours]
    if mine and others:
        fastest, name = min(others)
        yield fastest / min(mine), name, group["name"]


def _met(goal: dict[str, Any]) -> bool:
    if goal["measured"] is None:
        return False
    return goal["measured"] >= goal["bound"] if goal["at_least"] else goal["measured"] <= goal["bound"]


def verdict(made: list[Row]) -> tuple[str, int]:
    """The worst result, and its exit status: 0 for all passed, 1 for something failed, 3 for something not proven."""
    worst = max((row.result for row in made), key=_ORDER.index, default="failed")
    return worst, {"passed": 0, "failed": 1, "not proven": 3}[worst]


def table(made: list[Row], width: int = 150) -> str:
    """The table that is printed last: a line for each row, then what did not pass."""
    lines = [HEADER, *((r.part, r.stage, r.result, f"{r.seconds:.0f}", r.found) for r in made)]
    sizes = [max(len(line[i]) for line in lines) for i in range(len(HEADER) - 1)]
    text = ["  ".join([*(cell.ljust(size) for cell, size in zip(line, sizes, strict=False)), line[-1]])[:width]
            for line in lines]  # fmt: skip
    failures = [failure for row in made for failure in row.failures]
    text += [f"! {failure}"[:width] for failure in failures[:12]]
    if len(failures) > 12:
        text.append(f"! and {len(failures) - 12} more: see summary.md")
    return "\n".join(text)


def markdown(made: list[Row], machine: str, date: str) -> str:
    """The same as a page, with every failure, goal and skip."""

    def line(cells: Iterable[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"

    parts = [f"# Proof on {machine}", "", f"{date}: {verdict(made)[0]}.", "", line(HEADER), line(["---"] * len(HEADER))]
    parts += [line((r.part, r.stage, r.result, f"{r.seconds:.0f}", r.found)) for r in made]
    for title, entries in (
        ("Did not pass", [f for row in made for f in row.failures]),
        ("Goals", [g for row in made for g in row.goals]),
        ("Left out", [f"{n} of {r.part}, {r.stage}: {why}" for r in made for why, n in r.skipped.items()]),
    ):
        if entries:
            parts += ["", f"## {title}", "", *(f"- {entry}" for entry in entries)]
    return "\n".join(parts) + "\n"


def document(made: list[Row], outcomes: list[Outcome], facts: dict[str, Any]) -> str:
    """Everything as JSON."""
    worst, status = verdict(made)
    found = {"rows": [asdict(row) for row in made], "steps": [asdict(outcome) for outcome in outcomes]}
    whole = facts | {"verdict": worst, "status": status} | found
    return json.dumps(whole, indent=1) + "\n"
