"""The build itself: incremental, honest about failures, and ready for CUDA sources."""

import json
import os
import shutil
import struct
import subprocess
import sys
import time
from pathlib import Path

import pybind11
import pytest

IDLE = "ninja: no work to do."
BEYOND = """#include <vector>
int last = 4;
int answer() { std::vector<int> four(4); return four.data()[last]; }
"""
KERNEL = '#include "common/used.h"\nextern "C" __global__ void one(float* x) { x[threadIdx.x] = 1.0f; }\n'


def touch(file: Path, text: str) -> None:
    time.sleep(0.01)  # file times are coarser than a build of two tiny files is quick
    file.write_text(file.read_text() + text)


def reasons(tree) -> dict[str, str | None]:
    return json.loads((tree.package / "_build.json").read_text())


def images(fatbin: Path) -> set[tuple[str, int]]:
    """The kind and architecture of every image in a fatbin."""
    content, found = fatbin.read_bytes(), set()
    magic, _, at, size = struct.unpack_from("<IHHQ", content)
    assert (magic, at + size) == (0xBA55ED50, len(content))
    while at < len(content):
        kind, _, header, size = struct.unpack_from("<HHIQ", content, at)
        found.add(({1: "PTX", 2: "machine code"}[kind], struct.unpack_from("<I", content, at + 28)[0]))
        at += header + size
    return found


def answer(tree) -> str:
    return tree.python("-c", "from neurokernels import _native; print(_native.answer)").strip()


def test_only_what_a_change_reaches_is_compiled_again(small):
    assert IDLE not in small.build()
    assert answer(small) == "42"
    first = small.objects()
    assert set(first) == {"bindings", "alone"}
    assert IDLE in small.build()
    assert small.objects() == first
    touch(small.path / "csrc/common/used.h", "// changed\n")
    small.build()
    assert small.objects()["bindings"] > first["bindings"]
    assert small.objects()["alone"] == first["alone"]
    touch(small.path / "csrc/cpu/alone.cpp", "// changed\n")
    small.build()
    assert small.objects()["alone"] > first["alone"]
    small.build(CXXFLAGS="-O1")
    assert all(when > first[name] for name, when in small.objects().items())
    assert IDLE in small.build(CXXFLAGS="-O1")


def test_a_new_path_of_pybind11_compiles_nothing(small, tmp_path):
    bindings = small.path / "csrc/bindings.cpp"
    bindings.write_text("#include <pybind11/detail/common.h>\n" + bindings.read_text())
    small.build()
    moved = tmp_path / "elsewhere" / "pybind11"
    shutil.copytree(Path(pybind11.__file__).parent, moved)  # as in pip's isolated builds, a new folder each time
    assert IDLE in small.build(PYTHONPATH=str(moved.parent))


