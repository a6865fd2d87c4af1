"""The machine code that the CUDA sources become on GPUs, by both routes, without one.

nvcc's fatbins are read where nvcc was at installation; NVRTC compiles the same sources through CuPy, as it does at
first use where nvcc was not.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from neurokernels._core import cuda, native

ROOT = Path(__file__).parents[2]
TOOL = ROOT / "tools" / "inspect_cuda.py"
SOURCES = {path.stem: path for path in sorted((ROOT / "csrc" / "cuda").glob("*.cu"))}
OFFLINE = ROOT / "benchmarks" / "offline"
RECORD = json.loads((OFFLINE / "cuda.json").read_text())
NVRTC = ("--nvrtc", "--arch", "90")
#: nvcc is asked for more: it takes seconds for each, and installation has taken them already.
ROUTES = {"nvcc": ("sm_80", "sm_90"), "nvrtc": ("sm_90",)}


def inspect(folder, *options, says=""):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(TOOL), *map(str, options), "--json-file", str(folder / "cuda.json")]
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert says in done.stdout
    return json.loads((folder / "cuda.json").read_text())


@pytest.fixture(scope="module", params=ROUTES)
def made(request, tmp_path_factory):
    """What one of the routes made of all sources."""
    if request.param == "nvcc" and not shutil.which("nvcc"):
        pytest.skip("NO NVCC HERE: only NVRTC has compiled the CUDA kernels")
    if request.param == "nvcc":
        assert native.build_reason("cuda") is None, "nvcc is here and has not built the CUDA kernels: make build"
    # What NVRTC has compiled before is known by a digest of sources, headers and NVRTC; it takes minutes for all.
    options = (*NVRTC, "--record", OFFLINE / "nvrtc.json") if request.param == "nvrtc" else ()
    return inspect(tmp_path_factory.mktemp("cuda"), *options)["rows"], ROUTES[request.param]


def declared(path):
    """The kernels of a source and of the headers that are its own, by their names or by a macro that spells them."""
    text = subprocess.run(
        ["g++", "-E", "-P", "-x", "c++", "-DNK_EMULATED", "-I", ROOT / "tests/emulator", "-I", ROOT / "csrc", path],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    return set(re.findall(r'extern "C" void (\w+)\(const void\* p\)', text))


def test_every_kernel_of_every_source_is_there(made):
    rows, arches = made
    expected = {(name, kernel, arch) for name in SOURCES for kernel in declared(SOURCES[name]) for arch in arches}
    assert len(expected) >= len(arches) * len(SOURCES) > 0
    assert {(row["source"], row["kernel"], row["arch"]) for row in rows} == expected


def test_nothing_spills(made):
    for row in made[0]:
        assert row["spills"] == row["stack_bytes"] == 0, row
        assert 0 < row["registers"] <= 255, row
        assert row["instructions"] > 20, row


def test_what_is_bit_exact_rounds_twice(made):
    """Spikes and children are the same bits everywhere, and exact rollouts are integers alone."""
    exact = [row for row in made[0] if re.match(r"lif_forward|offspring|rollout_exact", row["kernel"])]
    assert exact
    assert [row for row in exact if row["fused"] and "f64" not in row["kernel"]] == []


def test_the_record_is_of_these_kernels():
    """Of ``python tools/inspect_cuda.py --json-file benchmarks/offline/cuda.json``."""
    assert RECORD["versions"]["compiler"].startswith("nvcc")
    names = {(row["source"], row["kernel"]) for row in RECORD["rows"]}
    assert names == {(name, kernel) for name in SOURCES for kernel in declared(SOURCES[name])}
    assert not [row for row in RECORD["rows"] if row["failed"]]


def test_a_changed_source_is_not_taken_from_the_record(tmp_path):
    """Rows of another digest are compiled, as a launch would, and are those of the record where nothing has changed."""
    record = json.loads((OFFLINE / "nvrtc.json").read_text())
    record["keys"]["leaky sm_90"] = "of another source"
    (tmp_path / "record.json").write_text(json.dumps(record))
    made = inspect(tmp_path, *NVRTC, "--record", tmp_path / "record.json", says="compiled now: leaky sm_90")
    assert made["keys"] == record["keys"] | {"leaky sm_90": cuda.made_of("leaky", (9, 0))}
    key = lambda row: (row["source"], row["kernel"])
    assert sorted(made["rows"], key=key) == sorted(record["rows"], key=key)


SPILL = """
#include "cuda/device.cuh"
struct Arguments { float* x; int n; };
NK_KERNEL(spilling, Arguments, 1024) {
  float kept[100];
  for (int i = 0; i < 100; ++i) kept[i] = p.x[i * p.n];
  for (int j = 0; j < p.n; ++j)
    for (int i = 0; i < 100; ++i) kept[i] = kept[i] * kept[(i + 7) % 100] + kept[99 - i];
  for (int i = 0; i < 100; ++i) p.x[i * p.n] = kept[i];
}
"""


def test_the_tool_sees_a_spill(tmp_path):
    folder = tmp_path / "csrc"
    shutil.copytree(ROOT / "csrc" / "common", folder / "common")
    (folder / "cuda").mkdir()
    shutil.copy(ROOT / "csrc/cuda/device.cuh", folder / "cuda")
    (folder / "cuda" / "one.cu").write_text(SPILL)
    script = (
        f"import sys, pathlib; sys.path.insert(0, {str(TOOL.parent)!r}); import inspect_cuda as tool;"
        f"tool.cuda.SHIPPED = pathlib.Path({str(tmp_path)!r}); tool.main(nvrtc=True)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "spilling, sm_80: spills; spilling, sm_90: spills" in done.stderr
