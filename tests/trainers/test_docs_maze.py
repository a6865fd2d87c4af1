"""The page on the maze trainer shows the results that are kept beside it, and every figure in its text is theirs."""

import json
import re
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

import neurokernels as nk
from neurokernels.trainers.maze.labyrinths import held_out, training
from neurokernels.trainers.maze.results import Group, Results, collect, shown
from neurokernels.trainers.maze.settings import Settings
from neurokernels.trainers.maze.summary import ALPHA, comparisons, measures, summarise
from neurokernels.trainers.results import spread
from neurokernels.trainers.run import RunFolder

DOCS = Path(__file__).parents[2] / "docs"
KEPT = DOCS / "results" / "maze"
PAGE = (DOCS / "maze.md").read_text()
WORDS = " ".join(PAGE.split())
#: By measure and arm: the difference to none and its corrected p.
Found = dict[str, dict[str, tuple[float, float, float, float]]]


@pytest.fixture(scope="module")
def results() -> Results:
    """What is kept. A folder without populations of its own is left as it is."""
    return collect(KEPT)


@pytest.fixture(scope="module")
def found(results: Results) -> Found:
    """Mean, both ends of the interval, and corrected p."""
    return {
        name: {group.label: (d.mean, d.low, d.high, p) for group, d, p in comparisons(results, measure)}
        for name, measure in measures(results).items()
    }


def test_the_tables_are_those_of_the_results(results: Results, tmp_path: Path):
    summarise(results, RunFolder(tmp_path), Console(quiet=True))
    summary = (tmp_path / "summary.md").read_text()
    assert summary == (KEPT / "summary.md").read_text()
    tables = summary.split("\n\n")[1::2]
    assert [table.split(" | ")[1] for table in tables] == ["seeds", "pairs"]
    assert all(table in PAGE for table in tables)


def test_every_arm_evolved_to_the_end_with_the_same_seeds(results: Results):
    default = Settings()
    assert {row["result"]["generation"] for row in results.rows} == {default.generations}
    assert len({row["name"] for row in results.rows}) == len(results.rows)
    assert results.seeds == list(range(len(results.seeds)))
    assert len(results.seeds) >= 5
    for group in results.groups():
        assert [row["seed"] for row in group.rows] == results.seeds
    due = {run.label for run in Settings(seeds=(0,)).runs()}
    assert {group.label for group in results.groups()} == due
    for row in results.rows:
        asked = {name: row[name] for name in row if name in default.numbers(default.runs()[0])}
        fixed = {name: json.loads(json.dumps(value)) for name, value in default.numbers(default.runs()[0]).items()}
        own = {name: row[name] for name in ("arm", "amount", "seed", "device")}
        assert asked == fixed | own
    command = f"neurokernels train maze --seeds {' '.join(map(str, results.seeds))} --out runs/maze"
    assert command in PAGE


def said(difference: tuple[float, float, float, float], digits: int = 2) -> str:
    """As the text has it."""
    mean, low, high, _ = difference
    return f"{mean:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"


def fragments(results: Results, found: Found) -> list[str]:
    """Everything with a figure that the text says of the results."""
    labelled = {group.label: group for group in results.groups()}
    own, large, gap = found["goals, 8 x 8"], found["goals, 16 x 16"], found["gap"]
    strong, weak = "severance 0.2", "severance 0.1"
    together = results.severed_together(measures(results)["goals, 8 x 8"])
    assert together is not None
    row = shown(results.rows)
    followers = [follower["goals_16"] for follower in results.wall_followers.values()]

    def kept(label: str) -> str:
        return f"{spread(100 * v for v in labelled[label].values('kept')).mean:.0f} %"

    return [
        f"{len(results.seeds)} seeds",
        f"keeps {kept(strong)} of the connections",
        f"{said(large[strong])} goals per maze of 16 x 16 (p = {large[strong][3]:.2g} after Holm)",
        f"gap is {said(gap[strong])} (p = {gap[strong][3]:.2g})",
        f"{said(found['goals, training'][strong])} goals in training",
        f"in unseen mazes of its own size {said(own[strong])}",
        f"severance of 0.1, which keeps {kept(weak)}: {said(own[weak])}",
        f"All six probabilities together: {said((*together[:3], 0))}, p = {together.p:.2g}",
        f"`sparse 0.1`, {kept('sparse 0.1')} from the start: {said(own['sparse 0.1'])} and "
        f"{said(large['sparse 0.1'])} in mazes of 16 x 16",
        f"`noise 0.01`: {said(own['noise 0.01'])} and {said(large['noise 0.01'])}",
        f"at least {min(followers):.1f} goals per maze of 16 x 16, and no arm more than "
        f"{max(spread(group.values('goals_16')).mean for group in results.groups()):.1f}",
        f"best agent of {Group(row['arm'], row['amount'], []).label}, seed {row['seed']}",
        f"{row['result']['edges']} of {results.agent.network.edges} connections",
    ]