def test_a_running_process_keeps_the_library_it_loaded(small):
    small.build()
    code = "from neurokernels import _native; print(_native.__file__, flush=True); input(); print(_native.answer)"
    words = [sys.executable, "-c", code]
    with subprocess.Popen(words, cwd=small.path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        loaded = Path(process.stdout.readline().strip())
        assert loaded == small.library()
        before = loaded.stat().st_ino
        touch(small.path / "csrc/cpu/alone.cpp", "int other() { return 1; }\n")
        small.build()
        assert loaded.stat().st_ino != before  # a new file in the old one's place, not the old one written over
        assert process.communicate("\n")[0] == "42\n"


def test_without_any_compiler(small, tmp_path):
    small.build()
    bare = {"PATH": str(tmp_path)}
    small.build(**bare)
    assert reasons(small)["native"].startswith("no C++ compiler was found")
    assert not small.library().exists()
    said = small.build(fails=True, NEUROKERNELS_NATIVE="require", **bare)
    assert "neurokernels: no C++ compiler was found" in said


def test_a_source_that_does_not_compile_is_named(small):
    (small.path / "csrc/cpu/alone.cpp").write_text("int answer() { return nonsense; }\n")
    small.build()
    assert "csrc/cpu/alone.cpp:1" in reasons(small)["native"]
    assert "nonsense" in reasons(small)["native"]
    assert not small.library().exists()


def test_a_failed_build_that_must_not_fail_keeps_the_old_library(small):
    small.build()
    (small.path / "csrc/cpu/alone.cpp").write_text("int answer() { return nonsense; }\n")
    small.build(fails=True, NEUROKERNELS_NATIVE="require")
    assert answer(small) == "42"
    assert reasons(small)["native"] is None


def test_cxx_and_linker_flags_are_used(small, tmp_path):
    wrapper = tmp_path / "my-c++"
    wrapper.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\nexec g++ "$@"\n')
    wrapper.chmod(0o755)
    small.build(CXX=str(wrapper), LDFLAGS="-Wl,-z,now", CXXFLAGS="-DMINE")
    calls = (tmp_path / "calls").read_text()
    compiled = [line for line in calls.splitlines() if "-DMINE" in line]
    assert len(compiled) == 2
    assert all(line.index("-O3") < line.index("-DMINE") for line in compiled)  # what comes last is what counts
    assert "-Wl,-z,now" in calls
    for forbidden in ("-march", "-ffast-math", "-Ofast"):
        assert forbidden not in calls
    for needed in ("-ffp-contract=off", "-fno-math-errno", "-fvisibility=hidden", "-O3"):
        assert calls.count(needed) >= 2, needed


def test_the_sanitised_build_finds_a_read_past_the_end(small):
    small.build()
    (small.path / "csrc/cpu/alone.cpp").write_text(BEYOND)
    out = small.path / "build" / "sanitize"
    small.python("setup.py", "build", "--build-lib", out, NEUROKERNELS_SANITIZE="1", NEUROKERNELS_NATIVE="require")
    compiler = os.environ.get("CXX") or "g++"
    runtime = subprocess.run([compiler, "-print-file-name=libasan.so"], capture_output=True, text=True, check=True)
    sanitised = {"LD_PRELOAD": runtime.stdout.strip(), "ASAN_OPTIONS": "detect_leaks=0", "PYTHONPATH": str(out)}
    said = small.python("-P", "-c", "from neurokernels import _native", fails=True, **sanitised)
    assert "heap-buffer-overflow" in said
    assert "alone.cpp:3" in said
    assert answer(small) == "42"  # the core in place is another one


def test_cuda_sources_without_nvcc_leave_a_reason(small):
    (small.path / "csrc/cuda").mkdir()
    (small.path / "csrc/cuda/one.cu").write_text(KERNEL)
    small.build(CUDA_HOME="/nowhere")
    assert reasons(small) == {"native": None, "cuda": "nvcc was not found when neurokernels was installed"}
    assert (small.package / "_cuda/csrc/cuda/one.cu").read_text() == KERNEL
    assert not list(small.package.glob("_cuda/*.fatbin"))


@pytest.mark.skipif(not shutil.which("nvcc"), reason="NO NVCC HERE: that a .cu file becomes a fatbin was NOT tested")
def test_a_cuda_source_becomes_a_fatbin(small):
    (small.path / "csrc/cuda").mkdir()
    (small.path / "csrc/cuda/one.cu").write_text(KERNEL)
    small.build()
    assert reasons(small) == {"native": None, "cuda": None}
    binary = small.package / "_cuda/one.fatbin"
    assert images(binary) == {("machine code", 80), ("machine code", 90), ("PTX", 90)}
    before = os.stat(next(small.path.glob("build/*/csrc/cuda/one.fatbin"))).st_mtime_ns
    assert small.build().count(IDLE) == 2
    touch(small.path / "csrc/common/used.h", "// changed\n")
    small.build()
    assert os.stat(next(small.path.glob("build/*/csrc/cuda/one.fatbin"))).st_mtime_ns > before
    (small.path / "csrc/cuda/one.cu").unlink()
    small.build()
    assert not binary.exists()


@pytest.mark.skipif(not shutil.which("nvcc"), reason="NO NVCC HERE: that a broken .cu file is reported was NOT tested")
def test_a_cuda_source_that_does_not_compile_is_named(small):
    (small.path / "csrc/cuda").mkdir()
    (small.path / "csrc/cuda/one.cu").write_text("__global__ void one() { nonsense; }\n")
    small.build()
    assert "csrc/cuda/one.cu(1)" in reasons(small)["cuda"]
    assert reasons(small)["native"] is None
