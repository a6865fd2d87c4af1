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


def fragments() -> list[str]:
    """Everything with a figure that the text says of the results."""
    noise, more = ({arm: accuracy(arm, f"noise_{size}") for arm in ARMS} for size in ("0.1", "0.25"))
    clean, pgd, weak = ({arm: accuracy(arm, metric) for arm in ARMS} for metric in ("clean", "pgd_0.016", "pgd_0.004"))
    loss = {arm: f"{V4.losses(arm)[-1].mean:.2f}" for arm in ("shuffled", "neural")}
    sessions = V4.about["sessions"]
    v, agrees = (sum(row[name] for row in sessions) / len(sessions) for name in ("v", "agreement"))
    return [
        "0.0034 against 0.0025, shuffled 0.0030",  # the paper's
        f"correlate by {agreement('neural', 'neural')} with those of the neurons, "
        f"{agreement('none', 'neural')} without regulariser",
        f"with those of the pixels by {agreement('pixel', 'pixel')} against {agreement('none', 'pixel')}",
        f"that loss ends at {loss['shuffled']}, the neural one at {loss['neural']}",
        f"At 0.1 the plain network is right in {noise['none']} % of the cases, with neural similarities in "
        f"{noise['neural']} %, with those of pixels in {noise['pixel']} %",
        f"at 0.25 in {more['none']}, {more['neural']} and {more['pixel']} %",
        f"({noise['shuffled']} and {more['shuffled']} %)",
        f"PGD of 0.016 leaves {pgd['shuffled']} % with shuffled similarities, {pgd['none']} % without, "
        f"{pgd['neural']} % with neural and {pgd['pixel']} % with pixel ones",
        f"of 0.004 the last three leave {weak['none']}, {weak['neural']} and {weak['pixel']} %",
        f"The smallest changes are {least('shuffled')}, {least('none')}, {least('neural')} and {least('pixel')}",
        f"of clean images {clean['none']} % are right without regulariser, {clean['neural']} % with neural, "
        f"{clean['pixel']} % with pixel and {clean['shuffled']} % with shuffled similarities",
        "At noise of 0.05",
        f"{points('neural', 'pixel', 'noise_0.25')} points more at noise of 0.25",
        f"{points('neural', 'pixel', 'fgsm_0.032')} points more under FGSM of 0.032",
        f"for {points('neural', 'pixel', 'clean')} points less on clean images, in every seed",
        f"by {V4.about['neural_pixel']:.2f} over held-out stimuli",
        f"({agreement('neural', 'pixel')} and {agreement('pixel', 'neural')})",
        f"predicts them with a correlation of {v:.2f} on average and similarities of held-out images with {agrees:.2f}",
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
        (arm, other, metric): V4.differences(arm, other, metric) for arm, other in V4.pairs() for metric in V4.metrics
    }
    for size in ("0.1", "0.15", "0.2", "0.25"):
        for arm in ("neural", "pixel"):
            for other in ("none", "shuffled"):
                assert all(value > 0 for value in of_seed[arm, other, f"noise_{size}"])
    assert all(value < 0 for arm in ("neural", "pixel", "shuffled") for value in of_seed[arm, "none", "clean"])
    assert all(value < 0 for metric in ("noise_0.25", "fgsm_0.032") for value in of_seed["neural", "pixel", metric])
    assert all(value > 0 for value in of_seed["neural", "pixel", "clean"])
    assert V4.difference("pixel", "shuffled", "pgd_0.016").mean > V4.difference("neural", "shuffled", "pgd_0.016").mean
    for better, worse in (("neural", "none"), ("none", "shuffled"), ("neural", "shuffled")):
        sign = 1 if (better, worse) in V4.compared else -1
        pair = (better, worse) if sign > 0 else (worse, better)
        assert all(sign * value > 0 for value in of_seed[*pair, "pgd_0.016"])
    fgsm = [metric for metric in V4.metrics if metric.startswith("fgsm")]
    assert all(abs(V4.difference("neural", "none", metric).mean) < 2 for metric in fgsm)
    middle = [V4.accuracy(arm, "noise_0.05").mean for arm in ("none", "neural", "pixel")]
    assert max(middle) - min(middle) < 3
    least = [V4.ends(arm, "least").mean for arm in ("shuffled", "none", "neural", "pixel")]
    assert max(least[:2]) < min(least[2:])
    assert sum(session["neurons"] for session in V4.about["sessions"]) == 253


def test_pictures_are_there():
    shown = re.findall(r"!\[[^]]+\]\(([^)]+)\)", PAGE)
    assert "results/similarity/v4/report.png" in shown
    for path in shown:
        assert (DOCS / path).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_nothing_of_a_machine_or_of_the_recordings_is_kept():
    for path in RESULTS.rglob("*.*"):
        assert path.suffix in (".jsonl", ".json", ".md", ".png")
        if path.suffix != ".png":
            assert not re.search(r'"/|/home|/root|/tmp|/work', path.read_text()), path
