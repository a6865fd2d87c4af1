"""The page on the DCCA trainer shows the results that are kept beside it, and every figure in its text is theirs."""

import json
import re
from pathlib import Path

import pytest
from rich.console import Console

from neurokernels.trainers.dcca.report import report
from neurokernels.trainers.dcca.results import collect
from neurokernels.trainers.dcca.summary import PUBLISHED

DOCS = Path(__file__).parents[2] / "docs"
RESULTS = DOCS / "results" / "dcca"
PAGE = (DOCS / "dcca.md").read_text()
FOLDERS = sorted(path.parent.name for path in RESULTS.glob("*/results.jsonl"))
V4 = collect(RESULTS / "v4")


def test_results_are_kept():
    assert "v4" in FOLDERS
    assert {"none", "real", "shuffled", "vicreg", "scaled"} <= set(V4.arms)
    assert {len(V4.of(arm)) for arm in V4.arms} == {3}


@pytest.mark.parametrize("name", FOLDERS)
def test_tables_are_those_of_the_results(name: str, tmp_path: Path):
    (tmp_path / "results.jsonl").write_bytes((RESULTS / name / "results.jsonl").read_bytes())
    report(tmp_path, Console(quiet=True))
    summary = (tmp_path / "summary.md").read_text()
    assert summary == (RESULTS / name / "summary.md").read_text()
    tables = summary.split("\n\n")[1::2]
    assert [table.split(" | ")[0] for table in tables] == ["| arm", "| arms", "| arm"]
    assert all(table in PAGE for table in tables)


@pytest.mark.parametrize("name", FOLDERS)
def test_networks_were_trained_to_the_end_in_one_setting(name: str):
    rows = [json.loads(line) for line in (RESULTS / name / "results.jsonl").read_text().splitlines()]
    assert len({row["name"] for row in rows}) == len(rows)
    own = {"name", "arm", "seed", "result", "trajectory", "correlations", "seconds"}
    assert len({json.dumps({k: v for k, v in row.items() if k not in own}, sort_keys=True) for row in rows}) == 1
    assert {row["result"]["epoch"] for row in rows} == {rows[0]["epochs"]}


def accuracy(arm: str, metric: str) -> str:
    return f"{V4.accuracy(arm, metric).mean:.1f}"


def points(arm: str, other: str, metric: str) -> str:
    """A difference without its sign, which the text has in words."""
    return f"{abs(V4.difference(arm, other, metric).mean):.1f}"


def correlation(arm: str, part: str) -> str:
    return f"{V4.correlation(arm, part).values[-1].mean:.2f}"


def fragments() -> list[str]:
    """Everything with a figure that the text says of the results."""
    fgsm = {arm: accuracy(arm, "fgsm_0.01") for arm in V4.arms}
    pgd = {arm: accuracy(arm, "pgd_0.01") for arm in V4.arms}
    paper = {arm: {metric: f"{value:.1f} %" for metric, value in found.items()} for arm, found in PUBLISHED.items()}
    return [
        f"{paper['none']['clean']} and, within super-classes, {paper['none']['super']} without regulariser",
        f"{paper['real']['clean']} and {paper['real']['super']} with it; and {paper['shuffled']['clean']} with",
        f"{correlation('real', 'train')} on average on the stimuli they learned from, "
        f"{correlation('real', 'held_out')} on the others",
        f"{correlation('shuffled', 'train')} and {correlation('shuffled', 'held_out')}",
        f"{points('real', 'none', 'clean')} points with the right responses, "
        f"{points('shuffled', 'none', 'clean')} with shuffled ones",
        f"accounts for {points('scaled', 'none', 'clean')} points",
        f"FGSM of 0.01 leaves {fgsm['none']} % without regulariser, {fgsm['scaled']} % with the factor alone, "
        f"{fgsm['real']} % with real and {fgsm['shuffled']} % with shuffled responses",
        f"PGD of 0.01 {pgd['none']}, {pgd['scaled']}, {pgd['real']} and {pgd['shuffled']} %",
        f"{points('real', 'shuffled', 'clean')} points above shuffled",
        f"{points('real', 'shuffled', 'fgsm_0.01')} and {points('real', 'shuffled', 'pgd_0.01')} points below",
        f"{accuracy('vicreg', 'clean')} % of clean images, "
        f"{fgsm['vicreg']} and {pgd['vicreg']} % under the two attacks",
        f"correlation of {V4.dimensions('vicreg', 'held_out')[0].mean:.2f} on held-out stimuli, and a mean of "
        f"{correlation('vicreg', 'held_out')}",
        "ε = 0.04",
        "x 0.25",
    ]


def test_every_figure_of_the_text_is_that_of_the_results():
    section = PAGE.partition("## Results")[2].partition("\n## ")[0]
    text = " ".join(re.sub(r"^(\||    ).*$", "", section, flags=re.MULTILINE).split())
    for fragment in fragments():
        assert fragment in text
        text = text.replace(fragment, "")
    assert not re.findall(r"\d+\.\d+", text)


def test_what_the_text_says_in_words_holds():
    of_seed = {  # per seed, in points
        (arm, other, metric): V4.differences(arm, other, metric)
        for arm, other in V4.pairs()
        for metric in ("clean", "fgsm_0.01", "pgd_0.01")
    }
    assert all(value < 0 for arm in ("scaled", "shuffled", "real", "vicreg") for value in of_seed[arm, "none", "clean"])
    assert all(value > 0 for arm in ("scaled", "real", "shuffled") for value in of_seed[arm, "none", "pgd_0.01"])
    assert all(value > 0 for value in of_seed["real", "shuffled", "clean"])
    assert all(value < 0 for metric in ("fgsm_0.01", "pgd_0.01") for value in of_seed["real", "shuffled", metric])
    arms = sorted(("none", "scaled", "real", "shuffled"), key=lambda arm: V4.accuracy(arm, "clean").mean)
    assert arms == sorted(arms, key=lambda arm: -V4.accuracy(arm, "pgd_0.01").mean)
    assert max(V4.accuracy(arm, "pgd_0.02").mean for arm in V4.arms) < 10
    assert max(V4.accuracy(arm, "fgsm_0.04").mean for arm in V4.arms) < 2


def test_pictures_are_there():
    shown = re.findall(r"!\[[^]]+\]\(([^)]+)\)", PAGE)
    assert "results/dcca/v4/report.png" in shown
    for path in shown:
        assert (DOCS / path).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_nothing_of_a_machine_or_of_the_recordings_is_kept():
    for path in RESULTS.rglob("*.*"):
        assert path.suffix in (".jsonl", ".md", ".png")
        if path.suffix != ".png":
            assert not re.search(r'"/|/home|/root|/tmp|/work', path.read_text()), path
