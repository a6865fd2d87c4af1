"""The spectral trainer: networks and attacks are what the paper says, and the sweep does what it says."""

import json
import math
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from neurokernels import cli, data
from neurokernels.nn import SpectralRegularizer
from neurokernels.trainers.evaluation import Attacks, Images, accuracy, brightness
from neurokernels.trainers.spectral import command, published
from neurokernels.trainers.spectral.__main__ import main as redraw
from neurokernels.trainers.spectral.evaluation import eigenspectrum, exponent
from neurokernels.trainers.spectral.network import Classifier, build
from neurokernels.trainers.spectral.results import interpolated
from neurokernels.trainers.spectral.settings import Run, Settings
from neurokernels.trainers.spectral.trainer import Examiner, Learner

CPU = torch.device("cpu")
TINY = [
    "--data", "digits", "--width", "60", "--learning-rate", "1e-3", "--device", "cpu", "--attack-samples", "360",
    "--pgd-steps", "6", "--fgsm", "0.1", "--solver", "exact", "--strengths", "0", "1",
]  # fmt: skip


@pytest.fixture(scope="module")
def digits() -> Images:
    return Images(data.load("digits"), CPU)


@pytest.fixture(scope="module")
def trained(digits: Images) -> Classifier:
    """A small network that knows most digits."""
    net = build("shallow", digits.shape, 10, width=60)
    learner = Learner(net, Settings(learning_rate=1e-2), Run(0.0, None, 0))
    for _ in range(40):
        learner.step(brightness(digits.train_images), digits.train_labels)
    return net


@pytest.mark.parametrize(
    ("network", "shape", "features"),
    [
        ("shallow", (1, 28, 28), [(2000, 784)]),
        ("deep", (1, 28, 28), [(1000, 784), (1000, 1000), (1000, 1000)]),
        ("conv", (1, 28, 28), [(16, 1, 3, 3), (32, 16, 3, 3), (1000, 32 * 5 * 5)]),
        ("conv", (3, 32, 32), [(16, 3, 3, 3), (32, 16, 3, 3), (1000, 32 * 6 * 6)]),
    ],
)
def test_the_networks_are_the_published_ones(
    network: str, shape: tuple[int, int, int], features: list[tuple[int, ...]]
):
    net = build(network, shape, 10)
    weights = [p for name, p in net.named_parameters() if name.endswith("weight")]
    assert [tuple(w.shape) for w in weights] == [*features, (10, features[-1][0])]
    for weight in weights:
        fans = weight[0].numel() + weight.shape[0] * weight[0, 0].numel()
        glorot = math.sqrt(6 / fans)
        assert 0.95 * glorot < float(weight.detach().abs().max()) <= glorot
    assert not any(p.any() for name, p in net.named_parameters() if name.endswith("bias"))
    names = [type(layer).__name__ for layer in net.features]
    assert names.count("Tanh") == len(features)
    hidden = net.features(torch.rand(2, *shape))
    assert hidden.shape == (2, features[-1][0])
    assert float(hidden.detach().abs().max()) < 1
    assert torch.equal(net(torch.ones(2, *shape)), build(network, shape, 10)(torch.ones(2, *shape)))
    assert not torch.equal(net.readout.weight, build(network, shape, 10, seed=1).readout.weight)


def test_the_setting_is_the_published_one():
    default = Settings()
    assert default.alphas == tuple(round(0.6 + 0.2 * n, 1) for n in range(23))
    assert (default.alphas[0], default.alphas[-1]) == (0.6, 5.0)
    assert default.strengths == (0.0, 0.1, 1.0)
    assert (default.epochs, default.learning_rate, default.form) == (50, 1e-4, "gerum2022")
    assert (default.pgd_steps, default.pgd_step_size) == (40, 0.01)
    assert max(default.fgsm) == 0.2
    batches = [replace(default, network=name).images_per_step for name in ("shallow", "deep", "conv")]
    assert batches == [2500, 1500, 6000]
    adam = Learner(build("shallow", (1, 28, 28), 10, width=5), default, Run(0.0, None, 0)).optimiser.param_groups[0]
    assert (adam["lr"], adam["eps"], adam["betas"], adam["weight_decay"]) == (1e-4, 1e-7, (0.9, 0.999), 0)


