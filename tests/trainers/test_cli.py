"""The command line without a trainer: usage, refusals, and what it imports."""

import subprocess
import sys
from pathlib import Path

import pytest

from neurokernels import cli


def test_help_lists_the_commands(capsys: pytest.CaptureFixture[str]):
    assert cli.main(["--help"]) == 0
    said = capsys.readouterr().out
    assert all(f"  {name} " in said for name in ("train", "data", "info"))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "usage: neurokernels COMMAND"),
        (["fly"], "there is no command 'fly'"),
        (["train"], "neurokernels train: which trainer?; trainers: spiking"),
        (["train", "fly"], "neurokernels train: there is no trainer 'fly'; trainers: spiking"),
        (["data", "fly"], "data: name must be one of mnist, cifar10, cifar100, digits, got 'fly'"),
    ],
)
def test_refusals(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]):
    assert cli.main(arguments) == 2
    assert says in capsys.readouterr().err


def test_settings_that_do_not_exist_are_refused(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as left:
        cli.main(["train", "spiking", "--fly"])
    assert left.value.code == 2
    assert "--fly" in "".join(capsys.readouterr())


def test_data_sets_are_listed_and_fetched(tmp_path: Path, monkeypatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setenv("NEUROKERNELS_DATA", str(tmp_path))
    assert cli.main(["data"]) == 0
    assert capsys.readouterr().out == "mnist\ncifar10\ncifar100\ndigits\n"
    assert cli.main(["data", "digits"]) == 0
    assert "digits: 1,437 training" in capsys.readouterr().out


def test_info_is_the_config(capsys: pytest.CaptureFixture[str]):
    assert cli.main(["info"]) == 0
    assert "torch" in capsys.readouterr().out


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    for name in list(sys.modules):
        if name.startswith("neurokernels.trainers."):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "rich", None)
    monkeypatch.setitem(sys.modules, "rich.console", None)
    assert cli.main(["train", "spiking"]) == 2
    assert "pip install 'neurokernels[train]'" in capsys.readouterr().err


def test_data_and_encoders_import_nothing_beyond_torch():
    code = (
        "import sys, torch, numpy; before = set(sys.modules)\n"
        "import neurokernels as nk; nk.data.load; nk.encoders.poisson; import neurokernels.cli\n"
        "new = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "print(*sorted(new & {'rich', 'tyro', 'matplotlib', 'sklearn', 'scipy', 'triton', 'pandas'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"
