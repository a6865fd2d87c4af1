"""Builds the native core: writes a ninja file and runs it. Without a working compiler it leaves the reason instead."""

import json
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

SUFFIX = sysconfig.get_config_var("EXT_SUFFIX")
SANITIZE = os.environ.get("NEUROKERNELS_SANITIZE") == "1"
DEBUG = "-O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all"
OPTIMISE = DEBUG if SANITIZE else "-O3"
# Bit-exact spikes need -ffp-contract=off; the -fno-* pair drops errno and trap bookkeeping, which no result depends on.
FLOATS = "-ffp-contract=off -fno-math-errno -fno-trapping-math"
# These multiply matrices: fused multiply-adds are half of their speed, and no result of theirs is promised bit for bit.
EXTRA = dict.fromkeys(("covariance_gram.cpp", "rdm_products.cpp"), "-ffp-contract=fast")
LONGEST = ("lif_float", "lif_double", "bindings")
GENCODE = " ".join(f"-gencode arch=compute_{a},code={c}" for a, c in ((80, "sm_80"), (90, "sm_90"), (90, "compute_90")))
PROBE = "#include <cstdint>\nint main() { return 0; }\n"
# Clang would bring libomp, a second pool of threads beside torch's libgomp: there the core stays serial.
OPENMP_PROBE = "#ifdef __clang__\n#error\n#endif\n#include <omp.h>\n" + PROBE


class BuildFailed(Exception):
    """One part of the build could not be made; the message is what the user is told at run time."""


def compiles(command: str, source: str) -> subprocess.CompletedProcess[str]:
    command += " -std=c++17 -x c++ -fsyntax-only -"
    return subprocess.run(command, shell=True, input=source, capture_output=True, text=True)


def host_compiler() -> tuple[str, str]:
    """The C++ compiler command and its OpenMP flag, or why there is none."""
    if os.name == "nt":
        raise BuildFailed("the compiled core is not made for Windows")
    cxx = os.environ.get("CXX") or next(filter(shutil.which, ("g++", "c++", "clang++")), None)
    if not cxx:
        raise BuildFailed("no C++ compiler was found when neurokernels was installed (install g++, or set CXX)")
    probe = compiles(cxx, PROBE)
    if probe.returncode:
        said = (probe.stderr.strip().splitlines() or ["no message"])[0]
        raise BuildFailed(f"the C++ compiler {cxx!r} failed with status {probe.returncode} at installation: {said}")
    return cxx, "-fopenmp" if compiles(f"{cxx} -fopenmp", OPENMP_PROBE).returncode == 0 else ""


class BuildCore(build_ext):
    """Compiles `csrc` incrementally under `build/`, then puts the results beside the Python files."""

    def run(self) -> None:
        self.work = Path("build", SUFFIX.split(".")[1] + "-sanitize" * SANITIZE)
        self.package = Path("" if self.inplace else self.build_lib, "neurokernels")
        self.library = self.package / f"_native{SUFFIX}"
        for folder in (self.work, self.package):
            folder.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor() as pool:  # neither has work for many cores to its end
            cuda = pool.submit(self.attempt, self.build_cuda)
            reasons = {"native": self.attempt(self.build_native), "cuda": cuda.result()}
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
        headers = self.work / f"pybind11-{pybind11.__version__}"
        headers.unlink(missing_ok=True)
        headers.symlink_to(pybind11.get_include())
        python = shlex.quote(sysconfig.get_path("include"))
        binding = f"-DNK_VERSION='\"{self.distribution.get_version()}\"' -isystem {headers} -isystem {python}"
        common = f"-std=c++17 -fPIC -fvisibility=hidden {openmp} {OPTIMISE} {FLOATS} -Wall -Wextra -Icsrc"
        shared = "-bundle -undefined dynamic_lookup" if sys.platform == "darwin" else "-shared"
        user, linker = (os.environ.get(name, "") for name in ("CXXFLAGS", "LDFLAGS"))
        # Those that take longest come first, so that none of them is left for the end, alone.
        sources = sorted(Path("csrc").rglob("*.cpp"), key=lambda s: (s.stem not in LONGEST, s))
        objects = {source: self.work / source.with_suffix(".o") for source in sources}
        built = self.work / "_native.so"
        extra = EXTRA | {"bindings.cpp": binding}
        edges = [
            f"build {made}: compile {source}\n  extra = {extra.get(source.name, '')}"
            for source, made in objects.items()
        ]
        link = f"rule link\n  command = {cxx} {shared} {openmp} {OPTIMISE} $in {linker} -o $out"
        link += f"\nbuild {built}: link {' '.join(map(str, objects.values()))}"
        self.ninja("native", f"{cxx} {common} {user} $extra -c", [*edges, link])
        place(built, self.library)

    def build_cuda(self) -> str | None:
        shipped = self.package / "_cuda"
        shutil.rmtree(shipped, ignore_errors=True)
        sources = sorted(Path("csrc/cuda").glob("*.cu"))
        if not sources:
            return "this version has no CUDA kernels"
        for folder in ("cuda", "common"):  # beside the binaries, for a compiler at run time
            shutil.copytree(Path("csrc", folder), shipped / "csrc" / folder)
        home = os.environ.get("CUDA_HOME")
        nvcc = shutil.which("nvcc", path=f"{home}/bin" if home else None)
        if not nvcc:
            raise BuildFailed("nvcc was not found when neurokernels was installed")
        built = {source: self.work / source.with_suffix(".fatbin") for source in sources}
        edges = [f"build {made}: compile {source}" for source, made in built.items()]
        self.ninja("cuda", f"{nvcc} -fatbin -O3 -std=c++17 -fmad=false {GENCODE} -Icsrc", edges)
        for binary in built.values():
            place(binary, shipped / binary.name)
        return None

    def ninja(self, part: str, compiler: str, edges: list[str]) -> None:
        """Write and run one ninja file; only what a change reaches is compiled."""
        import ninja

        script = self.work / f"{part}.ninja"
        rule = f"rule compile\n  command = {compiler} -MMD -MF $out.d $in -o $out\n  description = $in"
        rule += "\n  depfile = $out.d\n  deps = gcc"
        script.write_text("\n".join([f"builddir = {self.work / part}", rule, *edges, ""]))
        command = [Path(ninja.BIN_DIR, "ninja"), "-f", script]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        print(done.stdout, end="", flush=True)
        if done.returncode:
            said = [line for line in done.stdout.splitlines() if "error:" in line] or done.stdout.splitlines()
            raise BuildFailed(f"compiling the {part} part failed at installation: {said[0].strip()[:300]}")


def place(built: Path, target: Path) -> None:
    """Replace `target` in one step: a process that has the old library mapped keeps it."""
    fresh = target.with_name(target.name + ".new")
    shutil.copy2(built, fresh)
    os.replace(fresh, target)


setup(ext_modules=[Extension("neurokernels._native", [])], cmdclass={"build_ext": BuildCore})
