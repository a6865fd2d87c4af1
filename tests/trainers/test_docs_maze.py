"""The page on the maze trainer shows the results that are kept beside it, and its sentences are true of them."""

import json
import re
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from neurokernels.trainers.maze.report import report
from neurokernels.trainers.maze.results import Results, collect, shown
from neurokernels.trainers.maze.settings import Settings
from neurokernels.trainers.maze.summary import ALPHA, comparisons, measures

DOCS = Path(__file__).parents[2] / "docs"
KEPT = DOCS / "results" / "maze"
PAGE = (DOCS / "maze.md").read_text()


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """What is kept, and in `test_tables` its tables made again."""
    out = tmp_path_factory.mktemp("maze")
    for name in ("results.jsonl", "agent.safetensors"):
        (out / name).write_bytes((KEPT / name).read_bytes())
    return collect(out)


def test_the_tables_are_those_of_the_results(tmp_path: Path):
    for name in ("results.jsonl", "agent.safetensors"):
        (tmp_path / name).write_bytes((KEPT / name).read_bytes())
    report(tmp_path, Console(quiet=True))
    summary = (tmp_path / "summary.md").read_text()
    assert summary == (KEPT / "summary.md").read_text()
    tables = summary.split("\n\n")[1::2]
    assert len(tables) == 2
    assert all(table in PAGE for table in tables)
    assert (tmp_path / "path.gif").read_bytes() == (KEPT / "path.gif").read_bytes()


def test_every_arm_evolved_to_the_end_with_the_same_seeds(results: Results):
    default = Settings()
    assert {row["result"]["generation"] for row in results.rows} == {default.generations}
    assert len({row["name"] for row in results.rows}) == len(results.rows)
    assert len(results.seeds) >= 5
    for group in results.groups():
        assert [row["seed"] for row in group.rows] == results.seeds
    labels = [group.label for group in results.groups()]
    assert labels == [run.label for run in Settings(seeds=(0,)).runs()]
    elsewhere = ("arm", "amount", "seed", "name", "curves", "result", "seconds")
    for row in results.rows:
        asked = {name: value for name, value in row.items() if name not in elsewhere}
        due = {name: value for name, value in default.numbers(default.runs()[0]).items() if name in asked}
        assert asked == json.loads(json.dumps(due)) | {"device": "cpu"}


def test_the_kept_agent_is_the_one_that_was_tested(results: Results):
    row = shown(results.rows)
    assert int(results.agent.edges[0]) == row["result"]["edges"]
    assert f"{row['result']['edges']} of {results.agent.network.edges} connections" in PAGE
    assert f"severance {row['amount']:g}, seed {row['seed']}" in PAGE


def test_pictures_are_there():
    shown_ = re.findall(r"!\[[^]]+\]\(([^)]+)\)", PAGE)
    assert {Path(name).name for name in shown_} == {"report.png", "network.png", "path.png", "path.gif"}
    for name in shown_:
        assert (DOCS / name).read_bytes()[:8] == (b"GIF89a" if name.endswith("gif") else b"\x89PNG\r\n\x1a\n")[:8] or (
            name.endswith("gif") and (DOCS / name).read_bytes()[:6] == b"GIF89a"
        )
    with Image.open(KEPT / "path.gif") as gif:
        assert gif.n_frames > 10
    assert (KEPT / "path.gif").stat().st_size < 400_000


def test_no_path_of_a_machine_is_kept():
    for path in (KEPT / "results.jsonl", KEPT / "summary.md"):
        assert not re.search(r'"/|/home|/root|/tmp', path.read_text()), path
