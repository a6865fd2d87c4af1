"""`import neurokernels` costs nothing after torch, and a call loads no more than its backend."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = {
    "triton", "cupy", "matplotlib", "scipy", "sklearn", "rich", "tyro", "psutil", "torch._dynamo", "torch._inductor",
    "torch.export", "hypothesis", "pandas",
}  # fmt: skip


def loaded(code, **environment):
    """Modules that a fresh interpreter has loaded after ``code`` and had not after ``import torch, numpy``."""
    script = (
        "import json, sys, torch, numpy\n"
        f"before = set(sys.modules)\n{code}\n"
        "print(json.dumps([sorted(set(sys.modules) - before), torch.cuda.is_initialized()]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=environment or None, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    modules, initialised = json.loads(done.stdout.splitlines()[-1])
    assert not initialised, "a CUDA context was made"
    return set(modules)


def test_every_public_name_is_light():
    """All of them, and what the table of backends says."""
    assert (
        loaded("from neurokernels import *\nimport neurokernels as nk\nnk.explain('lif'); nk.show_config()") & HEAVY
        == set()
    )


def test_import_alone_loads_only_itself():
    modules = loaded("import neurokernels")
    assert modules == {"neurokernels", "neurokernels._version"}


def test_calls_load_no_more_than_their_backend():
    """Forward, backward and vmap of every op, with the backend left to itself."""
    script = (
        "from tests.contract.entries import OPS\n"
        "from tests.contract.harness import evaluate\n"
        "for op in OPS:\n"
        "    for sample in op.samples:\n"
        "        evaluate(op.call, sample.tensors(), **sample.options)\n"
        "        first, *rest = sample.tensors().items()\n"
        "        call = lambda x: op.call(**{first[0]: x}, **dict(rest), **sample.options)\n"
        "        torch.vmap(call)(torch.stack([first[1]] * 2))\n"
    )
    assert loaded(script) & HEAVY == set()


def test_every_public_name_exists():
    import neurokernels as nk

    for name in nk.__all__:
        assert getattr(nk, name) is not None
    assert set(dir(nk)) >= set(nk.__all__)
    with pytest.raises(AttributeError, match="no attribute 'lfi'"):
        nk.lfi  # noqa: B018
