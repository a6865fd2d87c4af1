"""The steps of the proof, what each may cost, and which of them run side by side."""

import os
import shutil
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent

PARTS = ("env", "lif", "spectrum", "cca", "rsa", "evolution")
STAGES = ("check", "sanitize", "bench")
SANITIZERS = ("memcheck", "racecheck")

#: Benchmark files of each part. The ceilings are measured once, first.
BENCHES = {
    "env": ("ceilings",),
    "lif": ("lif",),
    "spectrum": ("spectrum",),
    "cca": ("cca",),
    "rsa": ("rsa_loss", "rdm", "rsa_inference"),
    "evolution": ("rollout",),
}
#: Seconds that a part may take on its own, one after the other.
BENCH_LIMITS = {"env": 25.0, "lif": 65.0, "spectrum": 45.0, "cca": 35.0, "rsa": 45.0, "evolution": 25.0}
#: Processes that share the tests of a part on a machine with 16 cores: most of their time is Triton compiling.
SHARDS = {"lif": 5, "spectrum": 2, "cca": 2, "rsa": 2, "evolution": 1}
CORES = 16

PREFLIGHT_LIMIT, BUILD_LIMIT, REPORT_LIMIT = 25.0, 115.0, 15.0
ENV_LIMIT, CHECK_LIMIT, SANITIZE_LIMIT = 90.0, 140.0, 140.0
#: What all parts together must end in.
TOTAL = 9 * 60.0
#: So long before its limit a step of pytest leaves out what is left, and says so.
MARGIN = 10.0


@dataclass(frozen=True)
class Step:
    """One process.

    Attributes:
        name: Unique; names its log.
        part: One of `PARTS`, or ``all``.
        stage: ``build``, ``env``, ``report`` or one of `STAGES`.
        command: The command line.
        limit: Seconds after which it is ended, with everything it started.
        environment: Variables to set.
        absent: Why it cannot run; then it does not.
    """

    name: str
    part: str
    stage: str
    command: tuple[str, ...]
    limit: float
    environment: dict[str, str] = field(default_factory=dict)
    absent: str | None = None


@dataclass(frozen=True)
class Phase:
    """Steps that run at the same time, or one after the other."""

    steps: tuple[Step, ...]
    together: bool = False

    @property
    def limit(self) -> float:
        """Seconds that it takes at most."""
        limits = [0.0 if step.absent else step.limit for step in self.steps]
        return max(limits, default=0.0) if self.together else sum(limits)


@dataclass(frozen=True)
class Options:
    """What is asked for.

    Attributes:
        parts: Some of `PARTS`.
        stages: Some of `STAGES`.
        rehearse: Everything on the CPU, in little.
        work: Where logs and records go.
        results: The folder of results, one sub-folder per machine.
        slug: The sub-folder of this machine.
        site: Unpacked wheels of peers, or None.
        cores: Processor cores to plan for.
        cuda_parts: The parts that have CUDA kernels.
    """

    parts: tuple[str, ...]
    stages: tuple[str, ...]
    rehearse: bool
    work: Path
    results: Path
    slug: str
    site: Path | None = None
    cores: int = CORES
    cuda_parts: tuple[str, ...] = ()

    @property
    def proof(self) -> Path:
        """The folder of what is no benchmark."""
        return self.results / self.slug / "proof"


def chosen(text: str, known: Sequence[str], name: str) -> tuple[str, ...]:
    """A comma-separated choice, in the order in which it is known; all of them if nothing is named.

    Raises:
        ValueError: One of them is unknown.
    """
    names = [word for word in text.replace(" ", "").split(",") if word]
    unknown = [word for word in names if word not in known]
    if unknown:
        raise ValueError(f"{name} must be out of {', '.join(known)}; got {unknown[0]!r}")
    return tuple(word for word in known if word in names) if names else tuple(known)


def environment(options: Options) -> dict[str, str]:
    """Variables of every step: paths, no network, and the same kernels for all of them from one cache."""
    paths = [str(ROOT), str(HERE.parent), *([str(options.site)] if options.site else [])]
    before = os.environ.get("PYTHONPATH")
    variables = {
        "PYTHONPATH": os.pathsep.join([*paths, *([before] if before else [])]),
        "PYTHONUNBUFFERED": "1",
        "OMP_NUM_THREADS": "1",
        # What else is installed must not change how tests run; and some plugins reach for the network, or for a GPU.
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        # Its other route is a compiled extension that its wheel does not have: no search for one.
        "SJ_LIF_CUDA_IMPLEMENTATION": "triton",
        "MPLBACKEND": "Agg",
    }
    if not options.rehearse:
        variables["TRITON_CACHE_DIR"] = str(options.work / "triton")
    return variables


