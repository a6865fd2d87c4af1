"""Every example runs as its first lines say, and prints what it promises."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
NAMES = ("spiking_layer.py", "train_digits.py", "pulses_numpy.py", "rsa_analysis.py")


def output(name: str, folder: Path | None = None) -> str:
    """Runs an example from another folder, as a user would with an installed library."""
    environment = os.environ | {"PYTHONPATH": str(EXAMPLES.parent), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(EXAMPLES / name)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_example_is_tested():
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(NAMES)


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


def test_rsa_analysis(tmp_path: Path):
    said = output("rsa_analysis.py", tmp_path)
    lines = re.findall(r"^(\w+) +rho ([\d.-]+), 95 % of bootstraps ([\d.-]+) to ([\d.-]+)$", said, re.MULTILINE)
    found = {name: [float(value) for value in values] for name, *values in lines}
    assert found.keys() == {"pixels", "ink", "digit"}
    for rho, low, high in found.values():
        assert -1 < low < rho < high < 1
    assert found["pixels"][0] > found["ink"][0]
    assert found["digit"][0] > 0.1
    assert (tmp_path / "rsa_analysis.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    lines = [line for line in (EXAMPLES / "rsa_analysis.py").read_text().splitlines() if line.strip()]
    assert len(lines) < 40


@pytest.mark.parametrize("name", NAMES)
def test_the_command_in_the_docstring_is_the_file(name: str):
    assert f"python examples/{name}" in (EXAMPLES / name).read_text()