def test_the_text_has_the_figures_of_the_results(results: Results, found: Found):
    assert [fragment for fragment in fragments(results, found) if fragment not in WORDS] == []


def test_the_answer_is_true_of_the_results(results: Results, found: Found):
    """What the text says in words, and that it passes over nothing that is significant in unseen mazes."""
    unseen = [name for name in found if "x" in name]
    significant = {(name, arm) for name in [*unseen, "gap"] for arm, (*_, p) in found[name].items() if p < ALPHA}
    assert significant == {("goals, 16 x 16", "severance 0.2"), ("gap", "severance 0.2"), ("gap", "noise 0.05")}
    assert found["goals, 16 x 16"]["severance 0.2"][0] > 0 > found["gap"]["severance 0.2"][0]
    assert found["goals, 8 x 8"]["severance 0.2"][0] > 0 > found["goals, training"]["severance 0.2"][0]
    assert found["gap"]["noise 0.05"][0] < 0
    assert found["goals, training"]["noise 0.05"][3] < ALPHA
    assert all(found[name]["l1 0.01"][0] < 0 and found[name]["l1 0.001"][3] > ALPHA for name in unseen)
    means = {g.label: {n: spread(g.values(f"goals_{n}")).mean for n in ("train", 8, 12, 16)} for g in results.groups()}
    hands = results.wall_followers.values()
    assert sum(mean["train"] > max(hand["goals_train"] for hand in hands) for mean in means.values()) > len(means) / 2
    for size in results.sizes:
        best = max(means, key=lambda label: means[label][size])
        assert means[best][size] < min(hand[f"goals_{size}"] for hand in hands)
        assert size == 8 or best == "noise 0.01"
    lacking = min(hand["goals_16"] for hand in hands) - means["none"][16]
    assert 0.2 < found["goals, 16 x 16"]["severance 0.2"][0] / lacking < 0.3


def test_the_kept_agent_is_the_one_that_was_tested(results: Results):
    row, agent = shown(results.rows), results.agent
    train = training(row["mazes"], row["size"], row["seed"])
    tests = {"train": (train, row["size"]), "8": (held_out(row["held_out"], 8, apart_from=train), 8)}
    for name, (some, size) in tests.items():
        goals = nk.maze_rollout(agent, some, steps=results.steps_in(size), mode="exact").goals.double()
        assert float(goals.mean()) == row["result"][f"goals_{name}"]
    assert int(agent.edges[0]) == row["result"]["edges"]
    assert not agent.weights[~agent.mask].any()


def test_pictures_are_there():
    pictures = re.findall(r"!\[[^]]+\]\((results/maze/[^)]+)\)", PAGE)
    assert [Path(name).name for name in pictures] == ["report.png", "network.png", "path.png", "path.gif"]
    for name in pictures:
        with Image.open(DOCS / name) as picture:
            assert min(picture.size) > 200
            assert (getattr(picture, "n_frames", 1) > 10) == name.endswith("gif")
    assert sum(path.stat().st_size for path in KEPT.iterdir()) < 3_000_000


def test_no_path_of_a_machine_is_kept():
    for path in (KEPT / "results.jsonl", KEPT / "summary.md"):
        assert not re.search(r'"/|/home|/root|/tmp', path.read_text()), path