def test_a_step_is_cross_entropy_and_strength_times_the_regulariser(digits: Images):
    images, labels = brightness(digits.train_images[:300]), digits.train_labels[:300]
    settings = Settings(solver="exact", learning_rate=1e-3)
    net = build("shallow", digits.shape, 10, width=60)
    hidden = net.features(images)
    task = F.cross_entropy(net.readout(hidden), labels)
    regulariser = SpectralRegularizer(1.5, solver="exact")
    due = torch.autograd.grad(task + 0.3 * regulariser(hidden), list(net.parameters()))
    learner = Learner(net, settings, Run(0.3, 1.5, 0))
    seen = learner.step(images, labels)
    assert float(seen["loss"]) == pytest.approx(task.item(), rel=1e-6)
    assert float(seen["alpha"]) == pytest.approx(float(regulariser.metrics()["alpha"]), rel=1e-5)
    for parameter, gradient in zip(net.parameters(), due, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-7)
    plain = Learner(build("shallow", digits.shape, 10, width=60), settings, Run(0.0, None, 0))
    assert "alpha" not in plain.step(images, labels)
    assert not torch.allclose(plain.net.features[1].weight.grad, due[0], rtol=1e-4)


def test_in_bfloat16_only_the_network_is(digits: Images):
    images, labels = brightness(digits.train_images[:300]), digits.train_labels[:300]
    steps = {}
    for precision in ("float32", "bfloat16"):
        net = build("shallow", digits.shape, 10, width=60)
        kinds: list[torch.dtype] = []
        net.features.register_forward_hook(lambda module, inputs, out, kinds=kinds: kinds.append(out.dtype))
        learner = Learner(net, Settings(precision=precision, solver="exact"), Run(1.0, 3.0, 0))
        steps[precision] = learner.step(images, labels)
        assert kinds == [getattr(torch, precision)]
        assert {p.dtype for p in net.parameters()} == {torch.float32}
        assert steps[precision]["alpha"].dtype == torch.float32
    for name in ("loss", "alpha"):
        difference = abs(float(steps["float32"][name] - steps["bfloat16"][name]))
        assert 0 < difference < 0.05 * float(steps["float32"][name])


def test_the_spectrum_is_that_of_the_last_hidden_layer(digits: Images, trained: Classifier):
    images = brightness(digits.test_images)
    with torch.no_grad():
        hidden = trained.features(images).double()
    due = torch.linalg.eigvalsh(torch.cov(hidden.T)).flip(0)
    found = eigenspectrum(trained, images)
    torch.testing.assert_close(found, due / due.sum(), rtol=1e-9, atol=1e-12)
    regulariser = SpectralRegularizer(1.0).eval()
    regulariser(hidden)
    assert exponent(found) == pytest.approx(float(regulariser.metrics()["alpha"]), rel=1e-6)


def test_an_exponent_is_found_and_the_floor_counts():
    shares = torch.arange(1, 201, dtype=torch.float64) ** -2.5
    assert exponent(shares / shares.sum()) == pytest.approx(2.5, abs=1e-3)
    steep = torch.arange(1, 201, dtype=torch.float64) ** -6.0
    assert exponent(steep / steep.sum()) < 5.5  # the published definition adds 1e-8


def attacked(
    net: Classifier, images: Tensor, labels: Tensor, radius: float, steps: int, size: float, clip: bool = True
) -> Tensor:
    """The textbook: walk up the loss by signs, stay in the ball and in [0, 1]."""
    moved = images.clone()
    for _ in range(steps):
        moved = moved.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(net(moved), labels), moved)
        moved = images + (moved + size * gradient.sign() - images).clamp(-radius, radius)
        moved = moved.clamp(0, 1) if clip else moved
    return moved.detach()


def share(net: Classifier, images: Tensor, labels: Tensor) -> float:
    return float((net(images).argmax(1) == labels).double().mean())


@pytest.mark.parametrize("radius", [0.05, 0.2])
def test_the_library_attacks_as_meant(digits: Images, trained: Classifier, radius: float):
    images, labels = brightness(digits.test_images), digits.test_labels
    found = Attacks([radius], [radius], steps=40, step_size=0.01)(trained, images, labels)
    fgsm, pgd = (
        share(trained, attacked(trained, images, labels, radius, *how), labels) for how in ((1, radius), (40, 0.01))
    )
    assert found == pytest.approx({f"fgsm_{radius:g}": fgsm, f"pgd_{radius:g}": pgd}, abs=1.5 / len(images))
    assert 0 < pgd <= fgsm < accuracy(trained, digits.test_images, labels)
    unclipped = share(trained, attacked(trained, images, labels, radius, 1, radius, clip=False), labels)
    assert abs(found[f"fgsm_{radius:g}"] - unclipped) > 4 / len(images)
    if radius == 0.2:  # fewer or shorter steps do not come that far
        short = Attacks([], [radius], steps=10, step_size=0.01)(trained, images, labels)
        assert short[f"pgd_{radius:g}"] > pgd + 4 / len(images)


