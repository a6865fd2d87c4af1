"""tools/tune.py: rehearsed on the CPU, and how rows of the table are made of what was measured."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import neurokernels as nk
from neurokernels._core import backends, tuned

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tools"))
import tune  # noqa: E402 (a script)

F32, BF16 = torch.float32, torch.bfloat16


def test_every_key_of_the_table_has_a_space():
    table = json.loads(tuned.TABLE.read_text())
    keys = {row["op"] for row in table["rows"]}
    assert keys == set(tune.SPACES)
    for op, space in tune.SPACES.items():
        tried = [config for dtype in space.dtypes for config in space.candidates(dtype)]
        for row in table["rows"]:
            assert row["op"] != op or set(row["config"]) == set(tried[0])


def test_classes_end_between_the_sizes_and_equal_ones_are_joined():
    found = [tune.Tuned(F32, size, {"tile": tile}) for size, tile in ((16, 1), (64, 1), (256, 2), (1024, 3))]
    found.append(tune.Tuned(BF16, 16, {"tile": 9}))
    made = tune.rows("op", found, "sm_90", "GPU, today")
    assert [(row["dtype"], row["up_to"], row["config"]["tile"]) for row in made] == [
        ("float32", 128, 1), ("float32", 512, 2), ("float32", None, 3), ("bfloat16", None, 9),
    ]  # fmt: skip
    assert {(row["arch"], row["measured"]) for row in made} == {("sm_90", "GPU, today")}


def test_fresh_rows_come_first_and_replace_their_own():
    def row(op, arch, dtype, tile):
        return {"op": op, "arch": arch, "dtype": dtype, "up_to": None, "config": {"tile": tile}, "measured": None}

    table = {"about": "", "sizes": {}, "rows": [row("a", "sm_90", "float32", 1), row("a", "any", "any", 2)]}
    table["rows"].append(row("b", "any", "any", 3))
    made = tune.merged(table, [row("a", "sm_90", "float32", 7), row("a", "sm_90", "bfloat16", 8)])
    assert [r["config"]["tile"] for r in made["rows"]] == [7, 8, 2, 3]
    assert json.loads(tune.written(made)) == made


def test_rehearsal(tmp_path, capsys):
    path = tmp_path / "tuned.json"
    path.write_text(tuned.TABLE.read_text())
    tune.main(("dcca_small",), seconds=60, rehearse=True, table=path)
    rows = [row for row in json.loads(path.read_text())["rows"] if row["op"] == "dcca_small"]
    assert [row["arch"] for row in rows] == ["sm_00", "any", "any"]
    assert rows[0]["measured"].startswith("rehearsal, ")
    assert "dcca_small float32 10: {'rows': " in capsys.readouterr().out


@pytest.mark.parametrize("op", tune.SPACES)
def test_every_space_has_a_call(op):
    space = tune.SPACES[op]
    for dtype in space.dtypes:
        call, arguments = space.make(space.sizes[0], dtype, torch.device("cpu"))
        found = tune._outputs(call, arguments)
        assert found
        assert all(t.isfinite().all() for t in found)
        assert tune._agree(found, tune._outputs(call, arguments), 0.0)


def test_exact_walks_have_rows_of_their_own():
    space = tune.SPACES["maze_rollout"]
    call, arguments = space.make(8, torch.int8, torch.device("cpu"))
    with nk.backend("cuda"), backends.record() as ran:
        exact = call(*arguments)
    assert ran == [("maze_rollout", "cuda")]
    assert exact.dtype == space.make(8, F32, torch.device("cpu"))[0](*arguments).dtype
    found = tune.measured(
        "maze_rollout",
        replace(space, values={"backend": ("cuda",), "few": (528,), "list_cost": (90,)}),
        torch.int8,
        8,
        torch.device("cpu"),
        0,
    )
    assert found.best == {"backend": "cuda", "few": 528, "list_cost": 90}
    assert tune.rows("maze_rollout", [found], "sm_90", "GPU")[0]["dtype"] == "int8"


def test_a_wrong_candidate_is_not_taken(monkeypatch):
    """It is fast, and its answer another one."""

    def make(size, dtype, device):
        return (lambda x: x * tuned.choice("rank_update", x, 1)["scale"]), (torch.ones(8),)

    space = tune.Space(lambda config: "cpu", (1,), make, {"scale": (2.0, 1.0)})
    monkeypatch.setattr(tuned, "_rows", lambda: [
        {"op": "rank_update", "arch": "any", "dtype": "any", "up_to": None, "config": {"scale": 1.0}, "measured": None}
    ])  # fmt: skip
    tuned._choice.cache_clear()
    found = tune.measured("rank_update", space, F32, 1, torch.device("cpu"), float("inf"))
    tuned._choice.cache_clear()
    assert [config["scale"] for _, config in found.tried] == [1.0]


def test_what_it_refuses(tmp_path):
    with pytest.raises(SystemExit, match="there is no CUDA GPU here"):
        tune.main(("rdm",))
    with pytest.raises(SystemExit, match="a rehearsal needs --table"):
        tune.main(("rdm",), rehearse=True)
    with pytest.raises(SystemExit, match="ops must be among .*, got 'nothing'"):
        tune.main(("nothing",))
