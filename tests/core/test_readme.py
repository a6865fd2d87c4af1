"""What the README shows runs, in the order in which it stands there."""

import re
from pathlib import Path

import torch

README = Path(__file__).parents[2] / "README.md"


def test_every_python_block_of_the_readme_runs(capsys):
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert len(blocks) >= 5
    shown = {"current": torch.rand(20, 4, 6)}
    for block in blocks:
        exec(compile(block, str(README), "exec"), shown)
    assert shown["out"].spikes.shape == shown["current"].shape
    assert shown["logits"].shape == (16, 10)
    assert type(shown["spikes"]).__module__ == "numpy"
    assert "neurokernels" in capsys.readouterr().out


def test_every_link_of_the_readme_leads_somewhere():
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README.read_text()) if "://" not in link]
    assert links
    assert [link for link in links if not (README.parent / link).exists()] == []
