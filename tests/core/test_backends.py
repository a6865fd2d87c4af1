"""Backends are a contract: what was asked for runs, or says why not."""

import os
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import neurokernels as nk
import neurokernels.ops
from neurokernels._core import backends
from neurokernels._core.backends import Backend, BackendError

ROOT = Path(__file__).parents[2]
X = torch.zeros(3, 2)


@pytest.fixture
def op(monkeypatch):
    """An op of three backends: one that refuses all, one for CUDA tensors, one for everything."""
    monkeypatch.setattr(backends, "_tables", dict(backends._tables))
    backends.register(
        "probe",
        Backend("triton", (), lambda x: "it is Tuesday", "no.such.module"),
        Backend("cuda", ("cuda",), lambda x: None, "no.such.module"),
        Backend("reference", (), lambda x: None, "math"),
    )
    return "probe"


def selected(op, name="auto", x=X):
    return backends.select(op, name, x).name


def test_auto_takes_the_first_that_accepts(op):
    assert selected(op) == "reference"
    assert backends.select(op, "auto", X).kernels().__name__ == "math"


def test_forced_backends_run_or_say_why_not(op):
    assert selected(op, "reference") == "reference"
    with pytest.raises(BackendError, match="probe: backend 'triton' was asked for and cannot run: it is Tuesday"):
        selected(op, "triton")
    with pytest.raises(BackendError, match="probe: backend 'cuda' was asked for and .*cuda.* this one is on cpu"):
        selected(op, "cuda")
    with pytest.raises(BackendError, match="probe: backend 'cpu' .* no such kernel; it has triton, cuda, reference"):
        selected(op, "cpu")
    assert issubclass(BackendError, RuntimeError)


def test_one_that_yields_runs_where_no_other_can(monkeypatch):
    monkeypatch.setattr(backends, "_tables", dict(backends._tables))
    shy = Backend("cuda", (), lambda x: None, "math", lambda x: "triton is faster" if x.numel() > 4 else None)
    backends.register("shy", shy, Backend("triton", (), lambda x: None, "math"))
    assert selected("shy") == "triton"
    assert selected("shy", x=X[0]) == "cuda"
    assert selected("shy", "cuda") == "cuda"
    assert "triton runs" in nk.explain("shy", X)
    assert "  cuda: could run; auto passes it over: triton is faster\n" in nk.explain("shy", X)
    backends.register("shy", shy, Backend("triton", (), lambda x: "no", "math"))
    assert selected("shy") == "cuda"
    assert "shy: cuda runs" in nk.explain("shy", X)


def test_nothing_can_run(monkeypatch):
    monkeypatch.setattr(backends, "_tables", dict(backends._tables))
    backends.register("none", Backend("triton", (), lambda x: "no", "m"), Backend("cpu", (), lambda x: "neither", "m"))
    with pytest.raises(BackendError, match="none: no backend can run this call: triton: no; cpu: neither"):
        selected("none")
    assert "none: nothing runs" in nk.explain("none", X)


def test_unknown_names():
    for use in (nk.set_backend, lambda name: nk.backend(name).__enter__()):
        with pytest.raises(ValueError, match="backend must be one of auto, reference, cpu, triton, cuda, got 'gpu'"):
            use("gpu")
    with pytest.raises(ValueError, match="there is no op 'fil'; ops: .*lif"):
        nk.explain("fil")
    assert backends.requested() == "auto"


def test_blocks_nest_and_end():
    assert backends.requested() == "auto"
    with nk.backend("cpu"):
        with nk.backend("reference"):
            assert backends.requested() == "reference"
        assert backends.requested() == "cpu"
        with nk.backend("auto"):
            assert backends.requested() == "auto"
    assert backends.requested() == "auto"
    with pytest.raises(KeyError), nk.backend("cpu"):
        raise KeyError
    assert backends.requested() == "auto"


def test_set_backend_is_the_process_and_blocks_are_the_thread():
    seen = {}

    def look(name):
        seen[name] = backends.requested()

    try:
        nk.set_backend("reference")
        with nk.backend("cpu"):
            thread = threading.Thread(target=look, args=("other thread",))
            thread.start()
            thread.join()
            look("block")
        look("process")
    finally:
        nk.set_backend("auto")
    assert seen == {"other thread": "reference", "block": "cpu", "process": "reference"}


def test_a_forced_backend_runs():
    for name in ("reference", "cpu"):
        with nk.backend(name), backends.record() as ran:
            nk.lif(X, decay=0.5)
            nk.leaky_integrate(X, decay=0.5)
        assert ran == [("lif", name), ("leaky_integrate", name)]
    with backends.record() as ran:
        nk.lif(X, decay=0.5)
    assert ran == [("lif", "cpu")]


