"""`pip install .` and `pip install -e .` as users run them: in build isolation, with and without a compiler."""

import json
import shutil
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path
from typing import Any

import pytest

from neurokernels._version import __version__
from tests.packaging.conftest import Tree, with_objects

# Appended to the copy's setup.py: what the build could have imported.
REPORT = """
import importlib.metadata, importlib.util, pathlib
found = [d for d in importlib.metadata.distributions() if "_vendor" not in str(d.locate_file(""))]
names = sorted({d.metadata["Name"].lower() for d in found})
torch = importlib.util.find_spec("torch") is not None
pathlib.Path("build_environment.json").write_text(json.dumps({"names": names, "torch": torch}))
"""
# All in one process: torch takes seconds to import.
SAYS = """
import contextlib, io, json, runpy, torch
import neurokernels as nk
from neurokernels._core import native

def said(function, *arguments, **options):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        function(*arguments, **options)
    return out.getvalue()

x, forced = torch.full((3, 1), 0.6), None
try:
    with nk.backend("cpu"):
        nk.lif(x, decay=1.0)
except RuntimeError as why:
    forced = str(why)
print(json.dumps({
    "file": nk.__file__, "native": [native.available(), native.reason()], "forced": forced,
    "spikes": nk.lif(x, decay=1.0).spikes.flatten().tolist(), "config": said(nk.show_config),
    "info": said(runpy.run_module, "neurokernels.info", run_name="__main__"),
}))
"""


def says(environment) -> dict[str, Any]:
    """What the installed package says of itself."""
    found = json.loads(environment.runs(SAYS).splitlines()[-1])  # runpy may warn
    assert found["spikes"] == [0, 1, 0]
    assert found["config"] == found["info"]
    assert f"neurokernels {__version__}" in found["config"]
    return found


@pytest.mark.parametrize("editable", [False, True], ids=["install", "editable"])
def test_install_without_torch_in_the_build(tree, environment, editable):
    with open(tree.path / "setup.py", "a") as setup:
        setup.write(REPORT)
    environment.pip("install", "--no-deps", *["-e"] * editable, ".", cwd=tree.path, NEUROKERNELS_NATIVE="require")
    build = json.loads((tree.path / "build_environment.json").read_text())
    assert set(build["names"]) - {"neurokernels"} == {"setuptools", "pybind11", "ninja"}
    assert not build["torch"]
    found = says(environment)
    assert Path(found["file"]).is_relative_to(tree.path if editable else environment.path)
    assert found["native"] == [True, None]
    assert found["forced"] is None
    assert "OpenMP" in found["config"]


def test_a_broken_compiler_installs_and_says_so(tree, environment):
    environment.pip("install", "--no-deps", ".", cwd=tree.path, CXX="/bin/false")
    found = says(environment)
    available, reason = found["native"]
    assert not available
    assert "'/bin/false' failed with status 1" in reason
    assert reason in found["forced"]
    assert reason in found["config"]


def test_sdist_and_the_wheel_made_from_it(tree, environment, tmp_path):
    tree.python("-m", "build", "--no-isolation", "--sdist")
    (sdist,) = tree.path.glob(f"dist/neurokernels-{__version__}.tar.gz")
    with tarfile.open(sdist) as archive:
        packed = {Path(*Path(name).parts[1:]) for name in archive.getnames()}
        archive.extractall(tmp_path / "sdist", filter="data")
    unpacked = with_objects(Tree(tmp_path / "sdist" / f"neurokernels-{__version__}"))
    unpacked.python("-m", "build", "--no-isolation", "--wheel", NEUROKERNELS_NATIVE="require")
    (wheel,) = unpacked.path.glob(f"dist/neurokernels-{__version__}-*.whl")
    sources = {file.relative_to(tree.path) for file in tree.path.glob("csrc/**/*") if file.is_file()}
    assert sources | {Path("LICENSE"), Path("Makefile"), Path("neurokernels/py.typed")} <= packed
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        metadata = Parser().parsestr(archive.read(f"neurokernels-{__version__}.dist-info/METADATA").decode())
    assert "none-any" not in wheel.name
    assert {name.split("/")[0] for name in names} == {"neurokernels", f"neurokernels-{__version__}.dist-info"}
    data = [file for kind in ("py*", "csv", "json") for file in tree.package.rglob(f"*.{kind}")]
    modules = {str(file.relative_to(tree.path)) for file in data}
    libraries = {f"neurokernels/{tree.library().name}", "neurokernels/_build.json", "neurokernels/py.typed"}
    for folder in ("cuda", "common"):  # what a compiler at run time needs, and what nvcc made where it is
        libraries |= {f"neurokernels/_cuda/csrc/{folder}/{file.name}" for file in tree.path.glob(f"csrc/{folder}/*")}
    if shutil.which("nvcc"):
        libraries |= {f"neurokernels/_cuda/{file.stem}.fatbin" for file in tree.path.glob("csrc/cuda/*.cu")}
    assert modules | libraries == {name for name in names if name.startswith("neurokernels/")}
    needs = [need for need in metadata.get_all("Requires-Dist") if "extra ==" not in need]
    assert sorted(need.split(">")[0].split("<")[0] for need in needs) == ["numpy", "torch"]
    assert set(metadata.get_all("Provides-Extra")) == {"gpu", "train", "bench", "dev"}
    environment.pip("install", "--no-deps", wheel, cwd=tree.path)
    assert says(environment)["native"] == [True, None]
