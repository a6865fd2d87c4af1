"""The spiking trainer: the network is the published one, fused and plain agree, and the command does what it says."""

import json
import math
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor
from torch.nn import functional as F

from neurokernels import cli, data
from neurokernels._core import accuracy, cuda
from neurokernels.bench.clocks import torch_threads
from neurokernels.encoders import Events, poisson_events
from neurokernels.trainers.run import RunFolder
from neurokernels.trainers.spiking import command
from neurokernels.trainers.spiking.network import EventDense, SpikingNet, loss_and_hits
from neurokernels.trainers.spiking.phase import analytic_gap, measured_gap
from neurokernels.trainers.spiking.settings import Settings
from neurokernels.trainers.spiking.timing import race_networks
from neurokernels.trainers.spiking.traces import watch
from neurokernels.trainers.spiking.trainer import Learner, initial, train
from tests.emulator import switched_on

TINY = ["--data", "digits", "--hidden", "16", "--steps", "20", "--batch", "64", "--device", "cpu"]


def spikes(batch: int = 12, steps: int = 30, pixels: int = 40, rate: float = 0.3) -> Events:
    images = torch.rand(batch, pixels, generator=torch.Generator().manual_seed(0))
    return poisson_events(images, steps, rate=rate, generator=torch.Generator().manual_seed(1))


def network(hidden: int = 24, dt: float = 0.5) -> SpikingNet:
    return SpikingNet(40, hidden, 10, dt, torch.Generator().manual_seed(2))


def test_a_dense_layer_on_events_is_a_dense_layer():
    events, layer = spikes(), EventDense(40, 24, torch.Generator().manual_seed(0))
    torch.nn.init.normal_(layer.bias)
    upstream = torch.randn(30, 12, 24, generator=torch.Generator().manual_seed(1))
    found = torch.autograd.grad(layer(events), (layer.weight, layer.bias), upstream)
    plain = {}
    for dtype in (torch.float32, torch.float64):
        weight, bias = (p.detach().to(dtype).requires_grad_() for p in (layer.weight, layer.bias))
        out = F.linear(events.dense(dtype), weight.T, bias)
        plain[dtype] = (out, *torch.autograd.grad(out, (weight, bias), upstream.to(dtype)))
    for name, value, reference, exact in zip(
        ("currents", "weight", "bias"), (layer(events), *found), *plain.values(), strict=True
    ):
        accuracy.check(value, reference, exact, factor=accuracy.BACKWARD, name=name)


def test_the_network_is_the_published_one():
    settings, digits = Settings(), data.load("digits")
    net = initial(settings, digits, 0, torch.device("cpu"))
    shapes = {name: tuple(p.shape) for name, p in net.named_parameters()}
    assert shapes == {
        "dense.weight": (64, 128), "dense.bias": (128,), "lif.w_leak": (128,),
        "out.weight": (10, 128), "out.bias": (10,), "readout.w_leak": (10,),
    }  # fmt: skip
    glorot = math.sqrt(6 / (64 + 128))
    assert 0.9 * glorot < float(net.dense.weight.detach().abs().max()) <= glorot
    assert not net.dense.bias.any()
    assert not net.out.bias.any()
    assert 0 <= float(net.lif.w_leak.detach().min()) < float(net.lif.w_leak.detach().max()) <= 0.1 * 0.005
    assert not net.readout.w_leak.any()
    assert net.lif.options == {
        "reset": "zero", "reset_at": "above", "surrogate": "constant", "detach_reset": True, "floor": 0.0
    }  # fmt: skip
    chosen = (settings.epochs, settings.steps, settings.dt, settings.batch, settings.hidden, settings.learning_rate)
    assert chosen == (30, 100, 0.005, 256, 128, 1e-3)


def test_the_loss_is_the_mean_squared_error_of_the_softmax():
    membranes = torch.tensor([[0.0, math.log(3)], [math.log(4), 0.0]])
    loss, hits = loss_and_hits(membranes, torch.tensor([1, 1]))
    assert float(loss) == pytest.approx((0.25**2 * 2 + 0.8**2 * 2) / 4)
    assert float(hits) == 0.5


