"""The command of the DCCA trainer: what a sweep writes, how it goes on, and what it refuses."""

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
from PIL import Image
from torch import Tensor

from neurokernels import cli, data
from neurokernels.trainers.dcca import command
from neurokernels.trainers.dcca.__main__ import main as redraw
from neurokernels.trainers.dcca.results import Results
from neurokernels.trainers.dcca.settings import ARMS, Settings
from neurokernels.trainers.dcca.summary import summarise
from neurokernels.trainers.dcca.trainer import Learner
from neurokernels.trainers.run import RunFolder

TINY = [
    "--network", "small", "--data", "digits", "--hidden", "24", "--dims", "4", "--pairs", "40", "--stimuli", "200",
    "--neurons", "30", "--learning-rate", "0.05", "--device", "cpu", "--attack-samples", "60", "--pgd-steps", "4",
    "--fgsm", "0.05", "--pgd", "0.05", "--seeds", "0",
]  # fmt: skip


def run(*arguments: str) -> int:
    return cli.main(["train", "dcca", *TINY, *arguments])


def rows(path: Path) -> list[dict[str, object]]:
    """Lines of a file without the times."""
    found = [json.loads(line) for line in path.read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "seconds"} for row in found]


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All arms of one seed."""
    out = tmp_path_factory.mktemp("swept")
    assert run("--epochs", "6", "--every", "3", "--arms", *ARMS, "--out", str(out)) == 0
    return out


def test_the_command_trains_evaluates_and_reports(swept: Path):
    results = [json.loads(line) for line in (swept / "results.jsonl").read_text().splitlines()]
    assert [row["name"] for row in results] == [f"{arm}-seed-0" for arm in ARMS]
    ends = {row["arm"]: row["result"] for row in results}
    for row in results:
        assert (row["result"]["epoch"], [seen["epoch"] for seen in row["trajectory"]]) == (6, [3])
        assert row["result"]["pgd_0.05"] <= row["result"]["clean"] > 0.2
        assert "fgsm_0.05" not in row["trajectory"][0]
        assert (row["population"], row["sessions"]) == ("gabor", ["gabor"])
        metrics = rows(swept / row["name"] / "metrics.jsonl")
        assert all(after["train_loss"] < before["train_loss"] for before, after in pairwise(metrics))
        regularised = row["arm"] not in ("none", "scaled")
        assert ("train_alignment" in metrics[0]) == ("held_out_correlation" in row["result"]) == regularised
        shown = row["correlations"]
        assert list(shown) == ["3", "6"]
        if regularised:
            for part in ("train", "held_out"):
                assert len(shown["6"][part][0]) == 4
                assert np.mean(shown["6"][part]) == pytest.approx(row["result"][f"{part}_correlation"], abs=1e-4)
    assert ends["real"]["held_out_correlation"] > 0.4
    assert abs(ends["shuffled"]["held_out_correlation"]) < 0.25
    assert ends["real"]["train_correlation"] > ends["shuffled"]["train_correlation"] > 0.2
    png = (swept / "report.png").read_bytes()
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    assert len(png) > 60_000
    table = (swept / "summary.md").read_text()
    assert "| arm | seeds | clean | FGSM 0.05 | PGD 0.05 |" in table
    assert f"| real | 1 | {100 * ends['real']['clean']:.1f} | {100 * ends['real']['fgsm_0.05']:.1f} |" in table
    assert f"| real − shuffled | 1 | {100 * (ends['real']['clean'] - ends['shuffled']['clean']):+.1f} |" in table
    assert f"| real | {ends['real']['train_correlation']:.3f} | {ends['real']['held_out_correlation']:.3f} |" in table


def test_another_process_reaches_the_same_numbers_and_seeds_can_be_added(
    swept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    same = ["--epochs", "6", "--every", "3", "--arms", "real", "--out", str(tmp_path)]
    assert run(*same, "--jobs", "2") == 0
    assert rows(tmp_path / "real-seed-0" / "metrics.jsonl") == rows(swept / "real-seed-0" / "metrics.jsonl")
    assert run(*same) == 2
    assert "holds a run already: add --resume" in capsys.readouterr().err
    assert run(*same, "--resume", "--mix", "0.4") == 2
    assert "cannot be resumed with other settings: mix was 0.5 and is 0.4" in capsys.readouterr().err
    assert run(*same, "--seeds", "0", "7", "--resume") == 0
    assert "1 of 2 networks are finished already" in capsys.readouterr().out
    assert [row["name"] for row in rows(tmp_path / "results.jsonl")] == ["real-seed-0", "real-seed-7"]
    assert " ± " in (tmp_path / "summary.md").read_text()


def test_a_network_that_is_stopped_goes_on_to_the_same_bits(
    swept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    asked = ["--epochs", "6", "--every", "3", "--arms", "real", "--out", str(tmp_path)]
    step, taken = Learner.step, []

    def stopping(self: Learner, *batch: Tensor) -> dict[str, Tensor]:
        taken.append(1)
        if len(taken) == 34:  # in the fourth epoch of ten steps
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, *batch)

    with monkeypatch.context() as patched:
        patched.setattr(Learner, "step", stopping)
        assert run(*asked) == 128 + signal.SIGTERM
    assert "the same command with --resume goes on from there" in capsys.readouterr().err
    assert len(taken) == 34
    assert run(*asked, "--resume") == 0
    assert "going on after 3 full epochs" in capsys.readouterr().out
    assert rows(tmp_path / "real-seed-0" / "metrics.jsonl") == rows(swept / "real-seed-0" / "metrics.jsonl")
    resumed, whole = (rows(out / "results.jsonl") for out in (tmp_path, swept))
    assert [row["correlations"] for row in whole if row["arm"] == "real"] == [resumed[0]["correlations"]]


def test_a_network_that_breaks_down_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """From another process, see test_spectral.py: the sweep is the same."""
    assert run("--epochs", "1", "--learning-rate", "1e38", "--arms", "real", "--out", str(tmp_path)) == 2
    said = capsys.readouterr().err
    assert "real-seed-0 broke down: train_loss" in said
    assert "not finite after epoch 1" in said


def test_the_picture_is_drawn_again_from_what_is_kept(swept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "results.jsonl").write_bytes((swept / "results.jsonl").read_bytes())
    page = tmp_path / "page.md"
    marks = "<!-- correlations {0} -->\n{1}<!-- end -->\n<!-- accuracy {0} -->\n{2}<!-- end -->"
    page.write_text(marks.format(tmp_path.name, "", ""))
    for _ in range(2):  # what is filled is filled again
        assert redraw([str(tmp_path), "--page", str(page)]) == 0
        for name in ("report.png", "summary.md"):
            assert (tmp_path / name).read_bytes() == (swept / name).read_bytes()
        tables = (tmp_path / "summary.md").read_text().split("\n\n")[1::2]
        assert page.read_text() == marks.format(tmp_path.name, f"\n{tables[2]}\n\n", f"\n{tables[0]}\n\n")
    capsys.readouterr()
    assert redraw([str(tmp_path / "nothing")]) == 2
    assert "holds no results of a sweep" in capsys.readouterr().err


def made(arm: str, seed: int, clean: float, network: str = "cornet-z") -> dict[str, object]:
    """A finished network of two epochs."""
    correlations = {} if arm == "none" else {"train": [[0.9, 0.7]], "held_out": [[clean, 0.1]]}
    settings = {"network": network, "data": "cifar100", "population": "v1", "epochs": 2, "block": "V1", "dims": 2}
    settings |= {"images": None if network == "cornet-z" else 2500, "attack_samples": 400}
    ends = {"result": {"epoch": 2, "clean": clean, "super": clean + 0.1}, "correlations": {"2": correlations}}
    return {"name": f"{arm}-seed-{seed}", "arm": arm, "seed": seed, "fgsm": [], "pgd": [], **settings, **ends}


def test_tables_compare_networks_of_the_same_seed(tmp_path: Path):
    rows = [made("none", 0, 0.40), made("none", 1, 0.50), made("none", 2, 0.9)]
    rows += [made("shuffled", 0, 0.44), made("real", 0, 0.42), made("real", 1, 0.56)]
    results = Results(rows)  # type: ignore[arg-type]
    assert results.arms == ["none", "shuffled", "real"]
    assert results.metrics == ["clean", "super"]
    summarise(results, RunFolder(tmp_path), command.Console(quiet=True))
    said = (tmp_path / "summary.md").read_text()
    assert said.startswith("Cornet-z on cifar100, 2 epochs")
    assert "| none | 3 | 60.0 ± 26.5 (47.4) | 70.0 ± 26.5 (59.0) |" in said
    assert "| shuffled | 1 | 44.0 (52.1) | 54.0 |" in said
    assert "| real − none | 2 | +4.0 ± 2.8 | +4.0 ± 2.8 |" in said
    assert "| real − shuffled | 1 | -2.0 | -2.0 |" in said
    assert "| real | 0.800 | 0.295 ± 0.049 | 0.490 ± 0.099 |" in said
    assert "- real − none, in all 2 seeds higher: clean, super-class; lower: nothing" in said
    assert "shuffled − none, in all" not in said
    assert "the choice of 400 images to attack makes standard errors of up to 2.5 points" in said
    small = Results([made("real", 0, 0.42, network="small")])  # type: ignore[list-item]
    summarise(small, RunFolder(tmp_path), command.Console(quiet=True))
    said = (tmp_path / "summary.md").read_text()
    assert said.startswith("Small on 2,500 images of cifar100, 2 epochs, recordings v1, block V1: accuracy (%)")
    assert "| real | 1 | 42.0 | 52.0 |" in said


def written(folder: Path, count: int = 60, neurons: int = 6) -> Path:
    """Recordings in the layout of the V4 data."""
    draws = np.random.default_rng(0)
    for name in ("images", "responses_repeat_averaged"):
        (folder / name).mkdir(parents=True)
    for name in ("190101", "190102"):
        with zipfile.ZipFile(folder / "images" / f"images_{name}.zip", "w") as archive:
            for at in range(1, count + 1):
                buffer = io.BytesIO()
                Image.fromarray(draws.integers(0, 256, (16, 16, 3), np.uint8)).save(buffer, "JPEG")
                archive.writestr(f"image{at:04d}.jpg", buffer.getvalue())
        np.save(folder / "responses_repeat_averaged" / f"responses_{name}.npy", draws.random((neurons, count)))
    return folder


def test_recordings_are_learned_from_and_no_path_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    where, out = written(tmp_path / "somewhere" / "v9"), tmp_path / "out"
    asked = ["--responses", str(where), "--epochs", "1", "--arms", "shuffled", "--out", str(out)]
    assert run(*asked) == 0
    assert "190101 (6 neurons x 60 images), 190102 (6 neurons x 60 images)" in capsys.readouterr().out
    (row,) = rows(out / "results.jsonl")
    assert (row["population"], row["sessions"]) == ("v9", ["190101", "190102"])
    assert [len(session) for session in row["correlations"]["1"]["train"]] == [4, 4]  # type: ignore[index]
    for path in out.rglob("*.json*"):
        assert "somewhere" not in path.read_text(), path
    assert run(*asked, "--resume", "--sessions", "190102") == 2
    assert "sessions was ['190101', '190102'] and is ['190102']" in capsys.readouterr().err
    assert run("--responses", str(tmp_path), "--out", str(out)) == 2
    assert "no session in" in capsys.readouterr().err
    assert run(*asked[:-1], str(tmp_path / "few"), "--held-out", "0.001") == 2
    assert "recording 190101 cannot be used: split: test must be" in capsys.readouterr().err


def test_presets_give_way_to_what_is_asked_for():
    assert command.parse([]) == Settings()
    small = command.parse(["--network", "small"])
    assert (small.data, small.epochs, small.schedule, small.arms) == ("cifar10", 10, "cosine", Settings().arms)
    assert command.parse(["--network=small", "--epochs", "7"]) == replace(small, epochs=7)
    quick = command.parse(["--quick"])
    assert (quick.network, quick.data, quick.epochs, quick.seeds) == ("small", "cifar10", 3, (0,))
    assert quick.arms == ("none", "real", "shuffled")
    assert command.parse(["--quick", "--data", "digits"]) == replace(quick, data="digits", images=None, stimuli=400)
    assert command.parse(["--arms", "vicreg-shuffled", "--seed", "4"]) == replace(
        Settings(), arms=("vicreg-shuffled",), seeds=(4,)
    )


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
    assert cli.main(["train", "dcca", "--quick", "--device", "cpu", "--out", str(tmp_path)]) == 0
    assert "no network CIFAR-10 cannot be had, so this run" in " ".join(capsys.readouterr().out.split())
    assert (taken[0].data, taken[0].images, taken[0].epochs) == ("digits", None, 24)
    assert cli.main(["train", "dcca", "--network", "small", "--device", "cpu", "--out", str(tmp_path)]) == 2
    assert "no source served cifar10" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("--resume", "--resume needs --out, the folder of the run to go on with"),
        ("--jobs 0", "--jobs must be at least 1, got 0"),
        ("--images 0", "--images must be at least 1, got 0"),
        ("--pairs 1", "--pairs must be at least 2, got 1"),
        ("--mix 1", "--mix must be in (0, 1), got 1.0"),
        ("--mix nan", "--mix must be in (0, 1), got nan"),
        ("--held-out 0", "--held-out must be in (0, 1), got 0.0"),
        ("--momentum 1", "--momentum must be in [0, 1), got 1.0"),
        ("--dropout -0.1", "--dropout must be in [0, 1), got -0.1"),
        ("--weight-decay -1", "--weight-decay must be from 0 on, got -1.0"),
        ("--vicreg-strength inf", "--vicreg-strength must be above 0, got inf"),
        ("--hidden 8 0", "--hidden must be sizes from 1 on, got 8 0"),
        ("--arms real real", "--arms must be different ones, got real real"),
        ("--fgsm 0", "--fgsm must be in (0, 1], parts of the range of a pixel, got 0.0"),
        ("--pgd 1.5", "--pgd must be in (0, 1], parts of the range of a pixel, got 1.5"),
        ("--block IT", "--block must be one of V1, V2, V4 for --network small, got IT"),
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