def test_the_backward_pass_stays_where_its_forward_pass_was():
    x = X.clone().requires_grad_()
    with nk.backend("reference"):
        out = nk.lif(x, decay=0.5)
    with nk.backend("cpu"), backends.record() as ran:
        out.spikes.sum().backward()
    assert ran == [("lif", "reference")]


def test_record_stops_recording():
    with backends.record() as ran:
        pass
    nk.lif(X, decay=0.5)
    assert ran == []


def test_explain(op):
    assert nk.explain(op, X).splitlines() == [
        "probe: reference runs (backend auto, torch.float32 on cpu)",
        "  triton: it is Tuesday",
        "  cuda: it serves cuda tensors and this one is on cpu",
        "  reference: runs",
    ]
    with nk.backend("cuda"):
        assert nk.explain(op, X).startswith("probe: nothing runs (backend cuda")
    text = nk.explain("lif", X.double().numpy(), decay=0.5)
    assert text.startswith("lif: cpu runs (backend auto, torch.float64 on cpu)")
    assert "  reference: could run" in text
    assert nk.explain("lif").startswith("lif: cpu runs (backend auto, torch.float32 on cpu)")


def test_table():
    table = backends.table()
    assert set(table) >= {"lif", "leaky_integrate"}
    for reasons in table.values():
        assert set(reasons) == {"reference", "cpu", "triton", "cuda"}
        assert reasons["reference"] is None
        assert reasons["cpu"] is None
    assert table["covariance"]["cuda"] == "not written for this op"


def test_cuda_on_the_reference_warns_once(op):
    backends.register(op, *backends.rows(op)[2:])
    with FakeTensorMode():
        x = torch.empty(2, device="cuda")
    try:
        with pytest.warns(UserWarning, match="probe runs on the plain PyTorch reference for this CUDA tensor. probe: "):
            selected(op, x=x)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            selected(op, x=x)  # once is enough
            backends._warned.discard(op)
            selected(op, "reference", x)  # asked for: nothing to warn of
    finally:
        backends._warned.discard(op)


def python(code, **environment):
    """Runs code in a fresh interpreter, without what these tests have set."""
    inherited = {k: v for k, v in os.environ.items() if k not in ("TRITON_INTERPRET", "NEUROKERNELS_NATIVE")}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=inherited | environment, capture_output=True, text=True, timeout=100
    )
    return done.returncode, done.stdout, done.stderr


TRY = "import torch, neurokernels as nk\nx = torch.zeros(3, 2)\n"


def test_without_the_compiled_core():
    """NEUROKERNELS_NATIVE=0: auto goes on with the reference, a forced cpu says why not, show_config says it too."""
    code = TRY + (
        "from neurokernels._core import backends\n"
        "with backends.record() as ran: nk.lif(x, decay=0.5)\n"
        "print(ran)\n"
        "nk.show_config()\n"
        "with nk.backend('cpu'):\n"
        "    try: nk.lif(x, decay=0.5)\n"
        "    except nk.BackendError as error: print(error)\n"
        "print(nk.lif(x, decay=0.5).spikes.sum().item())\n"
    )
    status, out, err = python(code, NEUROKERNELS_NATIVE="0")
    assert status == 0, err
    assert "[('lif', 'reference')]" in out
    reason = "NEUROKERNELS_NATIVE=0"
    assert f"lif: backend 'cpu' was asked for and cannot run: {reason}" in out
    assert sum(reason in line for line in out.splitlines()) >= 3
    assert out.splitlines()[-1] == "0.0"


def test_triton_on_the_cpu_without_its_interpreter():
    code = TRY + "with nk.backend('triton'): nk.lif(x, decay=0.5)"
    status, _, err = python(code)
    assert status != 0
    assert "lif: backend 'triton' was asked for and cannot run: it serves cuda tensors" in err
    assert "TRITON_INTERPRET=1" in err


@pytest.mark.parametrize("name", ["reference", "cpu"])
def test_environment_variable(name):
    code = TRY + (
        "from neurokernels._core import backends\nwith backends.record() as ran: nk.lif(x, decay=0.5)\nprint(ran)"
    )
    status, out, err = python(code, NEUROKERNELS_BACKEND=name)
    assert status == 0, err
    assert out.strip() == f"[('lif', '{name}')]"


def test_bad_environment_variable():
    status, _, err = python(TRY + "nk.lif(x, decay=0.5)", NEUROKERNELS_BACKEND="gpu")
    assert status != 0
    assert "backend must be one of auto, reference, cpu, triton, cuda, got 'gpu'" in err


def test_no_warning_on_the_cpu():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with nk.backend("reference"):
            nk.lif(X, decay=0.5)
        nk.lif(X, decay=0.5)
