"""The command ``neurokernels train similarity``: sweeps, going on, pictures, tables, presets, refusals."""

import io
import json
import os
import signal
import zipfile
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from neurokernels import cli, data
from neurokernels.trainers.run import RunFolder
from neurokernels.trainers.similarity import command
from neurokernels.trainers.similarity.__main__ import main as redraw
from neurokernels.trainers.similarity.report import _ranks, _square
from neurokernels.trainers.similarity.results import Results
from neurokernels.trainers.similarity.settings import ARMS, Settings
from neurokernels.trainers.similarity.summary import summarise
from neurokernels.trainers.similarity.trainer import Learner

TINY = [
    "--network", "small", "--data", "digits", "--stimuli", "200", "--neurons", "30", "--model-epochs", "4",
    "--per-step", "16", "--device", "cpu", "--noise", "0.2", "--fgsm", "0.05", "--pgd", "0.05", "--pgd-steps", "4",
    "--least-steps", "10", "--attack-samples", "60", "--seeds", "0", "--epochs", "4", "--every", "2",
    "--images", "480", "--batch", "48", "--noise-samples", "100",
]  # fmt: skip


def run(*arguments: str) -> int:
    return cli.main(["train", "similarity", *TINY, *arguments])


def rows(path: Path) -> list[dict[str, object]]:
    """Lines of a file without the times."""
    found = [json.loads(line) for line in path.read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "seconds"} for row in found]


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All arms of one seed."""
    out = tmp_path_factory.mktemp("swept")
    assert run("--arms", *ARMS, "--out", str(out)) == 0
    return out


def test_the_command_trains_evaluates_and_reports(swept: Path):
    results = [json.loads(line) for line in (swept / "results.jsonl").read_text().splitlines()]
    assert [row["name"] for row in results] == [f"{arm}-seed-0" for arm in ARMS]
    ends = {row["arm"]: row["result"] for row in results}
    for row in results:
        assert (row["result"]["epoch"], [seen["epoch"] for seen in row["trajectory"]]) == (4, [2])
        assert row["result"]["pgd_0.05"] <= row["result"]["clean"]
        assert "noise_0.2" not in row["trajectory"][0]
        assert (row["population"], row["sessions"]) == ("gabor", ["gabor"])
        metrics = rows(swept / row["name"] / "metrics.jsonl")
        assert all(after["train_loss"] < before["train_loss"] for before, after in pairwise(metrics))
        assert ("train_similarity" in metrics[0]) == (row["arm"] != "none") == bool(row["losses"])
        assert sum(row["taps"]) == pytest.approx(1, abs=1e-3)
        assert len(row["shown"]) == 30 * 29 // 2
    assert ends["none"]["clean"] > 0.25
    assert ends["pixel"]["pixel_agreement"] > ends["none"]["pixel_agreement"]
    assert ends["neural"]["neural_agreement"] > ends["shuffled"]["neural_agreement"]
    about = json.loads((swept / "population.json").read_text())
    assert (about["stimuli"], about["held_out"], about["sessions"][0]["noise"]) == (200, 30, "repeats")
    png = (swept / "report.png").read_bytes()
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    assert len(png) > 60_000
    table = (swept / "summary.md").read_text()
    assert "| arm | seeds | clean | noise 0.2 | FGSM 0.05 | PGD 0.05 |" in table
    assert f"| neural | 1 | {100 * ends['neural']['clean']:.1f} | {100 * ends['neural']['noise_0.2']:.1f} |" in table
    assert f"| neural − pixel | 1 | {100 * (ends['neural']['clean'] - ends['pixel']['clean']):+.1f} |" in table
    assert f"| none | {1000 * ends['none']['least']:.2f} | – | {ends['none']['neural_agreement']:.3f} |" in table
    assert "| gabor | 30 |" in table


@pytest.mark.exhaustive  # the same sweep as in test_dcca_command.py
def test_another_process_reaches_the_same_numbers_and_seeds_can_be_added(
    swept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    same = ["--arms", "neural", "--out", str(tmp_path)]
    assert run(*same, "--jobs", "2") == 0
    assert rows(tmp_path / "neural-seed-0" / "metrics.jsonl") == rows(swept / "neural-seed-0" / "metrics.jsonl")
    assert run(*same) == 2
    assert "holds a run already: add --resume" in capsys.readouterr().err
    assert run(*same, "--resume", "--alpha", "2") == 2
    assert "cannot be resumed with other settings: alpha was 5.0 and is 2.0" in capsys.readouterr().err
    assert run(*same, "--resume", "--neurons", "31") == 2
    assert "keeps a population with other neurons" in capsys.readouterr().err
    assert run(*same, "--seeds", "0", "7", "--resume") == 0
    assert "1 of 2 networks are finished already" in capsys.readouterr().out
    found = [row["name"] for row in rows(tmp_path / "results.jsonl")]
    assert found == ["neural-seed-0", "neural-seed-7"]
    assert " ± " in (tmp_path / "summary.md").read_text()


def test_a_network_that_is_stopped_goes_on_to_the_same_bits(
    swept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    asked = ["--arms", "neural", "--out", str(tmp_path)]
    step, taken = Learner.step, []

    def stopping(self: Learner, *batch: Tensor) -> dict[str, Tensor]:
        taken.append(1)
        if len(taken) == 24:  # in the third epoch of ten steps
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, *batch)

    with monkeypatch.context() as patched:
        patched.setattr(Learner, "step", stopping)
        assert run(*asked) == 128 + signal.SIGTERM
    assert "the same command with --resume goes on from there" in capsys.readouterr().err
    assert len(taken) == 24
    assert run(*asked, "--resume") == 0
    assert "going on after 2 full epochs" in capsys.readouterr().out
    assert rows(tmp_path / "neural-seed-0" / "metrics.jsonl") == rows(swept / "neural-seed-0" / "metrics.jsonl")
    resumed, whole = (rows(out / "results.jsonl") for out in (tmp_path, swept))
    (due,) = (row for row in whole if row["arm"] == "neural")
    assert [resumed[0][name] for name in ("shown", "taps", "losses")] == [
        due[name] for name in ("shown", "taps", "losses")
    ]
    ends = [torch.load(out / "neural-seed-0" / "checkpoint.pt", weights_only=True) for out in (tmp_path, swept)]
    nets = [end["state"]["learner"] for end in ends]
    assert all(torch.equal(value, nets[1]["net"][name]) for name, value in nets[0]["net"].items())
    assert all(torch.equal(value, nets[1]["regulariser"][name]) for name, value in nets[0]["regulariser"].items())


def test_a_network_that_breaks_down_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    asked = ["--epochs", "1", "--learning-rate", "1e38", "--arms", "neural", "--out", str(tmp_path)]
    assert run(*asked) == 2
    assert "neural-seed-0 broke down: train_loss" in capsys.readouterr().err


def test_the_picture_is_drawn_again_from_what_is_kept(swept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "results.jsonl").write_bytes((swept / "results.jsonl").read_bytes())
    page = tmp_path / "page.md"
    page.write_text(f"<!-- sessions {tmp_path.name} -->\n<!-- end -->\n<!-- accuracy {tmp_path.name} -->\n<!-- end -->")
    assert redraw([str(tmp_path)]) == 2
    assert "holds no population.json" in capsys.readouterr().err
    (tmp_path / "population.json").write_bytes((swept / "population.json").read_bytes())
    assert redraw([str(tmp_path), "--page", str(page)]) == 0
    for name in ("report.png", "summary.md"):
        assert (tmp_path / name).read_bytes() == (swept / name).read_bytes()
    tables = (tmp_path / "summary.md").read_text().split("\n\n")[1::2]
    assert len(tables) == 4
    filled = "<!-- sessions {0} -->\n\n{1}\n\n<!-- end -->\n<!-- accuracy {0} -->\n\n{2}\n\n<!-- end -->"
    assert page.read_text() == filled.format(tmp_path.name, tables[3], tables[0])


def made(arm: str, seed: int, clean: float) -> dict[str, object]:
    """A finished network of two epochs."""
    settings = {"network": "small", "data": "cifar10", "population": "v1", "epochs": 2, "alpha": 5.0, "images": 2500}
    kinds = {"noise": [0.1], "fgsm": [], "pgd": [0.01], "attack_samples": 400}
    ends = {"clean": clean, "noise_0.1": clean - 0.1, "pgd_0.01": 0.1, "least": 0.001 + clean / 1000}
    ends |= {"neural_agreement": clean, "pixel_agreement": 0.25}
    losses = {"losses": [] if arm == "none" else [0.5, clean], "taps": [1.0], "shown": [clean, 0.0, 0.5]}
    return {"name": f"{arm}-seed-{seed}", "arm": arm, "seed": seed, **settings, **kinds, "result": ends, **losses}


ABOUT = {
    "sessions": [{
        "name": "s1", "neurons": 9, "used": 8, "images": 70, "noise": "counts", "w": 0.5, "v": 0.25, "agreement": 0.125,
    }],
    "stimuli": 70, "held_out": 11, "neural_pixel": 0.31, "shown": {"neural": [0.1, 0.2, 0.3], "pixel": [0.3, 0.2, 0.1]},
}  # fmt: skip


def test_tables_compare_networks_of_the_same_seed(tmp_path: Path):
    found = [made("none", 0, 0.40), made("none", 1, 0.50), made("neural", 0, 0.42), made("neural", 1, 0.56)]
    results = Results([*found, made("pixel", 0, 0.44)], ABOUT)  # type: ignore[list-item]
    assert results.arms == ["none", "pixel", "neural"]
    assert results.metrics == ["clean", "noise_0.1", "pgd_0.01"]
    assert results.alike("neural") == pytest.approx([0.49, 0.0, 0.5])
    summarise(results, RunFolder(tmp_path), command.Console(quiet=True))
    said = (tmp_path / "summary.md").read_text()
    assert said.startswith("Small on 2,500 images of cifar10 in grey, 2 epochs, recordings v1, α = 5: accuracy (%)")
    assert "| none | 2 | 45.0 ± 7.1 | 35.0 ± 7.1 | 10.0 |" in said
    assert "| neural − none | 2 | +4.0 ± 2.8 | +4.0 ± 2.8 | +0.0 |" in said
    assert "| neural − pixel | 1 | -2.0 | -2.0 | +0.0 |" in said
    assert "| none | 1.45 ± 0.07 | – | 0.450 ± 0.071 | 0.250 |" in said
    assert "| neural | 1.49 ± 0.10 | 0.490 ± 0.099 | 0.490 ± 0.099 | 0.250 |" in said
    assert "| s1 | 9 | 8 | 70 | counts | 0.50 | 0.25 | 0.12 |" in said
    assert "- neural − none, in all 2 seeds higher: clean, noise 0.1; lower: nothing" in said
    assert "similarities of neurons and of pixels correlate by 0.31" in said


def test_matrices_show_ranks_of_what_is_unlike():
    ranks = _ranks([0.9, -0.5, 0.1, 0.1])
    assert ranks.tolist() == [0.0, 1.0, 0.5, 0.5]
    matrix = _square(np.array([1.0, 2, 3]))
    assert matrix.tolist() == [[0, 1, 2], [1, 0, 3], [2, 3, 0]]


def written(folder: Path, count: int = 60, neurons: int = 6) -> Path:
    """Recordings in the layout of the V4 data, whose second session saw ten images of the first."""
    draws = np.random.default_rng(0)
    pixels = draws.integers(0, 256, (2 * count, 16, 16, 3), np.uint8)
    for name in ("images", "responses_repeat_averaged"):
        (folder / name).mkdir(parents=True)
    for at, name in enumerate(("190101", "190102")):
        with zipfile.ZipFile(folder / "images" / f"images_{name}.zip", "w") as archive:
            for image in range(count):
                buffer = io.BytesIO()
                Image.fromarray(pixels[at * (count - 10) + image]).save(buffer, "PNG")
                archive.writestr(f"image{image + 1:04d}.png", buffer.getvalue())
        seen = pixels[at * (count - 10) :][:count].mean((1, 2, 3))
        responses = draws.poisson(np.maximum(seen - 110, 0), (5, neurons, count)).mean(0)
        np.save(folder / "responses_repeat_averaged" / f"responses_{name}.npy", responses)
    return folder


def test_recordings_are_learned_from_and_no_path_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    where, out = written(tmp_path / "somewhere" / "v9"), tmp_path / "out"
    asked = ["--responses", str(where), "--epochs", "1", "--arms", "neural", "--model-epochs", "12", "--out", str(out)]
    assert run(*asked) == 0
    assert "190101 (6 neurons x 60 images, predicted correlation" in capsys.readouterr().out
    (row,) = rows(out / "results.jsonl")
    assert (row["population"], row["sessions"]) == ("v9", ["190101", "190102"])
    about = json.loads((out / "population.json").read_text())
    assert about["stimuli"] == 110  # ten of them were seen twice
    assert [session["noise"] for session in about["sessions"]] == ["counts", "counts"]
    for path in out.rglob("*.json*"):
        assert "somewhere" not in path.read_text(), path
    assert run(*asked, "--resume", "--sessions", "190102") == 2
    assert "keeps a population with other sessions" in capsys.readouterr().err
    assert run("--responses", str(tmp_path), "--out", str(tmp_path / "none")) == 2
    assert "no session in" in capsys.readouterr().err


def test_presets_give_way_to_what_is_asked_for():
    assert command.parse([]) == Settings()
    small = command.parse(["--network", "small"])
    assert (small.data, small.epochs, small.schedule, small.pairs) == ("cifar10", 6, "cosine", "all")
    assert (small.arms, small.learning_rate) == (Settings().arms, 0.1)
    assert command.parse(["--network=small", "--epochs", "7"]) == replace(small, epochs=7)
    quick = command.parse(["--quick"])
    assert (quick.network, quick.data, quick.seeds) == ("small", "cifar10", (0,))
    assert set(quick.arms) == set(ARMS)
    assert command.parse(["--quick", "--data", "digits"]) == replace(
        quick, data="digits", images=None, stimuli=400, augment=False
    )
    assert command.parse(["--arms", "pixel", "--seed", "4"]) == replace(Settings(), arms=("pixel",), seeds=(4,))


def test_without_cifar_the_quick_run_takes_the_digits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    real = data.load

    def offline(name: str, root: Path | None = None) -> data.Dataset:
        if name == "cifar10":
            raise data.DataError("data: no source served cifar10: no network")
        return real(name, root)

    monkeypatch.setattr(command, "load", offline)
    taken: list[Settings] = []
    monkeypatch.setattr(command, "run_all", lambda settings, *_: taken.append(settings))
    monkeypatch.setattr(command, "report", lambda *_: tmp_path / "report.png")
    asked = ["train", "similarity", "--quick", "--device", "cpu", "--model-epochs", "1", "--out", str(tmp_path / "a")]
    assert cli.main(asked) == 0
    assert "no network CIFAR-10 cannot be had, so this run" in " ".join(capsys.readouterr().out.split())
    assert (taken[0].data, taken[0].images) == ("digits", None)
    assert cli.main(["train", "similarity", "--network", "small", "--device", "cpu", "--out", str(tmp_path)]) == 2
    assert "no source served cifar10" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("--resume", "--resume needs --out, the folder of the run to go on with"),
        ("--jobs 0", "--jobs must be at least 1, got 0"),
        ("--noise-samples 0", "--noise-samples must be at least 1, got 0"),
        ("--per-step 7", "--per-step must be an even number from 2 on, got 7"),
        ("--held-out 1", "--held-out must be in (0, 1), got 1.0"),
        ("--held-out 0", "--held-out must be in (0, 1), got 0.0"),
        ("--momentum 1", "--momentum must be in [0, 1), got 1.0"),
        ("--alpha 0", "--alpha must be above 0, got 0.0"),
        ("--alpha nan", "--alpha must be above 0, got nan"),
        ("--arms pixel pixel", "--arms must be different ones, got pixel pixel"),
        ("--noise 0", "--noise must be in (0, 1], parts of the range of a pixel, got 0.0"),
        ("--pgd 1.5", "--pgd must be in (0, 1], parts of the range of a pixel, got 1.5"),
        ("--sessions a", "--sessions needs --responses, the folder of the recordings"),
        ("--backend fpga", "--backend must be one of auto, reference, cpu, triton, cuda, got 'fpga'"),
    ],
)
def test_settings_that_cannot_be_are_refused(
    arguments: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    assert run(*arguments.split()) == 2
    assert says in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
