"""The maze trainer: arms are what they say, tests are of unseen mazes, a stopped sweep goes on to the same numbers."""

import json
import math
import os
import re
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from rich.console import Console
from scipy import stats

import neurokernels as nk
from neurokernels import cli
from neurokernels._core import backends
from neurokernels.evolution import Mazes, Population, mazes, trace
from neurokernels.trainers.loop import Interrupted
from neurokernels.trainers.maze import command, trainer
from neurokernels.trainers.maze.__main__ import main as redraw
from neurokernels.trainers.maze.graph import Graph
from neurokernels.trainers.maze.labyrinths import follow_wall, held_out, training
from neurokernels.trainers.maze.paths import Walk
from neurokernels.trainers.maze.results import Group, Results, holm, paired, shown
from neurokernels.trainers.maze.settings import Run, Settings
from neurokernels.trainers.maze.summary import summarise
from neurokernels.trainers.maze.trainer import BEST, POPULATION, Examiner, Lineage
from neurokernels.trainers.run import RunError, RunFolder

TINY = Settings(
    severances=(0.2,), sparse=(), noises=(), l1s=(), seeds=(0,), generations=6, agents=30, mazes=4, size=3, steps=40,
    larger=(5,), held_out=24, every=3, hidden=6, elite=0.25, gain=3.0, device="cpu",
)  # fmt: skip
ASKED = [
    "--severances", "0.2", "--sparse", "0.5", "--noises", "0.1", "--l1s", "0.01", "--generations", "6",
    "--agents", "30", "--mazes", "4", "--size", "3", "--steps", "40", "--larger", "5", "--held-out", "24",
    "--every", "3", "--hidden", "6", "--elite", "0.25", "--gain", "3", "--device", "cpu",
]  # fmt: skip
NAMES = ["none-seed-0", "severance-0.2-seed-0", "sparse-0.5-seed-0", "noise-0.1-seed-0", "l1-0.01-seed-0"]


def run(*arguments: str) -> int:
    return cli.main(["train", "maze", *ASKED, *arguments])


