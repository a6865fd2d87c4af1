"""``make gpu-proof`` without a GPU: its plan, steps that fail or hang, what it writes and prints, and a rehearsal.

That every op with a GPU backend is tested in `tests/gpu` is tested here, too.
"""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
TOOL = ROOT / "tools" / "gpu_proof.py"
sys.path.insert(0, str(TOOL.parent))

import gpu_proof  # noqa: E402
from proof import peers, plan, running, summary  # noqa: E402
from proof.plan import Options, Phase, Step  # noqa: E402
from proof.running import Outcome  # noqa: E402
from tests.gpu import coverage  # noqa: E402

SINCE = "2026-01-01 00:00 UTC"


@pytest.fixture
def options(tmp_path):
    return Options(plan.PARTS, plan.STAGES, False, tmp_path / "work", tmp_path / "results", "chip", cuda_parts=("lif",))


# The plan -------------------------------------------------------------------------------------------------------------


def test_everything_ends_in_time(options):
    whole = plan.plan(replace(options, cuda_parts=tuple(coverage.PARTS)))
    assert plan.total(whole) <= plan.TOTAL == 540
    steps = [step for phase in whole for step in phase.steps]
    assert len({step.name for step in steps}) == len(steps)
    for part in coverage.PARTS:
        assert {step.stage for step in steps if step.part == part} == set(plan.STAGES)
        assert len([step for step in steps if step.part == part and step.stage == "check"]) == plan.SHARDS[part]
    assert [step.name for step in steps][0] == "build"
    assert [step.name for step in steps][-1] == "report"


def test_nothing_runs_beside_a_benchmark(options):
    for phase in plan.plan(options):
        stages = {step.stage for step in phase.steps}
        assert "bench" not in stages or (stages == {"bench"} and not phase.together)


def test_parts_and_stages_are_chosen(options):
    assert plan.chosen("", plan.PARTS, "--part") == plan.PARTS
    assert plan.chosen("rsa, lif", plan.PARTS, "--part") == ("lif", "rsa")
    with pytest.raises(ValueError, match="--part must be out of env, lif.*'lib'"):
        plan.chosen("lib", plan.PARTS, "--part")
    few = plan.plan(replace(options, parts=("rsa",), stages=("check", "sanitize")))
    names = [step.name for phase in few for step in phase.steps]
    assert names == ["build", "check-rsa-1", "check-rsa-2"]  # without CUDA kernels there is nothing to sanitize
    few = plan.plan(replace(options, parts=("lif",), stages=("sanitize",)))
    assert [step.name for phase in few for step in phase.steps] == ["build", "memcheck-lif", "racecheck-lif"]


def test_few_cores_run_few_processes(options):
    steps = [step.name for phase in plan.plan(replace(options, cores=4)) for step in phase.steps]
    assert [name for name in steps if name.startswith("check-lif")] == ["check-lif-1"]


