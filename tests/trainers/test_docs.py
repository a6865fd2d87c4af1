"""The page on the spiking trainer shows the results that are kept beside it."""

import json
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
RESULTS = DOCS / "results" / "spiking"
PAGE = (DOCS / "spiking.md").read_text()


def test_the_table_is_the_summary():
    table = re.findall(r"^\|.*\|$", (RESULTS / "summary.md").read_text(), re.MULTILINE)
    assert len(table) > 4
    assert "\n".join(table) in PAGE


def test_the_summary_is_the_end_of_the_metrics():
    summary = json.loads((RESULTS / "summary.json").read_text())
    for row in summary["final"]:
        lines = (RESULTS / f"seed-{row['seed']}" / "metrics.jsonl").read_text().splitlines()
        last = [json.loads(line) for line in lines if json.loads(line)["network"] == row["network"]][-1]
        assert last["epoch"] == 30
        assert {name: row[name] for name in last} == last


@pytest.mark.parametrize("what", ["training step", "LIF layer"])
def test_the_times_are_those_of_the_race(what: str):
    (group,) = (g for g in json.loads((RESULTS / "timing.json").read_text()) if g["name"] == what)
    times = {row["name"]: row["timing"]["best"] * 1e3 for row in group["rows"]}
    assert f"{times['fused']:.1f} ms against {times['plain']:.1f}" in PAGE


def test_no_path_of_a_machine_is_kept():
    for path in RESULTS.rglob("*.*"):
        assert not re.search(r'"/|/home|/root|/tmp', path.read_text()), path
