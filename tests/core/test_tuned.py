"""The table of tuned configurations: complete, ordered, and looked up by architecture, dtype and size."""

import json
import re
from pathlib import Path

import pytest
import torch

from neurokernels._core import tuned

ROOT = Path(__file__).parents[2]
TABLE = json.loads(tuned.TABLE.read_text())
OPS = sorted({row["op"] for row in TABLE["rows"]})


@pytest.fixture
def rows(monkeypatch):
    def row(op, arch, dtype, up_to, **config):
        return {"op": op, "arch": arch, "dtype": dtype, "up_to": up_to, "config": config, "measured": None}

    given = [
        row("a", "sm_90", "float32", 8, tile=1),
        row("a", "sm_90", "any", None, tile=2),
        row("a", "any", "float32", 8, tile=3),
        row("a", "any", "any", None, tile=4),
    ]
    monkeypatch.setattr(tuned, "_rows", lambda: given)
    tuned._choice.cache_clear()
    yield
    tuned._choice.cache_clear()


def test_the_first_row_that_fits(rows):
    assert tuned._choice("a", "sm_90", "float32", 8) == {"tile": 1}
    assert tuned._choice("a", "sm_90", "float32", 9) == {"tile": 2}
    assert tuned._choice("a", "sm_80", "float32", 8) == {"tile": 3}
    assert tuned._choice("a", "sm_80", "bfloat16", 8) == {"tile": 4}
    assert tuned.choice("a", torch.ones(1), 9) == {"tile": 4}
    with pytest.raises(KeyError, match="no row for b in float32 of size 3 on sm_80"):
        tuned._choice("b", "sm_80", "float32", 3)


def test_a_forced_configuration(rows):
    with tuned.forced("a", {"tile": 7}):
        assert tuned.choice("a", torch.ones(1), 9) == {"tile": 7}
    assert tuned.choice("a", torch.ones(1), 9) == {"tile": 4}


@pytest.mark.parametrize("op", OPS)
def test_the_table(op):
    mine = [row for row in TABLE["rows"] if row["op"] == op]
    assert op in TABLE["sizes"]
    assert (mine[-1]["arch"], mine[-1]["dtype"], mine[-1]["up_to"]) == ("any", "any", None)  # nothing has no row
    assert len({frozenset(row["config"]) for row in mine}) == 1
    for row in mine:
        assert set(row) == {"op", "arch", "dtype", "up_to", "config", "measured"}
        assert re.fullmatch(r"any|sm_\d+", row["arch"])
        assert row["measured"] is None or row["arch"] != "any"  # one GPU's figures are not another's
        assert row["dtype"] == "any" or isinstance(getattr(torch, row["dtype"]), torch.dtype)
    classes = [(row["arch"], row["dtype"]) for row in mine]
    assert sorted(set(classes), key=classes.index) == [c for i, c in enumerate(classes) if c not in classes[:i]]
    for kind in set(classes):
        sizes = [row["up_to"] for row in mine if (row["arch"], row["dtype"]) == kind]
        assert sizes == sorted(sizes, key=lambda size: float("inf") if size is None else size)


def test_every_configuration_is_asked_for():
    """A row of an op that no launch looks up is dead."""
    text = "".join(path.read_text() for path in (ROOT / "neurokernels").rglob("*.py"))
    assert OPS
    assert [op for op in OPS if f'"{op}"' not in text] == []
    asked = set(re.findall(r'tuned\.choice\(\s*"(\w+)"', text))
    assert asked <= set(OPS)
