"""The machine code that the Triton kernels become on GPUs, compiled without one.

Compilation takes a process of its own: Triton decides at import whether kernels are compiled or interpreted. What the
record in benchmarks/offline was made of is known, so that only what has changed since is compiled again.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOOL = ROOT / "tools" / "compile_triton.py"
RECORD = ROOT / "benchmarks" / "offline" / "triton.json"
ARCHES = ("sm_80", "sm_90")

# The widest binaries of each kernel, and each way in which neurons are spread over threads; all cases take long.
CASES = (
    "bits bfloat16", "recompute, time last", "gerum2020", "everything, few", "table", "leaky",
    "eigh 32", "covariance", "covariance, tall bfloat16", "warm float64",
    "dcca 32", "dcca 32, value", "dcca 333, odd", "dcca 256, fast", "searchlight 60, crossnobis",
    "rollout 20, state", "rollout 30 and 34, exact", "offspring", "similarity, condensed", "rdm, euclidean",
)  # fmt: skip
LIF = {f"{family}{kind}_kernel" for family in ("", "leaky_") for kind in ("forward", "backward", "tangent")}
SPECTRUM = {f"{name}_kernel" for name in ("eigh", "sums", "mean", "centre", "scatter", "gather", "rank_update")}
CCA = {f"{name}_kernel" for name in ("small", "gram", "update", "gradient")}
RDM = {f"{name}_kernel" for name in ("distance", "refine", "gradient", "close_gradient")}
RSA = {f"{name}_kernel" for name in ("pairs", "gradient", "searchlight")}
EVOLUTION = {f"{name}_kernel" for name in ("rollout", "offspring")}

# With the options turned against it, the tool must say so: that is what its verdict is worth.
MUTANT = """
import sys
sys.path.insert(0, {folder!r})
import compile_triton as tool
launches = tool.launches
turned = {{"enable_fp_fusion": True, "maxnreg": 32}}
tool.launches = lambda case: [(k, a | turned) for k, a in launches(case) if k.fn.__name__ == "backward_kernel"]
print([row.failed for row in tool.compiled("recompute, few", 90)])
"""


def run(*command, cache):
    """Runs Python with a cache of its own, so that everything is compiled."""
    environment = os.environ | {"TRITON_CACHE_DIR": str(cache), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment.pop("TRITON_INTERPRET", None)
    return subprocess.run(
        [sys.executable, *map(str, command)], env=environment, cwd=cache, capture_output=True, text=True, check=False
    )


def rows_of(folder, *cases, **options):
    given = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    done = run(TOOL, "--cases", *cases, "--json-file", folder / "triton.json", *given, cache=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((folder / "triton.json").read_text())["rows"]


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return rows_of(tmp_path_factory.mktemp("offline"), *CASES, record=RECORD)


def test_the_record_says_what_is_compiled(tmp_path):
    """Wherever it counts as being of the same kernel; of one that is quick to compile, not taken from it."""
    record = json.loads(RECORD.read_text())
    fresh = rows_of(tmp_path, "offspring", arch=90)
    made = json.loads((tmp_path / "triton.json").read_text())
    if (made["versions"]["triton"], made["keys"]["offspring"]) == (
        record["versions"]["triton"], record["keys"].get("offspring"),
    ):  # fmt: skip
        assert fresh == [row for row in record["rows"] if (row["case"], row["arch"]) == ("offspring", "sm_90")]


CHANGED = """
import sys
sys.path.insert(0, {folder!r})
import compile_triton as tool
before = tool.key("offspring")
assert tool.key("offspring") == before
launches = tool.launches
tool.launches = lambda case: [(k, a | {{"num_warps": 1}}) for k, a in launches(case)]
print(tool.key("offspring") != before)
tool.launches = launches
from neurokernels.ops.evolution import triton
triton.offspring_kernel._unsafe_update_src(triton.offspring_kernel.src + "    x = 1\\n")
print(tool.key("offspring") != before)
"""


def test_a_changed_kernel_is_not_taken_from_the_record(tmp_path):
    done = run("-c", CHANGED.format(folder=str(TOOL.parent)), cache=tmp_path)
    assert done.stdout.split() == ["True", "True"], done.stdout + done.stderr


@pytest.mark.parametrize("arch", ARCHES)
def test_every_kernel_compiles(rows, arch):
    names = {row["kernel"] for row in rows if row["arch"] == arch}
    assert names == LIF | SPECTRUM | CCA | RDM | RSA | EVOLUTION


@pytest.mark.parametrize("arch", ARCHES)
def test_state_lives_in_registers(rows, arch):
    for row in (row for row in rows if row["arch"] == arch):
        assert row["spills"] == 0, row
        assert row["kernel"] not in LIF or row["shared_bytes"] == 0, row
        assert 0 < row["registers"] <= 255, row


@pytest.mark.parametrize("arch", ARCHES)
def test_membranes_round_twice(rows, arch):
    """A replay decides resets again, so backward kernels may fuse no more than forward ones."""
    for row in (row for row in rows if row["arch"] == arch and row["kernel"] in LIF):
        assert row["fused"] == 0, row
        assert row["instructions"] > 100, row


@pytest.mark.parametrize("arch", ARCHES)
def test_children_round_twice(rows, arch):
    """A weight plus noise is the same bits on every backend, and exact mode has integers alone."""
    found = {row["case"]: row["fused"] for row in rows if row["arch"] == arch and row["kernel"] in EVOLUTION}
    assert found.pop("rollout 20, state") > 50  # float mode may fuse: else the zeros below show nothing
    assert found == {"rollout 30 and 34, exact": 0, "offspring": 0}


@pytest.mark.parametrize("arch", ARCHES)
def test_products_are_fused(rows, arch):
    """Half of the speed of a product of matrices, and no spike depends on it."""
    for row in (row for row in rows if row["arch"] == arch and row["case"] == "covariance"):
        assert row["fused"] > 500 or row["kernel"] != "scatter_kernel", row


def test_the_tool_sees_it(tmp_path):
    done = run("-c", MUTANT.format(folder=str(TOOL.parent)), cache=tmp_path)
    assert done.stdout.strip() == repr(["spills, fused multiply-adds"]), done.stderr
