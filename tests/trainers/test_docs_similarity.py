"""The page on the similarity trainer shows the results that are kept beside it, and its figures are theirs."""

import json
import re
from pathlib import Path

import pytest
from rich.console import Console

from neurokernels.trainers.similarity.population import ABOUT
from neurokernels.trainers.similarity.report import report
from neurokernels.trainers.similarity.results import collect
from neurokernels.trainers.similarity.settings import ARMS

DOCS = Path(__file__).parents[2] / "docs"
RESULTS = DOCS / "results" / "similarity"
PAGE = (DOCS / "similarity.md").read_text()
FOLDERS = sorted(path.parent.name for path in RESULTS.glob("*/results.jsonl"))
V4 = collect(RESULTS / "v4")


def test_results_are_kept():
    assert "v4" in FOLDERS
    assert V4.arms == list(ARMS)
    assert {len(V4.of(arm)) for arm in V4.arms} == {3}


@pytest.mark.parametrize("name", FOLDERS)
def test_tables_are_those_of_the_results(name: str, tmp_path: Path):
    for kept in ("results.jsonl", ABOUT):
        (tmp_path / kept).write_bytes((RESULTS / name / kept).read_bytes())
    report(tmp_path, Console(quiet=True))
    summary = (tmp_path / "summary.md").read_text()
    assert summary == (RESULTS / name / "summary.md").read_text()
    tables = summary.split("\n\n")[1::2]
    assert [table.split(" | ")[0] for table in tables] == ["| arm", "| arms", "| arm", "| session"]
    assert all(table in PAGE for table in tables)


@pytest.mark.parametrize("name", FOLDERS)
def test_networks_were_trained_to_the_end_in_one_setting(name: str):
    rows = [json.loads(line) for line in (RESULTS / name / "results.jsonl").read_text().splitlines()]
    assert len({row["name"] for row in rows}) == len(rows)
    own = {"name", "arm", "seed", "result", "trajectory", "losses", "taps", "shown", "seconds"}
    assert len({json.dumps({k: v for k, v in row.items() if k not in own}, sort_keys=True) for row in rows}) == 1
    assert {row["result"]["epoch"] for row in rows} == {rows[0]["epochs"]}


def accuracy(arm: str, metric: str) -> str:
    return f"{V4.accuracy(arm, metric).mean:.1f}"


def points(arm: str, other: str, metric: str) -> str:
    """A difference without its sign, which the text has in words."""
    return f"{abs(V4.difference(arm, other, metric).mean):.1f}"


def least(arm: str) -> str:
    return f"{1000 * V4.ends(arm, 'least').mean:.2f}"


def agreement(arm: str, name: str) -> str:
    return f"{V4.ends(arm, f'{name}_agreement').mean:.2f}"
