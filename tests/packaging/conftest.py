"""Copies of the source tree to build in, and environments to install into. The working tree itself is never touched."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SHIPPED = ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "Makefile", "conftest.py")
BUILT = shutil.ignore_patterns("__pycache__", "*.so", "*.so.new", "_build.json", "_cuda")
SETTINGS = ("CXX", "CXXFLAGS", "LDFLAGS", "PYTHONPATH", "CUDA_HOME", "NEUROKERNELS_", "TRITON_")

# No pybind11, which takes seconds to compile.
BINDINGS = """
#include <Python.h>
#include "common/used.h"
int answer();
PyMODINIT_FUNC PyInit__native() {
  static PyModuleDef definition{PyModuleDef_HEAD_INIT, "_native"};
  PyObject* module = PyModule_Create(&definition);
  PyModule_AddStringConstant(module, "version", NK_VERSION);
  PyModule_AddIntConstant(module, "answer", answer());
  return module;
}
"""


def environ(**changes: str) -> dict[str, str]:
    """This process's environment without what steers a build, and with ``changes``."""
    return {k: v for k, v in os.environ.items() if not k.startswith(SETTINGS)} | changes


def run(*command: object, cwd: Path, fails: bool = False, **env: str) -> str:
    """The output of a command, which must succeed, or must fail."""
    words = [str(word) for word in command]
    done = subprocess.run(
        words, cwd=cwd, env=environ(**env), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert (done.returncode != 0) == fails, f"{' '.join(words)} ended with {done.returncode}:\n{done.stdout[-4000:]}"
    return done.stdout


@dataclass
class Tree:
    """A copy of the project's sources."""

    path: Path

    @property
    def package(self) -> Path:
        return self.path / "neurokernels"

    def python(self, *words: object, fails: bool = False, **env: str) -> str:
        """The output of this environment's Python, run in the tree."""
        return run(sys.executable, *words, cwd=self.path, fails=fails, **env)

    def build(self, fails: bool = False, **env: str) -> str:
        """Build in place with this environment's setuptools: what `make build` does."""
        return self.python("setup.py", "build_ext", "--inplace", fails=fails, **env)

    def library(self) -> Path:
        return self.package / f"_native{sysconfig.get_config_var('EXT_SUFFIX')}"

    def objects(self) -> dict[str, int]:
        """When each object was compiled, by its source's name."""
        return {o.stem: o.stat().st_mtime_ns for o in self.path.glob("build/*/csrc/**/*.o")}


@dataclass
class Environment:
    """A fresh virtual environment that sees torch, and everything else of this one but neurokernels."""

    path: Path

    @property
    def python(self) -> Path:
        return self.path / "bin" / "python"

    def pip(self, *words: object, cwd: Path, **env: str) -> str:
        return run(sys.executable, "-m", "pip", "--python", self.python, *words, cwd=cwd, **env)

    def runs(self, code: str, **env: str) -> str:
        """The output of Python code, run where no source tree is."""
        return run(self.python, "-c", code, cwd=self.path, **env).strip()


def copy(to: Path) -> Tree:
    shutil.copytree(ROOT / "neurokernels", to / "neurokernels", ignore=BUILT)
    for name in SHIPPED:
        if (ROOT / name).exists():
            shutil.copy2(ROOT / name, to / name)
    return Tree(to)


def with_objects(made: Tree) -> Tree:
    """The same tree with what this one has compiled: ninja compiles only what changed, or lacks a file it included."""
    objects = Path("build", sysconfig.get_config_var("SOABI"))
    if (ROOT / objects).exists():
        shutil.copytree(ROOT / objects, made.path / objects, symlinks=True)
    return made


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """The real sources, with the objects compiled so far."""
    made = copy(tmp_path / "tree")
    shutil.copytree(ROOT / "csrc", made.path / "csrc")
    return with_objects(made)


@pytest.fixture
def small(tmp_path: Path) -> Tree:
    """The real build over a core of two tiny files: ``bindings.cpp``, which includes ``used.h``, and ``alone.cpp``."""
    made = copy(tmp_path / "small")
    sources = {
        "bindings.cpp": BINDINGS,
        "common/used.h": "#pragma once\n",
        "cpu/alone.cpp": "int answer() { volatile int almost = 41; return almost + 1; }\n",
    }
    for name, text in sources.items():
        file = made.path / "csrc" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return made


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    made = Environment(tmp_path / "environment")
    venv.create(made.path, symlinks=True)
    # One line of a .pth file adds a folder but runs no .pth file inside it: this environment's neurokernels stays out.
    site = next(made.path.glob("lib/python*/site-packages"))
    (site / "torch_is_here.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return made