def test_an_attack_leaves_the_network_as_it_was(digits: Images, trained: Classifier):
    trained.train()
    trained.readout.bias.requires_grad_(False)
    for parameter in trained.parameters():
        parameter.grad = None
    Attacks([0.1], [])(trained, brightness(digits.test_images[:20]), digits.test_labels[:20])
    wants = {name: p.requires_grad for name, p in trained.named_parameters()}
    trained.readout.bias.requires_grad_(True)
    assert trained.training
    assert [name for name, wanted in wants.items() if not wanted] == ["readout.bias"]
    assert all(p.grad is None for p in trained.parameters())


def test_the_papers_radius_is_always_among_the_attacks(digits: Images):
    examine = Examiner(Settings(data="digits", fgsm=(0.2,), pgd=(), attack_samples=36), digits)
    assert torch.equal(examine.some, brightness(digits.test_images[::10]))
    assert torch.equal(examine.labels, digits.test_labels[::10])
    assert len(Examiner(Settings(data="digits"), digits).some) == 360
    assert (examine.full.fgsm, examine.full.pgd) == ([0.05, 0.2], [0.05])
    assert (examine.brief.fgsm, examine.brief.pgd) == ([0.05], [0.05])
    assert published.radius("conv", "mnist") == 0.1
    assert published.radius("conv", "cifar10") == published.radius("shallow", "cifar10") == 0.01


def test_published_curves():
    points = published.curves("shallow", "mnist")
    assert {p.metric for p in points} == {"clean", "fgsm", "pgd"}
    assert published.Point("pgd", 1.0, 5.0, 0.5446) in points
    assert [p for p in points if p.strength == 0 and p.metric == "clean"] == [published.Point("clean", 0, 1.54, 0.9383)]
    assert sum(len(published.curves(n, d)) for n in ("shallow", "deep", "conv") for d in ("mnist", "cifar10")) == 435
    assert published.curves("deep", "digits") == []
    assert published.plain_trajectory("shallow", "mnist", 2500) == []
    assert [row["epoch"] for row in published.plain_trajectory("shallow", "mnist", 1500)] == [25, 30, 35, 50]


def test_between_published_points():
    points = [published.Point("pgd", 1.0, 1.0, 0.2), published.Point("pgd", 1.0, 3.0, 0.4)]
    assert [interpolated(points, alpha) for alpha in (1.0, 2.0, 2.5, 3.04)] == pytest.approx([0.2, 0.3, 0.35, 0.4])
    assert interpolated(points, 3.06) is interpolated(points, 0.9) is interpolated([], 2.0) is None


def test_a_sweep_covers_the_range_before_it_refines():
    runs = Settings(alphas=(1.0, 2.0, 3.0, 4.0, 5.0), seeds=(0, 7)).runs()
    assert runs[:2] == [Run(0.0, None, 0), Run(0.0, None, 7)]
    assert [run.name for run in runs[2:5]] == [
        "strength-0.1-alpha-1-seed-0", "strength-1-alpha-1-seed-0", "strength-0.1-alpha-1-seed-7"
    ]  # fmt: skip
    assert [run.alpha for run in runs[2::4]] == [1, 5, 3, 2, 4]
    assert len({run.name for run in runs}) == len(runs) == 2 + 5 * 2 * 2
    everything = {run.alpha for run in Settings().runs()}
    assert everything == {None, *Settings().alphas}
    assert Settings(alphas=(2.0,), strengths=(1.0,)).runs() == [Run(1.0, 2.0, 0)]


def rows(path: Path) -> list[dict[str, object]]:
    """Lines of a file without the times."""
    found = [json.loads(line) for line in path.read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "seconds"} for row in found]


