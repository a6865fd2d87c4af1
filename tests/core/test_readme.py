"""What the README shows runs, in the order in which it stands there."""

import json
import re
from pathlib import Path

import torch

README = Path(__file__).parents[2] / "README.md"


def test_every_python_block_of_the_readme_runs(capsys):
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert len(blocks) >= 5
    shown = {"current": torch.rand(20, 4, 6)}
    for block in blocks:
        exec(compile(block, str(README), "exec"), shown)
    assert shown["out"].spikes.shape == shown["current"].shape
    assert shown["logits"].shape == (16, 10)
    assert type(shown["spikes"]).__module__ == "numpy"
    assert "neurokernels" in capsys.readouterr().out


def test_every_link_of_the_readme_leads_somewhere():
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README.read_text()) if "://" not in link]
    assert links
    assert [link for link in links if not (README.parent / link).exists()] == []


def test_the_times_in_the_readme_are_those_of_the_committed_results():
    folder = README.parent / "benchmarks" / "results" / "intel-xeon-2c-avx512-amx"
    groups = json.loads((folder / "lif.json").read_text())["groups"]
    (group,) = (g for g in groups if g["name"] == "lif forward+backward bfloat16 constant 500x16x4096")
    rows = {row["name"]: row for row in group["rows"]}
    best = {name: round(1000 * row["timing"]["best"]) for name, row in rows.items()}
    saved = {name: row["extra"].get("saved bytes") for name, row in rows.items()}
    text = re.sub(r"\s+", " ", README.read_text())
    assert f"**{best['cpu']} ms**, where a plain PyTorch loop takes {best['unbind']}" in text
    assert f"SpikingJelly {best['spikingjelly']} and snnTorch {best['snntorch']}" in text
    assert f"**{saved['cpu']:.2f} bytes**" in text
    assert {round(saved[name]) for name in ("unbind", "spikingjelly", "snntorch")} == {4}


def test_the_spectra_in_the_readme_are_those_of_the_committed_results():
    folder = README.parent / "benchmarks" / "results" / "intel-xeon-2c-avx512-amx"
    groups = {g["name"]: g["rows"] for g in json.loads((folder / "spectrum.json").read_text())["groups"]}
    text = re.sub(r"\s+", " ", README.read_text())

    def best(n, row):
        rows = {r["name"]: r for r in groups[f"eigh vectors float32 256x{n}x{n}"]}
        return 1000 * rows[row]["timing"]["best"]

    def tax(net, row, when="at the start"):
        rows = {r["name"]: r for r in groups[f"step of {net}, batch 1500, {when}"]}
        return round(100 * rows[row]["extra"]["tax"])

    assert f"**{best(32, 'cpu'):.2f} ms** at 32 x 32 and **{best(64, 'cpu'):.1f} ms** at 64 x 64" in text
    assert f"takes {best(32, 'torch.linalg'):.1f} and {best(64, 'torch.linalg'):.1f}" in text
    nets = "784-2000-10", "784-1000-1000-1000-10"
    ours, plain, later = (
        [tax(net, *which) for net in nets] for which in (("cpu",), ("exact torch",), ("cpu", "after 300 steps"))
    )
    assert f"adds **{ours[0]} %**" in text
    assert f"and **{ours[1]} %**" in text
    assert f"adds {plain[0]} % and {plain[1]} %" in text
    assert f"comes to {later[0]} % and {later[1]} %" in text


def test_the_loss_of_dcca_in_the_readme_is_that_of_the_committed_results():
    folder = README.parent / "benchmarks" / "results" / "intel-xeon-2c-avx512"
    groups = {g["name"]: g["rows"] for g in json.loads((folder / "cca.json").read_text())["groups"]}
    text = re.sub(r"\s+", " ", README.read_text())
    rows = [
        {row["name"]: row for row in groups[f"dcca_loss nuclear with gradient float32 {shape}"]}
        for shape in ("128x10", "1024x256")
    ]
    ours, naive = ([1000 * found[name]["timing"]["best"] for found in rows] for name in ("cpu", "naive, 3 x eigh"))
    errors = [rows[1][name]["extra"]["gradient error"] for name in ("cpu", "naive, 3 x eigh")]
    assert f"takes **{ours[0]:.2f} ms** for 128 x 10" in text
    assert f"three eigendecompositions take {naive[0]:.2f}" in text
    assert f"**{ours[1]:.1f} ms** for 1024 x 256, where they take {naive[1]:.1f}" in text
    assert [f"{error:.0e}" for error in errors] == ["1e-05", "1e-01"]
    assert "errors of the gradient of 1e-5 and 1e-1" in text