def plan(options: Options) -> list[Phase]:
    """The phases, in order. Nothing runs beside a benchmark."""
    measured = [part for part in options.parts if part != "env"]
    phases = [Phase((_build(options),))] if not options.rehearse else []
    checks = [_environment(options)] if "env" in options.parts else []
    if "check" in options.stages:
        checks += [step for part in measured for step in _check(options, part)]
    if "sanitize" in options.stages:
        parts = [part for part in measured if part in options.cuda_parts]
        checks += [_sanitize(options, part, tool) for part in parts for tool in SANITIZERS]
    phases.append(Phase(tuple(checks), together=True))
    if "bench" in options.stages:
        phases.append(Phase(tuple(_bench(options, part) for part in options.parts)))
        phases.append(Phase((_report(options),)))
    common = environment(options)
    return [
        replace(phase, steps=tuple(replace(s, environment=common | s.environment) for s in phase.steps))
        for phase in phases
        if phase.steps
    ]


def total(phases: Iterable[Phase]) -> float:
    """Seconds that all phases take at most, with what comes before them."""
    return PREFLIGHT_LIMIT + sum(phase.limit for phase in phases)


def python(*arguments: object) -> tuple[str, ...]:
    """A command of this interpreter."""
    return (sys.executable, *map(str, arguments))


def preflight(options: Options) -> Step:
    """What is here: the machine, and which parts have CUDA kernels."""
    command = python(HERE / "preflight.py", *_rehearsing(options), options.work / "preflight.json")
    return Step("preflight", "all", "env", command, PREFLIGHT_LIMIT, environment(options))


def _rehearsing(options: Options) -> tuple[str, ...]:
    return ("--rehearse",) if options.rehearse else ()


def _build(options: Options) -> Step:
    command = python("setup.py", "-q", "build_ext", "--inplace")
    return Step("build", "all", "build", command, BUILD_LIMIT, {"OMP_NUM_THREADS": str(options.cores)})


def _environment(options: Options) -> Step:
    command = python(HERE / "environment.py", *_rehearsing(options), options.proof / "environment.json")
    return Step("environment", "env", "check", command, ENV_LIMIT)


def _pytest(options: Options, name: str, limit: float, *arguments: object) -> tuple[str, ...]:
    record = options.work / f"{name}.jsonl"
    return python(
        "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "proof.plugin", f"--record={record}",
        f"--deadline={limit - MARGIN:g}", *_rehearsing(options), *arguments,
    )  # fmt: skip


def _check(options: Options, part: str) -> list[Step]:
    count = 1 if options.rehearse else max(1, SHARDS[part] * min(options.cores, CORES) // CORES)
    steps = []
    for i in range(count):
        name = f"check-{part}-{i + 1}"
        command = _pytest(options, name, CHECK_LIMIT, f"--part={part}", f"--shard={i}/{count}", "tests/gpu")
        steps.append(Step(name, part, "check", command, CHECK_LIMIT))
    return steps


def _sanitize(options: Options, part: str, tool: str) -> Step:
    """A sanitizer over every CUDA kernel of a part; a rehearsal runs the same calls without it."""
    name, calls = f"{tool}-{part}", python(HERE / "kernels.py", *_rehearsing(options), part)
    found, absent = shutil.which("compute-sanitizer"), None
    for folder in (os.environ.get("CUDA_HOME"), "/usr/local/cuda"):
        if not found and folder and Path(folder, "bin", "compute-sanitizer").exists():
            found = str(Path(folder, "bin", "compute-sanitizer"))
    if options.rehearse:
        command = calls
        absent = None if tool == SANITIZERS[0] else "a rehearsal runs the calls once, and without compute-sanitizer"
    else:
        command = (found or "", "--tool", tool, "--error-exitcode", "86", "--print-limit", "20", *calls)
        absent = None if found else "compute-sanitizer is not installed here"
    # Blocks of torch's own pool are larger than what was asked for, and hide what is written behind the end.
    return Step(name, part, "sanitize", command, SANITIZE_LIMIT, {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}, absent)


def _bench(options: Options, part: str) -> Step:
    limit, name = BENCH_LIMITS[part], f"bench-{part}"
    files = [f"benchmarks/bench_{file}.py" for file in BENCHES[part]]
    command = _pytest(
        options, name, limit, "--benchmark", f"--benchmark-results={options.results}", "-m", "proof", *files
    )
    return Step(name, part, "bench", command, limit, {"OMP_NUM_THREADS": "1" if options.rehearse else "8"})


def _report(options: Options) -> Step:
    command = python(HERE / "tables.py", options.results, options.slug)
    return Step("report", "all", "report", command, REPORT_LIMIT)