def test_peers_come_from_wheels(options, tmp_path):
    import zipfile

    assert peers.unpacked(tmp_path / "none", tmp_path / "site") is None
    with zipfile.ZipFile(tmp_path / "peer-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("peer/__init__.py", "name = 'peer'\n")
    site = peers.unpacked(tmp_path, tmp_path / "site")
    assert (site / "peer" / "__init__.py").read_text() == "name = 'peer'\n"
    found = plan.environment(replace(options, site=site))["PYTHONPATH"].split(os.pathsep)
    assert found[:3] == [str(ROOT), str(ROOT / "tools"), str(site)]


# Steps ----------------------------------------------------------------------------------------------------------------


def step(name, code, limit=30.0, part="lif", stage="check", **options):
    return Step(name, part, stage, (sys.executable, "-c", code), limit, **options)


#: A process that does not end when it is asked to, with a child that would write to a file later.
HANGS = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
subprocess.Popen([sys.executable, "-c", "import time, sys; time.sleep(4); open(sys.argv[1], 'w')", {path!r}])
print("waiting", flush=True)
time.sleep(60)
"""


def test_what_goes_wrong_in_a_step_stays_in_it(tmp_path, monkeypatch):
    monkeypatch.setattr(running, "_PATIENCE", 0.3)
    late = tmp_path / "late"
    steps = (
        step("works", "print('fine')"),
        step("fails", "import sys; print('because'); sys.exit(7)"),
        step("hangs", HANGS.format(path=str(late)), limit=1.5),
        Step("missing", "lif", "check", ("/no/such/program",), 5.0),
        step("absent", "", absent="no tool"),
    )
    seen = []
    start = time.monotonic()
    found = {o.step: o for o in running.run(Phase(steps, together=True), tmp_path / "logs", seen.append)}
    assert time.monotonic() - start < 20
    assert [o.step for o in seen].index("works") < [o.step for o in seen].index("hangs")
    assert {name: o.status for name, o in found.items()} == {
        "works": "passed", "fails": "failed", "hangs": "timed out", "missing": "failed", "absent": "absent",
    }  # fmt: skip
    assert (found["fails"].code, found["fails"].reason) == (7, "exit status 7: because")
    assert found["hangs"].reason == "not done in 1.5 s"
    assert "could not be started" in found["missing"].reason
    assert "waiting" in (tmp_path / "logs" / "hangs.log").read_text()
    time.sleep(max(0.0, 5.5 - (time.monotonic() - start)))
    assert not late.exists(), "what a step had started outlived it"


def test_one_after_the_other(tmp_path):
    path = tmp_path / "order"
    code = "import time; write = lambda c: open({0!r}, 'a').write(c); write({1!r}); time.sleep(0.2); write({2!r})"
    steps = (step("a", code.format(str(path), "a", "A")), step("b", code.format(str(path), "b", "B")))
    running.run(Phase(steps), tmp_path, lambda outcome: None)
    assert path.read_text() == "aAbB"


# What is found --------------------------------------------------------------------------------------------------------


def record(options, name, *records):
    path = options.work / f"{name}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"seconds": 1.0, "ulps": 0.0, "share": 0.0, "message": ""} | r) + "\n" for r in records]
    path.write_text("".join(lines))


def rows(options, *outcomes):
    return summary.rows(options, outcomes, SINCE)


def test_tests_are_summed_up(options):
    record(
        options, "check-lif-1", {"test": "a", "outcome": "passed", "ulps": 3.5, "share": 0.2},
        {"test": "b", "outcome": "skipped", "message": "Skipped: one GPU"},
    )  # fmt: skip
    record(options, "check-lif-2", {"test": "c", "outcome": "passed", "ulps": 12.25, "share": 0.1})
    done = [Outcome(f"check-lif-{i}", "lif", "check", "passed", 10.0 * i, code=0) for i in (1, 2)]
    (row,) = rows(options, *done)
    assert (row.result, row.seconds) == ("passed", 20.0)
    assert row.found == "2 passed, 1 skipped, worst 12.2 ulps, 20% of what is allowed"
    assert row.skipped == {"one GPU": 1}
    record(options, "check-lif-2", {"test": "c", "outcome": "late"})
    (row,) = rows(options, *done)
    assert row.result == "not proven"
    record(options, "check-lif-2", {"test": "c", "outcome": "failed", "message": "spikes differ\nmore"})
    (row,) = rows(options, *done)
    assert (row.result, row.failures) == ("failed", ["c: spikes differ"])


def test_a_killed_step_keeps_its_records(options):
    record(options, "check-lif-1", {"test": "a", "outcome": "passed"})
    with (options.work / "check-lif-1.jsonl").open("a") as file:
        file.write('{"test": "b", "outc')
    (row,) = rows(options, Outcome("check-lif-1", "lif", "check", "timed out", 150.0, "not done in 150 s"))
    assert (row.result, row.found) == ("failed", "1 passed")
    assert row.failures == ["check-lif-1: not done in 150 s"]


SANITIZED = {
    "lif: 7 CUDA kernels ran: a\n========= ERROR SUMMARY: 0 errors\n": ("passed", "memcheck: 0 errors, 7 kernels"),
    "========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)\n": (
        "passed", "memcheck: 0 hazards displayed (0 errors, 0 warnings)"
    ),
    "========= Invalid __global__ write of size 4\n========= ERROR SUMMARY: 2 errors\n": (
        "failed", "memcheck: 2 errors"
    ),
    "========= Error: Device not supported.\n": ("not proven", "memcheck: Error: Device not supported."),
}  # fmt: skip


@pytest.mark.parametrize("text", SANITIZED, ids=range(len(SANITIZED)))
def test_sanitizers_are_read(options, tmp_path, text):
    log = tmp_path / "memcheck-lif.log"
    log.write_text(text)
    (row,) = rows(options, Outcome("memcheck-lif", "lif", "sanitize", "passed", 3.0, code=0, log=str(log)))
    assert (row.result, row.found) == SANITIZED[text]


def test_an_absent_sanitizer_proves_nothing(options):
    (row,) = rows(options, Outcome("memcheck-lif", "lif", "sanitize", "absent", reason="it is not installed"))
    assert (row.result, row.found) == ("not proven", "memcheck: absent")
    assert summary.verdict([row]) == ("not proven", 3)


def group(name, date, **times):
    def row(title, best, ours):
        return {"name": title, "ours": ours, "timing": {"best": best}}

    return {
        "name": name, "stamp": {"date": date},
        "rows": [row(title, best, title in ("triton", "cuda")) for title, best in times.items()],
        "goals": [
            {"claim": "fast", "bound": 2.0, "at_least": True, "measured": 3.0},
            {"claim": "faster", "bound": 2.0, "at_least": False, "measured": 3.0},
            {"claim": "unknown", "bound": 2.0, "at_least": True, "measured": None},
        ],
    }  # fmt: skip


def test_races_of_this_run_are_summed_up(options):
    path = options.results / "chip" / "lif.json"
    path.parent.mkdir(parents=True)
    old = group("old", "2025-12-31 23:59 UTC", triton=1.0, eager=900.0)
    new = group("new", "2026-01-01 00:00 UTC", triton=2.0, cuda=1.0, eager=9.0, peer=6.0)
    path.write_text(json.dumps({"groups": [old, new]}))
    (row,) = rows(options, Outcome("bench-lif", "lif", "bench", "passed", 30.0, code=0))
    assert (row.result, row.found) == ("passed", "1 groups, best 6 x peer (new), goals 1 of 3")
    assert row.goals[1] == "missed: new: faster (bound 2, measured 3)"
    path.write_text(json.dumps({"groups": [old]}))
    (row,) = rows(options, Outcome("bench-lif", "lif", "bench", "passed", 30.0, code=0))
    assert (row.result, row.failures) == ("failed", ["bench-lif: no group was raced"])


def test_what_is_written_and_printed(options, tmp_path, monkeypatch, capsys):
    """Partial results are there after every step; all of it goes to $OUT, too."""
    monkeypatch.setenv("OUT", str(tmp_path / "out"))
    record(options, "check-lif-1", {"test": "a", "outcome": "failed", "message": "wrong"})
    phases = [
        Phase((step("check-lif-1", f"import os; assert not os.path.exists({str(options.proof / 'proof.json')!r})"),)),
        Phase((step("check-rsa-1", f"open({str(options.proof / 'proof.json')!r})", part="rsa"),)),
    ]
    status = gpu_proof.prove(options, {"machine": "a chip", "slug": "chip"}, phases)
    assert status == 1
    said = capsys.readouterr().out.splitlines()
    table = said[said.index("") + 1 :]
    assert table[0].split("  ")[0] == "part"
    assert [line.split()[:3] for line in table[1:3]] == [["lif", "check", "failed"], ["rsa", "check", "passed"]]
    assert table[3] == "! a: wrong"
    document = json.loads((options.proof / "proof.json").read_text())
    assert (document["verdict"], document["status"], document["machine"]) == ("failed", 1, "a chip")
    assert [o["status"] for o in document["steps"]] == ["passed", "passed"]
    assert "- a: wrong" in (options.proof / "summary.md").read_text()
    out = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert out == ["proof.json", "proof.tar.gz", "summary.md"]
    import tarfile

    with tarfile.open(tmp_path / "out" / "proof.tar.gz") as archive:
        names = set(archive.getnames())
    assert {"results/chip/proof/proof.json", "work/check-lif-1.jsonl", "work/logs/check-rsa-1.log"} <= names


# pytest's part --------------------------------------------------------------------------------------------------------

TOY = """
import time
import pytest

@pytest.mark.parametrize("i", range(12))
def test_each(i):
    assert i != 5, "five"

def test_slow():
    time.sleep(2)

def test_zlast():
    pass
"""


def proof_pytest(folder, *arguments):
    environment = os.environ | {"PYTHONPATH": str(TOOL.parent), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "proof.plugin", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


@pytest.fixture
def toy(tmp_path):
    (tmp_path / "neurokernels" / "_core").mkdir(parents=True)
    (tmp_path / "neurokernels" / "_core" / "accuracy.py").write_text("def check(*arguments): pass\n")
    for folder in ("neurokernels", "neurokernels/_core"):
        (tmp_path / folder / "__init__.py").touch()
    (tmp_path / "test_toy.py").write_text(TOY)
    (tmp_path / "conftest.py").write_text("import sys, pathlib; sys.path.insert(0, str(pathlib.Path(__file__).parent))")
    return tmp_path


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_shards_share_the_tests(toy):
    found = []
    for i in range(3):
        done = proof_pytest(toy, f"--shard={i}/3", f"--record={toy / f'{i}.jsonl'}")
        assert done.returncode in (0, 1), done.stdout + done.stderr
        found += read(toy / f"{i}.jsonl")
    assert len(found) == len({r["test"] for r in found}) == 14
    failed = [r for r in found if r["outcome"] == "failed"]
    assert [r["test"].split("::")[1] for r in failed] == ["test_each[5]"]
    assert failed[0]["message"].splitlines()[0] == "AssertionError: five"


def test_what_comes_too_late_is_said(toy):
    proof_pytest(toy, "--deadline=1.5", f"--record={toy / 'r.jsonl'}", "-k", "slow or zlast")
    assert [(r["test"].split("::")[1], r["outcome"]) for r in read(toy / "r.jsonl")] == [
        ("test_slow", "passed"), ("test_zlast", "late"),
    ]  # fmt: skip


# Every op -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def collected():
    """The tests of tests/gpu, by function, with the op and the backend that their ids name."""
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{TOOL.parent}"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", "tests/gpu"], cwd=ROOT,
        env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    found = {}
    for line in done.stdout.splitlines():
        if "[" in line:
            function, case = line.split("::")[1].split("[", 1)
            found.setdefault(function, set()).add(tuple(case.rstrip("]").split("-")[:2]))
    return found


EVERYWHERE = (
    "accuracy", "more_work", "layouts", "every_run_is_the_same", "graph", "side_stream", "second_device",
)  # fmt: skip
#: What has entries of its own instead of those of the contract.
APART = {"maze_rollout", "offspring", "searchlight_rsa"}


def test_every_op_with_a_gpu_backend_is_tested_on_it(collected):
    pairs = set(coverage.pairs())
    assert {("lif", "triton"), ("lif", "cuda"), ("eigh", "triton"), ("maze_rollout", "cuda")} <= pairs
    for op, _ in pairs:
        coverage.part(op)  # in a part, so that PART= reaches it
    apart = {pair for pair in pairs if pair[0] in APART}
    for function in EVERYWHERE:
        missing = pairs - apart - collected[f"test_{function}"]
        assert not missing, f"test_{function} does not reach {missing}"
    drawn = collected["test_fuzz"] | collected["test_searchlight"]
    assert not pairs - drawn, f"no grid is drawn for {pairs - drawn}"


def test_what_waits_for_a_gpu_is_known(monkeypatch):
    """Elsewhere a CUDA graph can be captured: every sample is run, and nothing in it reads a result back."""
    from tests import emulator
    from tests.gpu.cases import cases
    from tests.gpu.waiting import WAITS, nothing_waits

    if torch.cuda.is_available():
        pytest.skip("on a GPU, graphs are captured instead")
    emulator.install()
    known = set(WAITS)
    for case in cases():
        kind = (case.op.name, case.sample.name)
        if case.backend == "cuda" or case.op.name == "lif":
            continue  # one backend of each; of LIF, the tests of this folder's rehearsal run both
        tensors = case.tensors(torch.float64)  # which are made by decompositions, some of them
        if kind in WAITS:
            with pytest.raises(AssertionError, match="the host waits"), nothing_waits():
                case.run(tensors)
            known.discard(kind)
        else:
            with nothing_waits(case):
                case.run(tensors)
    assert not known, f"{known} are no samples"


# The whole ------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_it_says_so():
    done = subprocess.run([sys.executable, TOOL], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    (line,) = done.stdout.splitlines()
    assert line.startswith("gpu-proof: there is no CUDA GPU here")


def test_the_plan_is_printed_without_a_gpu():
    done = subprocess.run([sys.executable, TOOL, "--plan", "--part", "lif"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "at most  360 s in all")
    bad = subprocess.run([sys.executable, TOOL, "--stage", "chek"], capture_output=True, text=True, timeout=60)
    assert (bad.returncode, bad.stdout) == (2, "gpu-proof: --stage must be out of check, sanitize, bench; got 'chek'\n")


def test_rehearsal(tmp_path):
    """Preflight, environment, ceilings, report: processes, records and results as on a GPU, all of them elsewhere."""
    before = sorted((ROOT / "benchmarks" / "results").iterdir())
    command = [sys.executable, TOOL, "--rehearse", "--part", "env", "--work", tmp_path]
    environment = {k: v for k, v in os.environ.items() if k not in ("OUT", "PYTHONPATH")} | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    (folder,) = (tmp_path / "results").iterdir()
    table = done.stdout.splitlines()[-4:]
    assert [line.split()[:3] for line in table[:2]] == [["env", "check", "passed"], ["env", "bench", "passed"]]
    assert "triton runs, cuda runs" in table[0]
    routes = json.loads((folder / "proof" / "environment.json").read_text())["routes"]
    assert {name: route["ok"] for name, route in routes.items()} == {"triton": True, "cuda": True}
    raced = json.loads((folder / "ceilings.json").read_text())["groups"]
    assert {g["op"] for g in raced} == {"copy", "product"}
    assert "of a bfloat16 product" in raced[1]["rows"][0]["extra"]
    assert "product bfloat16" in (folder / "proof" / "report.md").read_text()
    assert json.loads((folder / "proof" / "proof.json").read_text())["verdict"] == "passed"
    assert sorted((ROOT / "benchmarks" / "results").iterdir()) == before