def rows(path: Path) -> list[dict[str, object]]:
    """Lines of a file without the times."""
    found = [json.loads(line) for line in path.read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "seconds"} for row in found]


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A population of each arm, two seeds."""
    out = tmp_path_factory.mktemp("swept")
    assert run("--seeds", "0", "1", "--out", str(out)) == 0
    return out


def plain_follower(maze: Mazes, steps: int, side: int, *, remembers: bool = True) -> int:
    """A wall follower in one maze, written as a walk."""
    walls, width = maze.walls[0].flatten().tolist(), maze.size[1]
    cell, heading, turned, goals = int(maze.start[0]), int(maze.facing[0]), False, 0
    for _ in range(steps):
        if cell == int(maze.goal[0]):
            goals, cell, heading, turned = goals + 1, int(maze.start[0]), int(maze.facing[0]), False
        elif not walls[cell] >> (heading + side) % 4 & 1 and not turned:
            heading, turned = (heading + side) % 4, remembers
        elif not walls[cell] >> heading & 1:
            cell, turned = cell + (-width, 1, width, -1)[heading], False
        else:
            heading, turned = (heading - side) % 4, False
    return goals


@pytest.mark.parametrize(("hand", "side"), [("left", -1), ("right", 1)])
def test_a_wall_follower_is_one(hand: str, side: int):
    some = mazes(12, size=6, seed=5)
    found = follow_wall(some, 300, hand).tolist()
    assert found == [plain_follower(some[k], 300, side) for k in range(12)]
    assert min(found) >= 1  # a perfect maze is a tree: walking around it takes four turns and two steps a cell
    assert found != [plain_follower(some[k], 300, -side) for k in range(12)]
    assert sum(plain_follower(some[k], 300, side, remembers=False) for k in range(12)) < sum(found) / 2


def test_a_wall_follower_is_rewarded_as_an_agent_is():
    corridor = mazes(1, size=(1, 5))
    agent = Population.random(1, hidden=2, sensors=("bias",))
    agent = replace(agent, weights=torch.ones_like(agent.weights))  # equal outputs: always forward
    for steps in (4, 5, 9, 10, 23):
        goals = int(nk.maze_rollout(agent, corridor, steps=steps, mode="exact").goals)
        assert goals == int(follow_wall(corridor, steps, "left")) == steps // 5


def test_no_maze_to_test_in_was_seen():
    seen = training(5, 3, 0)
    every, left = held_out(192, 3), held_out(192, 3, apart_from=seen)
    known = {bytes(walls.flatten().tolist()) for walls in seen.walls}
    before = [bytes(walls.flatten().tolist()) for walls in every.walls]
    after = [bytes(walls.flatten().tolist()) for walls in left.walls]
    assert known & set(before)  # else this test shows nothing
    assert after == [walls for walls in before if walls not in known]
    assert len(held_out(20, 4, apart_from=seen)) == 20
    with pytest.raises(ValueError, match="all 20 held-out mazes of 2 x 2 cells are among the training mazes"):
        held_out(20, 2, apart_from=training(200, 2, 0))


def test_every_arm_has_the_same_seeds():
    runs = Settings(severances=(0.1, 0.2), sparse=(0.3,), noises=(), l1s=(0.01,), seeds=(3, 4)).runs()
    names = ["none", "severance-0.1", "severance-0.2", "sparse-0.3", "l1-0.01"]
    assert [run.name for run in runs] == [f"{name}-seed-{seed}" for seed in (3, 4) for name in names]
    assert (runs[1].amount_of("severance"), runs[1].amount_of("l1"), runs[0].amount_of("none")) == (0.1, 0, 0)
    assert [Settings().steps_in(size) for size in (8, 12, 16)] == [200, 450, 800]
    assert {"generations", "mode", "held_out", "seed", "amount"} <= Settings().numbers(runs[0]).keys()
    assert not {"seeds", "jobs", "out", "threads"} & Settings().numbers(runs[0]).keys()


def test_the_command_evolves_tests_and_reports(swept: Path):
    results = {row["name"]: row for row in map(json.loads, (swept / "results.jsonl").read_text().splitlines())}
    seeds = [name.replace("seed-0", f"seed-{seed}") for name in NAMES for seed in (0, 1)]
    assert list(results) == seeds
    ends = {name: results[name]["result"] for name in NAMES}
    for name in NAMES:
        metrics = rows(swept / name / "metrics.jsonl")
        assert [row["generation"] for row in metrics] == [1, 2, 3, 4, 5, 6]
        assert ["goals_5" in row for row in metrics] == [False, False, True, False, False, True]
        assert results[name]["curves"]["generation"] == [3, 6]
        assert results[name]["curves"]["goals_3"][1] == pytest.approx(ends[name]["goals_3"], rel=1e-3)
    first = {name: rows(swept / name / "metrics.jsonl")[0] for name in NAMES}
    assert first[NAMES[1]] == first[NAMES[0]]  # the same mazes and agents; nothing was severed yet
    assert first[NAMES[0]]["mean_kept"] == 1
    assert first[NAMES[2]]["mean_kept"] == pytest.approx(0.5, abs=0.05)
    assert first[NAMES[0]]["mean_goals"] > 0
    quiet, noisy = (rows(swept / NAMES[k] / "metrics.jsonl") for k in (0, 3))
    assert [row["mean_goals"] for row in quiet] != [row["mean_goals"] for row in noisy]
    assert first[NAMES[4]]["mean_goals"] == first[NAMES[0]]["mean_goals"]
    assert first[NAMES[4]]["mean_fitness"] < first[NAMES[0]]["mean_fitness"] - 0.05
    assert ends[NAMES[1]]["mean_kept"] < 0.9
    assert {ends[name]["kept"] for name in (NAMES[0], NAMES[3], NAMES[4])} == {1.0}
    table = (swept / "summary.md").read_text()
    assert "| arm | seeds | kept (%) | goals, training | goals, 3 x 3 | goals, 5 x 5 |" in table
    assert "| wall follower, left hand | – | – |" in table
    assert "| none | 2 | 100.0 |" in table
    for name in ("report.png", "network.png", "path.png"):
        assert (swept / name).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    with Image.open(swept / "path.gif") as gif:
        assert gif.n_frames > 3
    assert (swept / "path.gif").stat().st_size < 400_000


@pytest.mark.parametrize("name", ["cpu", "reference"])
def test_what_is_reported_is_what_the_kept_agent_does(swept: Path, name: str):
    for row in map(json.loads, (swept / "results.jsonl").read_text().splitlines()):
        agent, end = Population.load(swept / row["name"] / BEST), row["result"]
        train = training(4, 3, row["seed"])
        tests = {"train": (train, 40), "3": (held_out(24, 3, apart_from=train), 40), "5": (held_out(24, 5), 111)}
        for key, (some, steps) in tests.items():
            with nk.backend(name), backends.record() as ran:
                goals = nk.maze_rollout(agent, some, steps=steps, mode="exact").goals.double()
            assert ran == [("maze_rollout", name)]
            due = float(goals.mean()), float((goals > 0).double().mean())
            assert (end[f"goals_{key}"], end[f"solved_{key}"]) == due
        assert end["edges"] == int(agent.edges[0])
        assert end["kept"] == end["edges"] / agent.network.edges


def test_the_agent_is_chosen_by_training_alone_and_with_all_connections():
    settings = replace(TINY, elite=1.0)
    train = training(settings.mazes, settings.size, 0)
    population = Population.random(30, hidden=6, gain=3.0, seed=0)
    examine = Examiner(settings, train)
    total = nk.maze_rollout(population, train, steps=40, mode="exact").goals.sum(1)
    best = int(total.argmax())
    assert best > 0
    assert torch.equal(examine.choose(population, Run("none", 0, 0)).weights[0], population.weights[0])
    assert torch.equal(examine.choose(population, Run("noise", 0.1, 0)).weights[0], population.weights[best])


def test_an_interrupted_population_goes_on_to_the_same_generations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    settings, run_, quiet = replace(TINY, generations=9), Run("severance", 0.2, 0), Console(quiet=True)
    whole = trainer.train(settings, run_, RunFolder(tmp_path / "whole"), quiet)
    folder, step = RunFolder(tmp_path / "stopped"), Lineage.step

    def interrupted(self: Lineage) -> dict[str, object]:
        row = step(self)
        if row["generation"] == 5:
            signal.raise_signal(signal.SIGTERM)
        return row

    with monkeypatch.context() as patch:
        patch.setattr(Lineage, "step", interrupted)
        with pytest.raises(Interrupted, match="generation 5 of 9"):
            trainer.train(settings, run_, folder, quiet)
    assert len(rows(folder.path / "metrics.jsonl")) == Population.load(folder.path / POPULATION).generation == 5
    with (folder.path / "metrics.jsonl").open("a") as lines:  # killed after metrics of a later checkpoint
        lines.write('{"generation": 6}\n')
    again = trainer.train(settings, run_, folder, quiet)
    for name in (POPULATION, BEST):
        assert (folder.path / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert rows(folder.path / "metrics.jsonl") == rows(tmp_path / "whole" / "metrics.jsonl")
    assert again["curves"] == whole["curves"]


def test_a_broken_checkpoint_is_named(tmp_path: Path):
    folder = RunFolder(tmp_path)
    lineage = Lineage(TINY, Run("none", 0, 0), folder)
    assert not lineage.restore()
    lineage.step()
    lineage.save()
    (tmp_path / "metrics.jsonl").write_text("")
    with pytest.raises(RunError, match="is of generation 1, of which metrics.jsonl knows nothing"):
        lineage.restore()
    (tmp_path / POPULATION).write_bytes(b"broken")
    with pytest.raises(RunError, match="not a complete safetensors file.*remove .* to start this run anew"):
        lineage.restore()


def test_a_sweep_that_is_stopped_goes_on_to_the_same_bits(
    swept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """The signal comes to this process, in the fourth generation of the second population."""
    asked = ["--seeds", "0", "--sparse", "--noises", "--l1s", "--out", str(tmp_path)]
    step = Lineage.step

    def signalled(self: Lineage) -> dict[str, object]:
        row = step(self)
        if (self.run.arm, row["generation"]) == ("severance", 4):
            os.kill(os.getpid(), signal.SIGTERM)
        return row

    with monkeypatch.context() as patch:
        patch.setattr(Lineage, "step", signalled)
        assert run(*asked) == 128 + signal.SIGTERM
    said = capsys.readouterr().err
    assert "stopped in generation 4 of 6; the same command with --resume goes on from there" in said
    assert sorted(path.parent.name for path in tmp_path.glob("*/result.json")) == NAMES[:1]
    assert Population.load(tmp_path / NAMES[1] / POPULATION).generation == 4
    assert run(*asked, "--resume") == 0
    assert "1 of 2 networks are finished already" in capsys.readouterr().out
    for name in NAMES[:2]:
        assert rows(tmp_path / name / "metrics.jsonl") == rows(swept / name / "metrics.jsonl")
        for file in (POPULATION, BEST):
            assert (tmp_path / name / file).read_bytes() == (swept / name / file).read_bytes()


@pytest.mark.exhaustive  # the same sweep as in test_dcca_command.py
def test_several_processes_reach_the_same_numbers_and_arms_can_be_added(
    swept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    same = ["--seeds", "0", "--out", str(tmp_path)]
    assert run(*same, "--jobs", "2", "--sparse", "--noises", "--l1s") == 0
    for name in NAMES[:2]:
        assert rows(tmp_path / name / "metrics.jsonl") == rows(swept / name / "metrics.jsonl")
        assert "generation    6" in (tmp_path / name / "log.txt").read_text()
    assert run(*same) == 2
    assert "holds a run already: add --resume" in capsys.readouterr().err
    assert run(*same, "--resume", "--mutation", "0.3") == 2
    assert "cannot be resumed with other settings: mutation was 0.1 and is 0.3" in capsys.readouterr().err
    assert run(*same, "--resume") == 0
    assert "2 of 5 networks are finished already" in capsys.readouterr().out
    assert [row["name"] for row in rows(tmp_path / "results.jsonl")] == NAMES


def test_pictures_are_drawn_again_from_what_is_kept(swept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for name in ("results.jsonl", "agent.safetensors"):
        (tmp_path / name).write_bytes((swept / name).read_bytes())
    page = tmp_path / "page.md"
    page.write_text("".join(f"<!-- {mark} {tmp_path.name} -->\n<!-- end -->\n" for mark in ("table", "differences")))
    assert redraw([str(tmp_path), "--page", str(page)]) == 0
    assert str(tmp_path / "report.png") in capsys.readouterr().out.replace("\n", "")
    for name in ("report.png", "network.png", "path.png", "path.gif", "summary.md"):
        assert (tmp_path / name).read_bytes() == (swept / name).read_bytes()
    tables = (tmp_path / "summary.md").read_text().split("\n\n")[1::2]
    assert len(tables) == 2
    assert all(table in page.read_text() for table in tables)
    (tmp_path / "agent.safetensors").unlink()
    assert redraw([str(tmp_path)]) == 2
    assert "holds no agent to show" in capsys.readouterr().err
    assert redraw([str(tmp_path / "nothing")]) == 2
    assert "holds no results of a sweep" in capsys.readouterr().err


def made(arm: str, amount: float, seed: int, goals: float, edges: int = 10) -> dict[str, object]:
    return {"arm": arm, "amount": amount, "seed": seed, "result": {"goals_train": goals, "edges": edges}}


def test_arms_are_compared_seed_by_seed():
    plain, severed = [1.0, 2.5, 3.0, 2.2], [1.4, 2.6, 3.9, 2.4]
    found = [made("none", 0, k, v) for k, v in enumerate(plain)]
    found += [made("severance", 0.1, k, v) for k, v in reversed(list(enumerate(severed)))]
    found += [made("severance", 0.1, 9, 77.0)]  # a seed that the others lack
    results = Results(found, Population.random(1))
    none, group = results.groups()
    assert (group.label, none.label) == ("severance 0.1", "none")

    def goals(row: dict[str, float]) -> float:
        return row["goals_train"]

    due = stats.ttest_rel(severed, plain)
    difference = results.compared(group, goals)
    assert difference is not None
    assert (difference.mean, difference.p, difference.seeds) == pytest.approx((0.4, due.pvalue, 4))
    assert (difference.low, difference.high) == pytest.approx(tuple(due.confidence_interval()))
    assert abs(due.pvalue - stats.ttest_ind(severed, plain).pvalue) > 0.1
    assert results.compared(none, goals) is None
    assert results.compared(Group("l1", 1.0, [made("l1", 1.0, 0, 1.0)]), goals) is None
    assert math.isnan(paired([0.5, 0.5]).p)


def test_severed_arms_are_compared_together():
    """Means of the severed arms within each seed, against none: seeds that an arm lacks are left out."""
    plain, weak, strong = [1.0, 2.5, 3.0], [1.4, 2.6, 3.9], [1.2, 3.0, 3.3]
    found = [
        made(arm, amount, seed, value)
        for arm, amount, values in (("none", 0, plain), ("severance", 0.1, weak), ("severance", 0.2, strong))
        for seed, value in enumerate(values)
    ]
    found += [made("none", 0, 3, 0.0), made("severance", 0.1, 3, 9.0), made("sparse", 0.1, 0, 99.0)]
    means = [(a + b) / 2 for a, b in zip(weak, strong, strict=True)]

    def goals(row: dict[str, float]) -> float:
        return row["goals_train"]

    difference = Results(found, Population.random(1)).severed_together(goals)
    due = stats.ttest_rel(means, plain)
    assert difference is not None
    assert (difference.mean, difference.p, difference.seeds) == pytest.approx((0.4, due.pvalue, 3))
    assert Results(found[3:], Population.random(1)).severed_together(goals) is None
    assert Results(found[:3], Population.random(1)).severed_together(goals) is None


def test_the_summary_names_the_differences(swept: Path, tmp_path: Path):
    results = Results(
        [json.loads(line) for line in (swept / "results.jsonl").read_text().splitlines()], Population.random(1)
    )
    ends = {(row["arm"], row["seed"]): row["result"] for row in results.rows}
    for seed, more in enumerate((1.0, 1.001)):
        ends["severance", seed]["goals_5"] = ends["none", seed]["goals_5"] + more
        ends["severance", seed]["goals_3"] = ends["none", seed]["goals_3"] - more
        ends["severance", seed]["solved_5"] = ends["none", seed]["solved_5"] + (1, -1)[seed]
    summarise(results, RunFolder(tmp_path), Console(quiet=True))
    said = (tmp_path / "summary.md").read_text()
    assert "- goals, 5 x 5: more than none at severance 0.2, less at –; mean of all severed arms +1.00 [" in said
    assert "- goals, 3 x 3: more than none at severance –, less at 0.2; mean of all severed arms -1.00 [" in said
    assert "- solved, 5 x 5 (points): more than none at severance –, less at –; mean of all severed arms +0.0 [" in said
    assert re.search(r"\| severance 0.2 \| 2 \|.* \| \+1.00 \[\+0.99, \+1.01\], p = 0.00", said)


def test_many_comparisons_are_corrected():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    corrected = holm([0.02, math.nan])
    assert corrected[0] == pytest.approx(0.04)
    assert math.isnan(corrected[1])
    assert holm([]) == []


def test_the_agent_that_is_shown_is_the_fittest_of_the_severed():
    found = [made("none", 0, 0, 9.0), made("severance", 0.1, 0, 3.0, 80), made("severance", 0.2, 0, 3.0, 40)]
    assert shown([*found, made("severance", 0.2, 1, 2.9, 5)])["amount"] == 0.2
    assert shown(found[:1])["arm"] == "none"


def test_a_graph_tells_which_connections_can_matter():
    agent = Population.random(1, hidden=4, sensors=("bias", "left"), seed=0)
    units, (source, target) = agent.network.units, agent.network.ends()
    left = {
        ("wall left", "hidden 0.0"): 1.0, ("hidden 0.0", "hidden 0.1"): -2.0, ("hidden 0.1", "forward"): 0.5,
        ("bias", "hidden 0.2"): 0.7, ("hidden 0.3", "right"): 0.3, ("hidden 0.1", "hidden 0.1"): 0.2,
    }  # fmt: skip
    names = [(units[s], units[t]) for s, t in zip(source.tolist(), target.tolist(), strict=True)]
    mask = torch.tensor([[name in left for name in names]])
    graph = Graph.of(Population(torch.tensor([[left.get(name, 0.0) for name in names]]), mask, agent.network))
    found = zip(graph.source.tolist(), graph.target.tolist(), graph.weight.tolist(), graph.useful.tolist(), strict=True)
    seen = {(units[s], units[t]): (round(w, 3), useful) for s, t, w, useful in found}
    dead = {("bias", "hidden 0.2"), ("hidden 0.3", "right")}
    assert seen == {name: (weight, name not in dead) for name, weight in left.items()}
    assert [len(group) for group in graph.groups] == [2, 4, 3]
    assert not graph.places().isnan().any()


def test_a_walk_shows_what_the_agent_senses():
    agent, where = Population.random(1, hidden=5, seed=3), mazes(3, size=4, seed=1)
    walk = Walk.of(agent, where[2], 30, "float")
    seen = trace(agent, where, steps=30)
    assert torch.equal(walk.seen.position[:, 0, 0], seen.position[:, 0, 2])
    into, _ = agent.network.matrices(agent.weights[0])
    state, hidden = torch.zeros(5), walk.seen.hidden[:, 0, 0]
    for step, inputs in enumerate(walk.inputs()[:-1].float()):
        state = torch.tanh(into @ torch.cat([inputs, state]))
        torch.testing.assert_close(hidden[step + 1], state, rtol=1e-4, atol=1e-5)
        state = hidden[step + 1]
    assert len({tuple(row) for row in walk.inputs().tolist()}) > 3
    assert walk.line(10).shape == (11, 2)
    cells = walk.seen.position[:, 0, 0]
    assert abs(walk.line(30) - torch.stack([cells % 4, cells // 4], 1).numpy()).max() < 0.2


def test_presets_give_way_to_what_is_asked_for():
    assert command.parse([]) == Settings()
    quick = command.parse(["--quick"])
    assert (quick.severances, quick.size, quick.larger, len(quick.runs())) == ((0.1,), 6, (9,), 4)
    assert command.parse(["--quick", "--size", "5"]) == replace(quick, size=5)
    assert command.parse(["--seed", "4", "--sparse"]) == replace(Settings(), seeds=(4,), sparse=())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("--resume", "--resume needs --out, the folder of the run to go on with"),
        ("--agents 0", "--agents must be at least 1, got 0"),
        ("--every 0", "--every must be at least 1, got 0"),
        ("--mutation 0", "--mutation must be above 0, got 0.0"),
        ("--elite 1.5", "--elite must be in (0, 1], got 1.5"),
        ("--severances 0", "--severances must be different numbers in (0, 1], got 0.0"),
        ("--severances 0.1 0.1", "--severances must be different numbers in (0, 1], got 0.1 0.1"),
        ("--noises nan", "--noises must be different numbers in (0, 1], got nan"),
        ("--l1s inf", "--l1s must be different numbers above 0, got inf"),
        ("--larger 3", "--larger must be different sizes from 2 on, other than --size 3, got 3"),
        ("--seeds 1 1", "--seeds must be different numbers from 0 on, got 1 1"),
        ("--activation relu", "float for relu, which int8 cannot hold"),
        ("--size 2 --mazes 300", "held-out mazes of 2 x 2 cells are among the training mazes"),
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