def test_the_rate_falls_in_the_seventh_epoch_without_progress_as_in_keras():
    learner = Learner(network(), Settings())
    rates = []
    for value in [0.5] + [0.50009] * 15:  # less than 1e-4 better
        learner.schedule.step(value)
        rates.append(learner.optimiser.param_groups[0]["lr"])
    assert rates == pytest.approx([1e-3] * 7 + [1e-4] * 7 + [1e-5] * 2)


def gradients(net: SpikingNet, events: Events, labels: Tensor) -> dict[str, Tensor]:
    loss, _ = loss_and_hits(net(events), labels)
    names, parameters = zip(*net.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(loss, parameters), strict=True))


def test_the_fused_network_computes_what_plain_loops_compute():
    events, labels, net = spikes(), torch.arange(12) % 10, network()
    plain = net.as_plain()
    current = net.dense(events).detach()
    assert 0.02 < float(net.lif(current).detach().mean()) < 0.5
    assert torch.equal(net.lif(current), plain.lif(current))
    assert torch.equal(net(events), plain(events))
    exact = gradients(plain.double(), Events(events.pixels, events.offsets, events.shape), labels)
    fused, loops = gradients(net, events, labels), gradients(net.as_plain(), events, labels)
    assert float(fused["lif.w_leak"].abs().max()) > 0
    assert float(fused["readout.w_leak"].abs().max()) > 0
    for name in exact:
        accuracy.check(fused[name], loops[name], exact[name], factor=accuracy.BACKWARD, ulps=32, name=name)


def test_a_copy_as_plain_loops_is_a_copy():
    net = network()
    plain = net.as_plain()
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter.add_(1)
    assert all(not torch.equal(p, q) for p, q in zip(net.parameters(), plain.parameters(), strict=True))


def test_traces_are_the_run_itself():
    events, net = spikes(batch=1), network()
    with torch.no_grad():
        traces, due = watch(net, events), net.lif(net.dense(events))
        assert np.array_equal(traces.spikes, due[:, 0])
        assert np.array_equal(traces.classes[-1], net(events)[0])
    assert traces.membranes.shape == (30, 24)
    assert float(traces.membranes.max()) <= 1
    assert (traces.membranes[traces.spikes == 1] == 0).all()


@pytest.mark.parametrize("pulses", [2, 3, math.inf])
@pytest.mark.parametrize("leak", [0.05, 0.2])
def test_the_phase_diagram_is_the_formula(pulses: float, leak: float):
    gain = torch.linspace(0.0151, 0.9951, 50, dtype=torch.float64)
    longest = 15
    due = analytic_gap(gain, leak, pulses).nan_to_num(0).floor().clamp(max=longest).long()
    found = measured_gap(gain, leak, pulses, longest)
    assert torch.equal(found, due)
    assert len(found.unique()) > 4
    assert not torch.equal(measured_gap(gain, leak * 1.1, pulses, longest), due)


def test_networks_that_disagree_get_no_time(monkeypatch: pytest.MonkeyPatch):
    events, labels, net = spikes(), torch.arange(12) % 10, network()
    settings = Settings(device="cpu")
    groups = race_networks(net, settings, events, labels)
    assert [row.status for group in groups for row in group.rows] == ["ok"] * 4
    before = {name: p.clone() for name, p in net.named_parameters()}
    whole = SpikingNet.as_plain

    def leaks_more(self: SpikingNet) -> SpikingNet:
        copy = whole(self)
        with torch.no_grad():
            copy.lif.w_leak.add_(0.2)  # type: ignore[union-attr,operator]
        return copy

    monkeypatch.setattr(SpikingNet, "as_plain", leaks_more)
    wrong = race_networks(net, settings, events, labels)
    assert [(row.name, row.status) for group in wrong for row in group.rows] == [("fused", "ok"), ("plain", "FAIL")] * 2
    assert all(torch.equal(p, before[name]) for name, p in net.named_parameters())


