"""Proves on one GPU what no machine without one can: ``make gpu-proof``. See docs/gpu.md.

    python tools/gpu_proof.py [--part lif,spectrum] [--stage check,sanitize,bench] [--rehearse]

Needs no network: everything is built and run from this tree and the Python that runs it. Every step is a process of its
own with a time limit; one that fails or hangs is reported, and the others go on. Exits with 0 if all was proven, 1 if a
check failed, 2 if there is no GPU, 3 if nothing failed but something could not be proven.
"""

import argparse
import contextlib
import json
import os
import shutil
import sys
import tarfile
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from proof import peers, plan, running, summary
from proof.plan import ROOT, Options
from proof.running import Outcome

WORK = ROOT / "build" / "gpu-proof"


@dataclass
class Run:
    """A proof on its way: what it has found is on disk after every step.

    Attributes:
        options: What was asked for.
        facts: What preflight found.
        outcomes: Of the steps so far.
    """

    options: Options
    facts: dict[str, Any]
    outcomes: list[Outcome] = field(default_factory=list)
    since: str = field(default_factory=lambda: _now())
    start: float = field(default_factory=time.monotonic)

    def done(self, outcome: Outcome) -> None:
        """Says what became of a step, and writes everything that is known."""
        self.outcomes.append(outcome)
        reason = f"  {outcome.reason}" if outcome.reason else ""
        now = time.monotonic() - self.start
        say(f"{now:5.0f} s  {outcome.step:<18} {outcome.status:<9} {outcome.seconds:5.0f} s{reason}")
        self.write()

    def write(self) -> list[summary.Row]:
        """Writes the summary to the results, and all of it to ``$OUT`` where that is set."""
        made = summary.rows(self.options, self.outcomes, self.since)
        folder = self.options.proof
        folder.mkdir(parents=True, exist_ok=True)
        facts = self.facts | {"date": self.since, "parts": self.options.parts, "stages": self.options.stages}
        (folder / "summary.md").write_text(summary.markdown(made, self.facts["machine"], self.since))
        (folder / "proof.json").write_text(summary.document(made, self.outcomes, facts))
        out = os.environ.get("OUT")
        if out:
            with contextlib.suppress(OSError):  # a full disk there must not end the proof
                publish(self.options, Path(out))
        return made


def publish(options: Options, out: Path) -> None:
    """Copies the summary, and results, records and logs in one archive: few files come back from some machines."""
    out.mkdir(parents=True, exist_ok=True)
    for name in ("summary.md", "proof.json", "environment.json"):
        if (options.proof / name).exists():
            shutil.copy(options.proof / name, out / name)
    partial = out / "proof.tar.gz.partial"
    with tarfile.open(partial, "w:gz") as archive:
        archive.add(options.results / options.slug, f"results/{options.slug}")
        for path in sorted([*options.work.glob("*.jsonl"), *(options.work / "logs").glob("*.log")]):
            archive.add(path, f"work/{path.relative_to(options.work)}")
    partial.rename(out / "proof.tar.gz")


def say(text: str) -> None:
    """Prints at once."""
    print(text, flush=True)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")


def prove(options: Options, facts: dict[str, Any], phases: Sequence[plan.Phase]) -> int:
    """Runs the phases and prints the table; returns the exit status."""
    run = Run(options, facts)
    for phase in phases:
        running.run(phase, options.work / "logs", run.done)
    made = run.write()
    worst, status = summary.verdict(made)
    say(f"\n{summary.table(made)}\n")
    where = os.path.relpath(options.proof, ROOT)
    say(f"{worst}: {facts['machine']}, {time.monotonic() - run.start:.0f} s; {where}/summary.md")
    return status


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="gpu_proof.py", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--part", default="", help=f"comma-separated, of {', '.join(plan.PARTS)}; default: all")
    parser.add_argument("--stage", default="", help=f"comma-separated, of {', '.join(plan.STAGES)}; default: all")
    parser.add_argument("--rehearse", action="store_true", help="on the CPU, in little, into a temporary folder")
    parser.add_argument("--plan", action="store_true", help="print the steps and their time limits, and do nothing")
    parser.add_argument("--work", type=Path, help="where logs and records go (default: build/gpu-proof)")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Plans, runs and sums up."""
    given = parsed(arguments)
    try:
        parts = plan.chosen(given.part, plan.PARTS, "--part")
        stages = plan.chosen(given.stage, plan.STAGES, "--stage")
    except ValueError as error:
        say(f"gpu-proof: {error}")
        return 2
    results = ROOT / "benchmarks" / "results"
    work = given.work or (Path(tempfile.mkdtemp(prefix="gpu-proof-")) if given.rehearse else WORK)
    if given.rehearse:
        results = work / "results"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    options = Options(parts, stages, given.rehearse, work.resolve(), results.resolve(), "machine", None, cores)
    if given.plan:
        show(plan.plan(replace(options, cuda_parts=parts)))
        return 0
    shutil.rmtree(options.work / "logs", ignore_errors=True)
    for record in options.work.glob("*.jsonl"):
        record.unlink()
    options = replace(options, site=peers.unpacked())
    ready: list[Outcome] = []
    running.run(plan.Phase((plan.preflight(options),)), options.work / "logs", ready.append)
    if ready[0].status != "passed":
        say(ready[0].reason.split(": ", 1)[-1] if ready[0].code == 1 else f"gpu-proof: {ready[0].reason}")
        return 2
    facts = json.loads((options.work / "preflight.json").read_text())
    options = replace(options, slug=facts["slug"], cuda_parts=tuple(facts["cuda parts"]))
    phases = plan.plan(options)
    say(facts["machine"])
    show(phases)
    return prove(options, facts, phases)


def show(phases: Sequence[plan.Phase]) -> None:
    """Prints the plan."""
    for phase in phases:
        how = ", side by side" if phase.together and len(phase.steps) > 1 else ""
        names = ", ".join(f"{step.name} {step.limit:.0f}" for step in phase.steps)
        say(f"at most {phase.limit:4.0f} s{how}: {names}")
    say(f"at most {plan.total(phases):4.0f} s in all")


if __name__ == "__main__":
    sys.exit(main())
