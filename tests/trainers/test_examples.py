"""Every example runs as its first lines say, and prints what it promises."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def output(name: str, folder: Path | None = None) -> str:
    """Runs an example from another folder, as a user would with an installed library."""
    environment = os.environ | {"PYTHONPATH": str(EXAMPLES.parent), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, EXAMPLES / name], capture_output=True, text=True, env=environment, cwd=folder
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_example_is_tested():
    expected = {"spiking_layer.py", "train_digits.py", "pulses_numpy.py", "classical_rsa.py"}
    assert {path.name for path in EXAMPLES.glob("*.py")} == expected


def test_spiking_layer():
    said = output("spiking_layer.py")
    assert "four pieces of 50 steps spike exactly as 200 at once: True" in said
    assert float(re.search(r"decay ([\d.e-]+)$", said, re.MULTILINE)[1]) > 0


def test_pulses():
    lines = re.findall(r"up to +(\d+) steps apart \(formula: ([\d.inf-]+)\)", output("pulses_numpy.py"))
    assert len(lines) == 6
    assert all(int(gap) == min(int(float(limit)) if limit != "inf" else 20, 20) for gap, limit in lines)


def test_train_digits():
    accuracy = [float(found) for found in re.findall(r"test accuracy ([\d.]+) %", output("train_digits.py"))]
    assert len(accuracy) == 8
    assert accuracy[-1] > 80


def test_classical_rsa(tmp_path):
    assert len((EXAMPLES / "classical_rsa.py").read_text().splitlines()) < 40
    said = output("classical_rsa.py", tmp_path)
    found = re.findall(r"^(\w+) +rho-a ([\d.]+), 95 % of resamples in \[([\d.]+), ([\d.]+)\]$", said, re.MULTILINE)
    assert [name for name, *_ in found] == ["pixels", "network", "category"]
    assert all(float(low) < float(fit) < float(high) for _, fit, low, high in found)
    assert (tmp_path / "classical_rsa.png").stat().st_size > 10_000


@pytest.mark.parametrize("name", ["spiking_layer.py", "train_digits.py", "pulses_numpy.py", "classical_rsa.py"])
def test_the_command_in_the_docstring_is_the_file(name: str):
    assert f"python examples/{name}" in (EXAMPLES / name).read_text()