def run(*arguments: str) -> int:
    return cli.main(["train", "spectral", *TINY, *arguments])


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three networks of one seed, one after the other."""
    out = tmp_path_factory.mktemp("swept")
    assert run("--epochs", "4", "--every", "2", "--alphas", "1", "3", "--out", str(out)) == 0
    return out


NAMES = ["plain-seed-0", "strength-1-alpha-1-seed-0", "strength-1-alpha-3-seed-0"]


def test_the_command_trains_evaluates_and_reports(swept: Path):
    results = [json.loads(line) for line in (swept / "results.jsonl").read_text().splitlines()]
    assert [row["name"] for row in results] == NAMES
    for row in results:
        assert row["result"]["epoch"] == 4
        assert [seen["epoch"] for seen in row["trajectory"]] == [2]
        assert {"measured_alpha", "test_alpha", "clean", "fgsm_0.05", "fgsm_0.1", "pgd_0.05"} <= set(row["result"])
        assert "fgsm_0.1" not in row["trajectory"][0]
        assert row["result"]["pgd_0.05"] <= row["result"]["clean"]
        metrics = rows(swept / row["name"] / "metrics.jsonl")
        assert [seen["epoch"] for seen in metrics] == [1, 2, 3, 4]
        assert all(after["train_loss"] < before["train_loss"] for before, after in pairwise(metrics))
        assert set(json.loads((swept / row["name"] / "spectra.json").read_text())) == {"2", "4"}
    plain, low, high = (row["result"]["measured_alpha"] for row in results)
    assert low < plain - 0.02
    assert low < high
    spectra = [json.loads(line) for line in (swept / "spectra.jsonl").read_text().splitlines()]
    assert [shown["name"] for shown in spectra] == NAMES
    png = (swept / "report.png").read_bytes()
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    assert len(png) > 60_000
    table = (swept / "summary.md").read_text()
    assert "| strength | target | seeds | measured | on test | clean (%) | fgsm (%) | pgd (%) |" in table
    test = results[2]["result"]["test_alpha"]
    assert f"| 1 | 3 | 1 | {high:.2f} | {test:.2f} | {100 * results[2]['result']['clean']:.1f} |" in table
    assert "pgd, strength 1, best target" in table


@pytest.mark.exhaustive  # the sweep that is stopped has several, too; test_dcca_command.py adds seeds
def test_several_processes_reach_the_same_numbers_and_seeds_can_be_added(
    swept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    same = ["--epochs", "4", "--every", "2", "--out", str(tmp_path)]
    assert run(*same, "--alphas", "1", "--jobs", "2") == 0
    for name in NAMES[:2]:
        assert rows(tmp_path / name / "metrics.jsonl") == rows(swept / name / "metrics.jsonl")
        assert "epoch   4" in (tmp_path / name / "log.txt").read_text()
    assert run(*same, "--alphas", "1") == 2
    assert "holds a run already: add --resume" in capsys.readouterr().err
    assert run(*same, "--alphas", "1", "--resume", "--pgd-steps", "4") == 2
    assert "cannot be resumed with other settings: pgd_steps was 6 and is 4" in capsys.readouterr().err
    before = (tmp_path / NAMES[1] / "metrics.jsonl").stat().st_mtime_ns
    assert run(*same, "--alphas", "1", "--strengths", "1", "--seeds", "0", "3", "--resume") == 0
    assert "1 of 2 networks are finished already" in capsys.readouterr().out
    assert (tmp_path / NAMES[1] / "metrics.jsonl").stat().st_mtime_ns == before
    names = [row["name"] for row in rows(tmp_path / "results.jsonl")]
    assert names == [*NAMES[:2], "strength-1-alpha-1-seed-3"]
    assert " ± " in (tmp_path / "summary.md").read_text()


def test_a_sweep_that_is_stopped_goes_on_to_the_same_bits(tmp_path: Path):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    asked = [*TINY, "--epochs", "40", "--every", "40", "--alphas", "1"]
    arguments = [*asked, "--jobs", "2", "--checkpoint-seconds", "0", "--out", str(stopped), "--resume"]
    process = subprocess.Popen(
        [sys.executable, "-m", "neurokernels", "train", "spectral", *arguments],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 120
        while not list(stopped.glob("*/checkpoint.pt")):
            assert process.poll() is None, process.stderr
            assert time.monotonic() < deadline
            time.sleep(0.002)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 128 + signal.SIGTERM
    assert "the same command with --resume goes on from there" in said.decode()
    assert any("stopped in epoch" in log.read_text() for log in stopped.glob("*/log.txt"))
    assert not list(stopped.glob("*/result.json"))
    assert cli.main(["train", "spectral", *arguments, "--jobs", "1", "--checkpoint-seconds", "60"]) == 0
    assert cli.main(["train", "spectral", *asked, "--out", str(whole)]) == 0
    for name in NAMES[:2]:
        assert len(rows(whole / name / "metrics.jsonl")) == 40
        assert rows(stopped / name / "metrics.jsonl") == rows(whole / name / "metrics.jsonl")


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_network_that_breaks_down_is_named(jobs: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    asked = ["--epochs", "1", "--learning-rate", "1e38", "--strengths", "0", "--jobs", jobs, "--out", str(tmp_path)]
    assert run(*asked) == 2
    said = capsys.readouterr().err
    assert f"plain-seed-0 {'broke down' if jobs == '1' else 'ended with status 2'}: train_loss" in said
    assert "not finite after epoch 1" in said


def test_the_picture_is_drawn_again_from_what_is_kept(swept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for name in ("results.jsonl", "spectra.jsonl"):
        (tmp_path / name).write_bytes((swept / name).read_bytes())
    assert redraw([str(tmp_path)]) == 0
    assert str(tmp_path / "report.png") in capsys.readouterr().out.replace("\n", "")
    for name in ("report.png", "summary.md"):
        assert (tmp_path / name).read_bytes() == (swept / name).read_bytes()
    page, marks = (
        tmp_path / "page.md",
        ("before\n<!-- table {} -->\n", "<!-- end -->\n<!-- table other -->\n<!-- end -->\n"),
    )
    page.write_text("".join(marks).format(tmp_path.name))
    for _ in range(2):  # what is filled is filled again
        assert redraw([str(tmp_path), "--page", str(page)]) == 0
        table = (tmp_path / "summary.md").read_text().split("\n\n")[1]
        assert page.read_text() == f"\n{table}\n\n".join(marks).format(tmp_path.name)
    capsys.readouterr()
    assert redraw([str(tmp_path / "nothing")]) == 2
    assert "holds no results of a sweep" in capsys.readouterr().err


def test_presets_give_way_to_what_is_asked_for():
    assert command.parse([]) == Settings()
    quick = command.parse(["--quick"])
    assert (quick.epochs, quick.strengths, quick.network, quick.data) == (3, (0.0, 1.0), "shallow", "mnist")
    assert command.parse(["--quick", "--epochs", "7"]) == replace(quick, epochs=7)
    assert command.parse(["--data", "digits", "--seed", "4"]) == replace(
        Settings(), data="digits", batch=256, seeds=(4,)
    )
    assert command.parse(["--data", "digits", "--batch", "99"]).images_per_step == 99


def test_without_mnist_the_quick_run_takes_the_digits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    real = data.load

    def offline(name: str, root: Path | None = None) -> data.Dataset:
        if name == "mnist":
            raise data.DataError("data: no source served mnist: no network")
        return real(name, root)

    monkeypatch.setattr(command, "load", offline)
    taken: list[Settings] = []
    monkeypatch.setattr(command, "run_all", lambda settings, *_: taken.append(settings))
    monkeypatch.setattr(command, "report", lambda *_: tmp_path / "report.png")
    assert cli.main(["train", "spectral", "--quick", "--device", "cpu", "--out", str(tmp_path)]) == 0
    assert "no network MNIST cannot be had, so this run" in " ".join(capsys.readouterr().out.split())
    assert (taken[0].data, taken[0].images_per_step) == ("digits", 256)
    assert cli.main(["train", "spectral", "--device", "cpu", "--out", str(tmp_path)]) == 2
    assert "no source served mnist" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("--resume", "--resume needs --out, the folder of the run to go on with"),
        ("--jobs 0", "--jobs must be at least 1, got 0"),
        ("--batch 0", "--batch must be at least 1, got 0"),
        ("--attack-samples 0", "--attack-samples must be at least 1, got 0"),
        ("--pgd-step-size 0", "--pgd-step-size must be above 0, got 0.0"),
        ("--alphas 1 1", "--alphas must be different numbers from 0 on, got 1.0 1.0"),
        ("--alphas nan", "--alphas must be different numbers from 0 on, got nan"),
        ("--strengths -1", "--strengths must be different numbers from 0 on, got -1.0"),
        ("--fgsm 0", "--fgsm must be in (0, 1], parts of the range of a pixel, got 0.0"),
        ("--pgd 1.5", "--pgd must be in (0, 1], parts of the range of a pixel, got 1.5"),
        ("--seeds -1", "--seeds must be different numbers from 0 on, got -1"),
        ("--network conv", "--network conv needs images of at least 10 pixels a side, got the digits' 8"),
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
