"""The table of a run says what its metrics say."""

import json
from pathlib import Path

import pytest
from rich.console import Console

from neurokernels.trainers.run import RunFolder
from neurokernels.trainers.spiking.summary import summarise


def history(**curves: list[float]) -> list[dict[str, object]]:
    length = len(next(iter(curves.values())))
    return [
        {"epoch": epoch + 1, "network": name, "test_accuracy": curve[epoch]}
        for epoch in range(length)
        for name, curve in curves.items()
    ]


def text(tmp_path: Path, histories: dict[int, list[dict[str, object]]]) -> str:
    summarise("title", histories, [], RunFolder(tmp_path), Console(quiet=True))
    return (tmp_path / "summary.md").read_text()


def test_two_seeds_of_two_networks(tmp_path: Path):
    said = text(
        tmp_path,
        {
            4: history(fused=[0.10, 0.20, 0.81], plain=[0.12, 0.20, 0.79]),
            7: history(fused=[0.30, 0.50, 0.85], plain=[0.30, 0.40, 0.83]),
        },
    )
    assert said == (
        "title\n\n| seed | fused | plain |\n| ---: | ---: | ---: |\n| 4 | 81.00 | 79.00 |\n| 7 | 85.00 | 83.00 |\n"
        "| mean ± sd | 83.00 ± 2.83 | 81.00 ± 2.83 |\n\n"
        "- test accuracy, fused minus plain, all epochs and seeds: mean +2.00, mean size 2.67 points; from one epoch "
        "to the next plain changes by 26.50 (median)\n"
    )
    stored = json.loads((tmp_path / "summary.json").read_text())
    assert [(row["seed"], row["network"], row["test_accuracy"]) for row in stored["final"]] == [
        (4, "fused", 0.81), (4, "plain", 0.79), (7, "fused", 0.85), (7, "plain", 0.83)
    ]  # fmt: skip


@pytest.mark.parametrize("epochs", [1, 2])
def test_one_seed_of_one_network_is_a_line(tmp_path: Path, epochs: int):
    said = text(tmp_path, {0: history(fused=[0.5, 0.6][:epochs])})
    assert said.splitlines()[2:5] == ["| seed | fused |", "| ---: | ---: |", f"| 0 | {50 if epochs == 1 else 60}.00 |"]
    assert "minus" not in said
