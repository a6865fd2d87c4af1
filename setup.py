"""Builds the native core: writes a ninja file and runs it. Without a working compiler it leaves the reason instead."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
SANITIZE = os.environ.get("NEUROKERNELS_SANITIZE") == "1"
WARNINGS = "-Wall -Wextra"
# Bit-exact spikes need -ffp-contract=off; the -fno-* pair drops errno and trap bookkeeping, which no result depends on.
FLOATS = "-ffp-contract=off -fno-math-errno -fno-trapping-math"
DEBUG = "-O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all"
OPTIMISE = DEBUG if SANITIZE else "-O3"
GENCODE = " ".join(f"-gencode arch=compute_{a},code={c}" for a, c in ((80, "sm_80"), (90, "sm_90"), (90, "compute_90")))
# Clang would bring libomp, a second pool of threads beside torch's libgomp: there the core stays serial.
OPENMP_PROBE = "#ifdef __clang__\n#error\n#endif\n#include <omp.h>\nint main() { return 0; }\n"


class BuildFailed(Exception):
    """One part of the build could not be made; the message is what the user is told at run time."""


def compiles(cxx: str, source: str, *flags: str) -> subprocess.CompletedProcess[str]:
    command = f"{cxx} {' '.join(flags)} -x c++ -fsyntax-only -"
    return subprocess.run(command, shell=True, input=source, capture_output=True, text=True)


def host_compiler() -> tuple[str, str]:
    """The C++ compiler command and its OpenMP flag, or why there is none."""
    found = (name for name in ("g++", "c++", "clang++") if shutil.which(name))
    cxx = os.environ.get("CXX") or next(found, None)
    if not cxx:
        raise BuildFailed("no C++ compiler was found when neurokernels was installed (install g++, or set CXX)")
    probe = compiles(cxx, "#include <cstdint>\nint main() { return 0; }\n", "-std=c++17")
    if probe.returncode:
        said = (probe.stderr.strip().splitlines() or ["no message"])[0]
        raise BuildFailed(f"the C++ compiler {cxx!r} failed with status {probe.returncode} at installation: {said}")
    return cxx, "-fopenmp" if compiles(cxx, OPENMP_PROBE, "-fopenmp").returncode == 0 else ""


def device_compiler() -> str:
    """The path of nvcc, or why there is none."""
    home = os.environ.get("CUDA_HOME")
    nvcc = shutil.which("nvcc", path=f"{home}/bin") if home else shutil.which("nvcc")
    if not nvcc:
        raise BuildFailed("nvcc was not found when neurokernels was installed")
    return nvcc


class BuildCore(build_ext):
    """Compiles `csrc` incrementally under `build/`, then puts the results beside the Python files."""

    def run(self) -> None:
        self.work = Path("build", sysconfig.get_config_var("SOABI") + ("-sanitize" if SANITIZE else ""))
        self.package = (ROOT if self.inplace else ROOT / self.build_lib) / "neurokernels"
        self.package.mkdir(parents=True, exist_ok=True)
        self.library = self.package / f"_native{sysconfig.get_config_var('EXT_SUFFIX')}"
        reasons = {"native": self.attempt(self.build_native), "cuda": self.attempt(self.build_cuda)}
        if reasons["native"]:
            self.library.unlink(missing_ok=True)
        (self.package / "_build.json").write_text(json.dumps(reasons, indent=1) + "\n")

    def get_outputs(self) -> list[str]:
        return []  # what could be built is in build_lib already; a library that could not is no error

    def get_output_mapping(self) -> dict[str, str]:
        return {}

    def attempt(self, build) -> str | None:
        try:
            return build()
        except BuildFailed as failure:
            if build == self.build_native and os.environ.get("NEUROKERNELS_NATIVE") == "require":
                raise SystemExit(f"neurokernels: {failure}") from None
            print(f"neurokernels: {failure}", file=sys.stderr)
            return str(failure)

    def build_native(self) -> None:
        import pybind11

        cxx, openmp = host_compiler()
        # pip's isolated build gives pybind11 a new path each time: a link keeps the command, and so the objects, valid.
        headers = ROOT / self.work / f"pybind11-{pybind11.__version__}"
        headers.parent.mkdir(parents=True, exist_ok=True)
        headers.unlink(missing_ok=True)
        headers.symlink_to(pybind11.get_include())
        binding = f"-DNK_VERSION='\"{self.distribution.get_version()}\"' -isystem {headers.relative_to(ROOT)} "
        binding += f"-isystem {sysconfig.get_path('include')}"
        common = f"-std=c++17 -fPIC -fvisibility=hidden {openmp} {OPTIMISE} {FLOATS} {WARNINGS} -Icsrc"
        shared = "-bundle -undefined dynamic_lookup" if sys.platform == "darwin" else "-shared"
        user, linker = os.environ.get("CXXFLAGS", ""), os.environ.get("LDFLAGS", "")
        rules = {
            "cxx": f"{cxx} {common} {user} $extra -MMD -MF $out.d -c $in -o $out",
            "link": f"{cxx} {shared} {openmp} {OPTIMISE} {linker} $in -o $out",
        }
        edges, objects = [], []
        for source in sorted(Path("csrc").rglob("*.cpp")):
            objects.append(str(self.work / source.with_suffix(".o")))
            extra = binding if source.name == "bindings.cpp" else ""
            edges.append((objects[-1], "cxx", str(source), {"extra": extra}))
        built = self.work / "_native.so"
        self.ninja("native", rules, [*edges, (str(built), "link", objects, {})])
        place(ROOT / built, self.library)

    def build_cuda(self) -> str | None:
        shipped = self.package / "_cuda"
        shutil.rmtree(shipped, ignore_errors=True)
        sources = sorted(Path("csrc/cuda").glob("*.cu"))
        if not sources:
            return "this version has no CUDA kernels"
        for folder in ("cuda", "common"):  # beside the binaries, for a compiler at run time
            shutil.copytree(ROOT / "csrc" / folder, shipped / "csrc" / folder)
        nvcc = device_compiler()
        rule = f"{nvcc} -fatbin -O3 -std=c++17 {GENCODE} -Icsrc -MMD -MF $out.d $in -o $out"
        built = {source: self.work / source.with_suffix(".fatbin") for source in sources}
        self.ninja("cuda", {"fatbin": rule}, [(str(b), "fatbin", str(s), {}) for s, b in built.items()])
        for binary in built.values():
            place(ROOT / binary, shipped / binary.name)
        return None

    def ninja(self, name: str, rules: dict[str, str], edges: list[tuple]) -> None:
        """Write and run one ninja file; only what changed is compiled."""
        import ninja
        from ninja.ninja_syntax import Writer

        script = self.work / f"{name}.ninja"
        with open(ROOT / script, "w") as file:
            out = Writer(file, width=10_000)
            out.variable("builddir", str(self.work / name))
            for rule, command in rules.items():
                depfile = {} if rule == "link" else {"depfile": "$out.d", "deps": "gcc"}
                out.rule(rule, command, description=f"{rule} $out", **depfile)
            for output, rule, inputs, variables in edges:
                out.build(output, rule, inputs, variables=variables)
        command = [str(Path(ninja.BIN_DIR, "ninja")), "-f", str(script)]
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        print(done.stdout, end="", flush=True)
        if done.returncode:
            said = [line for line in done.stdout.splitlines() if "error" in line.lower()] or done.stdout.splitlines()
            raise BuildFailed(f"compiling the {name} part failed at installation: {said[0].strip()[:300]}")


def place(built: Path, target: Path) -> None:
    """Replace `target` in one step: a process that has the old library mapped keeps it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = target.with_name(target.name + ".new")
    shutil.copy2(built, fresh)
    os.replace(fresh, target)


setup(ext_modules=[Extension("neurokernels._native", [])], cmdclass={"build_ext": BuildCore})