def rows(folder: Path) -> list[dict[str, object]]:
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "seconds"} for row in found]


def run(*arguments: str) -> int:
    return cli.main(["train", "spiking", *TINY, *arguments])


def test_the_command_trains_compares_and_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert run("--epochs", "2", "--seeds", "0", "5", "--compare", "--out", str(tmp_path)) == 0
    said = capsys.readouterr().out
    assert str(tmp_path / "report.png") in said.replace("\n", "")
    png = (tmp_path / "report.png").read_bytes()
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    assert len(png) > 40_000
    for seed in (0, 5):
        metrics = rows(tmp_path / f"seed-{seed}")
        assert [(row["epoch"], row["network"]) for row in metrics] == [
            (epoch, name) for epoch in (1, 2) for name in ("fused", "plain")
        ]
        assert metrics[2]["train_loss"] < metrics[0]["train_loss"]
        for fused, plain in zip(metrics[::2], metrics[1::2], strict=True):
            assert fused["test_loss"] == pytest.approx(plain["test_loss"], rel=0.05)
    assert rows(tmp_path / "seed-0") != rows(tmp_path / "seed-5")
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert [(row["seed"], row["network"], row["epoch"]) for row in summary["final"]] == [
        (seed, name, 2) for seed in (0, 5) for name in ("fused", "plain")
    ]
    table = (tmp_path / "summary.md").read_text()
    assert "| seed | fused | plain |" in table
    assert "| mean ± sd |" in table
    assert table.count("best of interleaved rounds") == 2
    assert "test accuracy, fused minus plain, all epochs and seeds: mean " in table
    timing = json.loads((tmp_path / "timing.json").read_text())
    assert [row["status"] for group in timing for row in group["rows"]] == ["ok"] * 4

    assert run("--epochs", "2", "--seeds", "0", "5", "--compare", "--out", str(tmp_path)) == 2
    assert "holds a run already: add --resume" in capsys.readouterr().err
    assert run("--epochs", "3", "--seeds", "0", "--compare", "--resume", "--out", str(tmp_path)) == 2
    assert "cannot be resumed with other settings: epochs was 2 and is 3" in capsys.readouterr().err


SETTINGS = Settings(data="digits", hidden=16, steps=20, batch=64, dt=0.2, device="cpu", epochs=2, compare=True)


