"""The shared loop: order, metrics, checkpoints, interrupts, and resuming to the same bits."""

import json
import math
import os
import signal
import warnings
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from neurokernels.trainers.loop import Interrupted, Loop
from neurokernels.trainers.run import RunError, RunFolder

QUIET = Console(quiet=True)
EXAMPLES, BATCH, EPOCHS = 50, 8, 3


class Problem:
    """Everything a checkpoint has to hold: momentum, a schedule, dropout (the global generator) and one of its own."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(4, 16), nn.Dropout(0.5), nn.Linear(16, 1))
        self.optimiser = torch.optim.Adam(self.model.parameters(), lr=0.01)
        self.schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(self.optimiser, "max", patience=0)
        self.noise = torch.Generator().manual_seed(1)
        self.seen: list[list[int]] = []
        self.x = torch.randn(EXAMPLES, 4, generator=torch.Generator().manual_seed(2))
        self.stop_at: int | None = None
        self.signal = signal.SIGTERM

    def state(self) -> dict[str, object]:
        return {"m": self.model, "o": self.optimiser, "s": self.schedule, "noise": self.noise}

    def step(self, indices: Tensor) -> dict[str, Tensor]:
        self.seen.append(indices.tolist())
        x = self.x[indices] + 0.1 * torch.randn(len(indices), 4, generator=self.noise)
        loss = (self.model(x).squeeze(1) - x.sum(1)).square().mean()
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        if len(self.seen) == self.stop_at:
            os.kill(os.getpid(), self.signal)
        return {"loss": loss, "examples": torch.tensor(float(len(indices)))}

    def finish(self, epoch: int, means: dict[str, float]) -> list[dict[str, object]]:
        self.schedule.step(means["loss"])
        return [{"network": "n", "mean": means["loss"], "rate": self.optimiser.param_groups[0]["lr"]}]

    def loop(self, folder: Path, **options: object) -> Loop:
        options = {"examples": EXAMPLES, "batch": BATCH, "epochs": EPOCHS, "seed": 3} | options
        return Loop(RunFolder(folder), self.state(), **options)  # type: ignore[arg-type]

    def weights(self) -> Tensor:
        return torch.cat([p.detach().flatten() for p in self.model.parameters()])


def without_times(history: list[dict[str, object]]) -> list[dict[str, object]]:
    return [{name: value for name, value in row.items() if name != "seconds"} for row in history]


@pytest.fixture
def whole(tmp_path: Path) -> tuple[Problem, list[dict[str, object]]]:
    """A run that was never interrupted."""
    problem = Problem()
    history = problem.loop(tmp_path / "whole").run(problem.step, problem.finish, QUIET)
    return problem, without_times(history)


def test_every_epoch_sees_every_example_once_in_its_own_order(whole):
    problem, _ = whole
    per_epoch = math.ceil(EXAMPLES / BATCH)
    epochs = [sum(problem.seen[i * per_epoch : (i + 1) * per_epoch], []) for i in range(EPOCHS)]
    assert all(sorted(epoch) == list(range(EXAMPLES)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == EPOCHS


def test_means_weigh_examples_not_batches(tmp_path: Path):
    problem, means = Problem(), []
    problem.finish = lambda epoch, m: means.append(m) or []  # type: ignore[method-assign]
    problem.loop(tmp_path).run(problem.step, problem.finish, QUIET)
    due = (48 * 8 + 2 * 2) / 50
    assert [m["examples"] for m in means] == [due] * EPOCHS


def test_metrics_are_lines_of_json(whole, tmp_path: Path):
    _, history = whole
    lines = (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()
    assert without_times([json.loads(line) for line in lines]) == history
    assert [row["epoch"] for row in history] == [1, 2, 3]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("stop_at", [1, 7, 11])
def test_an_interrupted_run_goes_on_to_the_same_bits(whole, tmp_path: Path, stop_at: int, number: signal.Signals):
    uninterrupted, history = whole
    first = Problem()
    first.stop_at, first.signal = stop_at, number
    before = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)}
    with pytest.raises(Interrupted, match=f"epoch {1 + stop_at // 7 if stop_at != 7 else 1} of 3") as stopped:
        first.loop(tmp_path / "part").run(first.step, first.finish, QUIET)
    assert stopped.value.number == number
    assert {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)} == before
    assert len(first.seen) == stop_at

    second = Problem()
    torch.manual_seed(99)  # whatever this process drew before
    second.noise.manual_seed(99)
    loop = second.loop(tmp_path / "part")
    assert loop.restore()
    again = loop.run(second.step, second.finish, QUIET)
    assert first.seen + second.seen == uninterrupted.seen
    assert without_times(again) == history
    assert torch.equal(second.weights(), uninterrupted.weights())
    assert torch.equal(second.noise.get_state(), uninterrupted.noise.get_state())
    assert (tmp_path / "part" / "metrics.jsonl").read_text().count("\n") == EPOCHS


@pytest.mark.parametrize("lost", ["m", "o", "s", "noise", "order", "rng"])
def test_whatever_a_checkpoint_would_lack_is_missed(whole, tmp_path: Path, lost: str):
    """The teeth of the test above: without any one part of the state the numbers differ."""
    uninterrupted, history = whole
    first = Problem()
    first.stop_at = 11
    with pytest.raises(Interrupted):
        first.loop(tmp_path).run(first.step, first.finish, QUIET)
    checkpoint = RunFolder(tmp_path).load()
    assert checkpoint is not None
    fresh = Problem()
    fresh_parts = {**fresh.state(), "order": torch.Generator().manual_seed(3)}
    if lost == "rng":
        checkpoint["rng"] = torch.Generator().manual_seed(99).get_state()
    else:
        part = fresh_parts[lost]
        checkpoint["state"][lost] = part.get_state() if isinstance(part, torch.Generator) else part.state_dict()
    RunFolder(tmp_path).save(checkpoint)
    second = Problem()
    loop = second.loop(tmp_path)
    assert loop.restore()
    again = loop.run(second.step, second.finish, QUIET)
    assert without_times(again) != history
    assert not torch.equal(second.weights(), uninterrupted.weights())


def test_a_finished_run_has_nothing_left_to_do(whole, tmp_path: Path):
    _, history = whole
    problem = Problem()
    loop = problem.loop(tmp_path / "whole")
    assert loop.restore()
    assert without_times(loop.run(problem.step, problem.finish, QUIET)) == history
    assert problem.seen == []


def test_there_is_nothing_to_restore_in_a_new_folder(tmp_path: Path):
    assert not Problem().loop(tmp_path).restore()


def test_checkpoints_come_as_often_as_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    saved: list[tuple[int, int]] = []
    monkeypatch.setattr(RunFolder, "save", lambda self, state: saved.append((state["epoch"], state["at"])))
    for seconds, due in (
        (0.0, [(0, 8), (0, 16), (0, 24), (0, 32), (0, 40), (0, 48), (0, 50), (1, 0)]),
        (1e9, [(1, 0)]),
    ):
        saved.clear()
        problem = Problem()
        problem.loop(tmp_path, epochs=1, checkpoint_seconds=seconds).run(problem.step, problem.finish, QUIET)
        assert saved == due


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path):
    problem = Problem()
    problem.x[17] = math.nan
    with pytest.raises(FloatingPointError, match="mean is not finite after epoch 1"):
        problem.loop(tmp_path).run(problem.step, problem.finish, QUIET)


def test_a_full_disk_keeps_the_checkpoint_there_was(whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = RunFolder(tmp_path / "whole")
    before = (folder.path / "checkpoint.pt").read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match=r"checkpoint.pt cannot be written: .*No space left on device"):
        folder.save({"x": torch.zeros(10)})
    assert (folder.path / "checkpoint.pt").read_bytes() == before
    assert sorted(path.name for path in folder.path.iterdir()) == ["checkpoint.pt", "metrics.jsonl"]


@pytest.mark.parametrize("content", [b"", b"PK\3\4 half a checkpoint", b"not one at all"])
def test_a_damaged_checkpoint_is_named(tmp_path: Path, content: bytes):
    (tmp_path / "checkpoint.pt").write_bytes(content)
    with pytest.raises(RunError, match=r"checkpoint.pt is damaged \(\w+\); remove it to start this run anew"):
        RunFolder(tmp_path).load()


def test_a_checkpoint_with_code_in_it_is_refused(tmp_path: Path):
    torch.save({"state": Problem()}, tmp_path / "checkpoint.pt")
    with pytest.raises(RunError, match="is damaged"):
        RunFolder(tmp_path).load()


def opened(path: Path, *, resume: bool = False, **settings: object) -> RunFolder:
    return RunFolder.open(path, "t", {"rate": 0.1, "size": (1, 2)} | settings, resume=resume)


def test_a_run_keeps_its_settings(tmp_path: Path):
    opened(tmp_path / "run")
    stored = json.loads((tmp_path / "run" / "settings.json").read_text())
    assert stored["settings"] == {"trainer": "t", "rate": 0.1, "size": [1, 2]}
    assert stored["made with"]["torch"] == torch.__version__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        opened(tmp_path / "run", resume=True)


def test_a_folder_with_a_run_is_not_overwritten(tmp_path: Path):
    opened(tmp_path)
    with pytest.raises(RunError, match="holds a run already: add --resume to go on with it, or choose another folder"):
        opened(tmp_path)


def test_other_settings_are_named(tmp_path: Path):
    opened(tmp_path)
    with pytest.raises(RunError) as raised:
        opened(tmp_path, resume=True, rate=0.2, more=None, deep=True)
    assert str(raised.value) == (
        f"{tmp_path} cannot be resumed with other settings: deep was None and is True, rate was 0.1 and is 0.2; repeat "
        "those it has, or choose another folder with --out"
    )


def test_other_tools_are_told(tmp_path: Path):
    opened(tmp_path)
    path = tmp_path / "settings.json"
    path.write_text(path.read_text().replace(f'"torch": "{torch.__version__}"', '"torch": "1.0"'))
    with pytest.warns(UserWarning, match=r"but for rounding: torch was '1.0' and is '"):
        opened(tmp_path, resume=True)


@pytest.mark.parametrize("content", ["", "[]", '{"settings": 3}', "{", '{"settings": {}}'])
def test_damaged_settings_are_named(tmp_path: Path, content: str):
    (tmp_path / "settings.json").write_text(content)
    with pytest.raises(RunError, match="settings.json cannot be read: "):
        opened(tmp_path, resume=True)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RunError, match=r"file/run/settings.json cannot be written: .*choose another folder with --out"):
        opened(tmp_path / "file" / "run")