def trained(folder: Path) -> RunFolder:
    """Trains in this process, from the checkpoint there is."""
    with torch_threads(SETTINGS.threads):
        run = RunFolder.open(folder / "seed-0", "spiking", SETTINGS.numbers(0), resume=True)
        train(SETTINGS, data.load("digits"), 0, run, Console(quiet=True))
    return run


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run that was never interrupted."""
    return trained(tmp_path_factory.mktemp("whole"))


def started(folder: Path) -> subprocess.Popen[bytes]:
    """The same run in a process of its own, with a checkpoint after every step."""
    arguments = [*TINY, "--epochs", "2", "--compare", "--checkpoint-seconds", "0", "--out", str(folder), "--resume"]
    return subprocess.Popen(
        [sys.executable, "-m", "neurokernels", "train", "spiking", *arguments],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip


def killed_in_mid_epoch(folder: Path, number: signal.Signals) -> tuple[int, str]:
    process = started(folder)
    try:
        deadline = time.monotonic() + 120
        while not (folder / "seed-0" / "checkpoint.pt").exists():
            assert process.poll() is None, process.stderr
            assert time.monotonic() < deadline
            time.sleep(0.002)
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
        return process.returncode, said.decode()
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_run_that_is_killed_in_mid_epoch_resumes_to_the_same_bits(
    whole: RunFolder, tmp_path: Path, number: signal.Signals
):
    status, said = killed_in_mid_epoch(tmp_path, number)
    checkpoint = RunFolder(tmp_path / "seed-0").load()
    assert checkpoint is not None
    assert 0 < checkpoint["at"] < 1437
    assert checkpoint["epoch"] == 0
    if number == signal.SIGINT:
        assert status == 130
        assert "stopped in epoch 1 of 2" in said
        assert "the same command with --resume goes on from there" in said
    else:
        assert status == -signal.SIGKILL
    resumed = trained(tmp_path)
    assert rows(resumed.path) == rows(whole.path)
    assert flat(resumed.load()) == flat(whole.load())


def flat(value: object, name: str = "") -> dict[str, object]:
    """A checkpoint as names and plain values, without the times."""
    if isinstance(value, dict):
        items = [(str(key), item) for key, item in value.items() if key != "seconds"]
    elif isinstance(value, list | tuple):
        items = [(str(index), item) for index, item in enumerate(value)]
    else:
        return {name: (value.dtype, value.tolist()) if isinstance(value, Tensor) else value}
    return {key: leaf for at, item in items for key, leaf in flat(item, f"{name}/{at}").items()}


def test_without_mnist_the_quick_run_says_so_and_takes_the_digits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    real = data.load

    def offline(name: str, root: Path | None = None) -> data.Dataset:
        if name == "mnist":
            raise data.DataError("data: no source served mnist: no network")
        return real(name, root)

    monkeypatch.setattr(command, "load", offline)
    taken: list[Settings] = []
    monkeypatch.setattr(command, "_one", lambda settings, *_: taken.append(settings))
    monkeypatch.setattr(command, "_report", lambda *_: tmp_path / "report.png")
    assert cli.main(["train", "spiking", "--quick", "--device", "cpu", "--out", str(tmp_path)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert (
        "no source served mnist: no network MNIST cannot be had, so this run learns scikit-learn's small digits" in said
    )
    assert (taken[0].data, taken[0].batch, taken[0].epochs) == ("digits", 32, 30)
    assert cli.main(["train", "spiking", "--device", "cpu", "--out", str(tmp_path)]) == 2
    assert "no source served mnist" in capsys.readouterr().err


def test_presets_give_way_to_what_is_asked_for():
    assert command.parse([]) == Settings()
    assert command.parse(["--quick"]) == replace(Settings(), quick=True, epochs=3, compare=True)
    assert command.parse(["--quick", "--epochs", "7", "--no-compare"]) == replace(Settings(), quick=True, epochs=7)
    assert command.parse(["--data", "digits", "--seed", "4"]).seeds == (4,)
    assert command.parse(["--data", "digits"]).batch == 32
    assert command.parse(["--data", "digits", "--batch", "9"]).batch == 9


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("--resume", "--resume needs --out, the folder of the run to go on with"),
        ("--epochs 0", "--epochs must be at least 1, got 0"),
        ("--batch -3", "--batch must be at least 1, got -3"),
        ("--dt nan", "--dt must be in (0, 1], the spike probability of a white pixel, got nan"),
        ("--dt 1.5", "--dt must be in (0, 1], the spike probability of a white pixel, got 1.5"),
        ("--learning-rate inf", "--learning-rate must be above 0, got inf"),
        ("--seeds 1 1", "--seeds must be different numbers from 0 on, got 1 1"),
        ("--seeds -1", "--seeds must be different numbers from 0 on, got -1"),
        ("--device tpu9", "--device tpu9 cannot be used: "),
        ("--backend fpga", "--backend must be one of auto, reference, cpu, triton, cuda, got 'fpga'"),
        ("--backend cuda", "backend 'cuda' was asked for"),
    ],
)
def test_settings_that_cannot_be_are_refused(
    arguments: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    with switched_on(cuda.CupyDriver()):  # which takes no tensors of the CPU; the emulation does
        assert run(*arguments.split()) == 2
    assert says in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_new_run_gets_a_folder_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)
    assert run("--epochs", "1") == 0
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.startswith("spiking-digits-2")
    assert sorted(path.name for path in folder.iterdir()) == [
        "report.png", "seed-0", "summary.json", "summary.md", "timing.json"
    ]  # fmt: skip
