"""Statistics, clocks, bytes, and the description of the machine."""

import json
import platform
import socket
import subprocess
from dataclasses import asdict

import pytest
import torch

import neurokernels as nk
from neurokernels.bench import clocks, kernels, leaf_calls, machine, saved_bytes
from neurokernels.bench.stats import summarise


def test_samples_are_summarised():
    timing = summarise([4.0, 1.0, 3.0, 2.0, 5.0], calls=7)
    assert (timing.best, timing.median, timing.rounds, timing.calls, timing.clock) == (1.0, 3.0, 5, 7, "wall")
    assert timing.spread == pytest.approx(2 / 3)
    assert summarise([2.0]).spread == 0.0


@pytest.mark.parametrize("samples", [[], [0.0], [-1.0], [float("nan")], [1.0, float("inf")]])
def test_impossible_samples_are_refused(samples):
    with pytest.raises(ValueError, match="summarise: samples must"):
        summarise(samples)


def test_a_sample_makes_its_calls_and_takes_arguments_in_turn():
    called = []
    clock, take = clocks.sampler("wall", called.append, [(1,), (2,)], 5)
    assert clock == "wall"
    assert not called
    assert take() > 0
    assert called == [1, 2, 1, 2, 1]


def test_inputs_stay_in_their_caches_on_a_cpu():
    inputs = (torch.zeros(3), torch.zeros(2))
    assert clocks.rotated(inputs) == [inputs]
    assert clocks.rotated(()) == [()]


def test_saved_storages_are_counted_once():
    x = torch.randn(4, 8, requires_grad=True)
    weight = torch.randn(8, requires_grad=True)
    assert saved_bytes(lambda: x * weight) == x.nbytes + weight.nbytes
    assert saved_bytes(lambda: (x * weight) * weight) == 2 * x.nbytes + weight.nbytes
    assert saved_bytes(lambda: sum(row * row for row in x.unbind(0))) == x.nbytes
    assert saved_bytes(lambda: x + weight) == 0


def _train(x, g):
    spikes = nk.lif(x, decay=0.5, surrogate="constant").spikes
    return spikes.detach(), torch.autograd.grad(spikes, x, g)[0]


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_the_kernels_of_a_call_run_alone_and_write_their_results(backend):
    x, g = torch.randn(32, 4, 8, requires_grad=True), torch.randn(32, 4, 8)
    with nk.backend(backend):
        expected = _train(x, g)
        calls = leaf_calls(lambda: _train(x, g))
    row = kernels(backend, _train, (x, g))
    assert (row.name, row.ours) == (f"{backend} kernels", True)
    with row.scope():
        for got, due in zip(row.call(x, g), expected, strict=True):
            assert torch.equal(got, due)
    assert [str(call.op) for call in calls] == ["neurokernels.lif_fwd.default", "neurokernels.lif_bwd.default"]
    # x in, spikes out, g in, dx out; two bits a step written and read; membranes and their gradient per neuron
    assert 4 * x.nbytes + 2 * x.numel() // 4 <= row.nbytes <= 4 * x.nbytes + 2 * x.numel() // 4 + 4 * 4 * x[0].nbytes


@pytest.mark.parametrize(
    ("cpu", "cores", "isa", "gpu", "slug"),
    [
        ("Intel(R) Xeon(R) Processor", 2, ["avx512", "amx"], None, "intel-xeon-2c-avx512-amx"),
        ("Intel(R) Core(TM) i7-9750H CPU @ 2.60GHz", 12, ["avx2"], None, "intel-core-i7-9750h-12c-avx2"),
        ("AMD EPYC 9654 96-Core Processor", 96, ["avx512"], "NVIDIA H200", "nvidia-h200-amd-epyc-9654-96c-avx512"),
        ("Apple M3 Pro", 11, ["neon"], None, "apple-m3-pro-11c-neon"),
    ],
)
def test_a_machine_is_named_after_its_hardware(cpu, cores, isa, gpu, slug):
    assert machine.slug(cpu, cores, isa, gpu) == slug


def test_the_machine_is_described_without_its_name():
    described = machine.describe()
    assert described == machine.describe()
    assert described.cores >= 1
    assert described.ram_gib > 0
    assert described.slug == machine.slug(described.cpu, described.cores, described.isa, described.gpu)
    text = json.dumps(asdict(described))
    for name in {socket.gethostname(), platform.node()} - {"", "localhost"}:
        assert name not in text


def test_the_stamp_names_the_settings_that_make_a_difference(monkeypatch):
    monkeypatch.setenv("NEUROKERNELS_BACKEND", "cpu")
    monkeypatch.setenv("SOME_PASSWORD", "secret")
    stamp = machine.stamp(["pytest", "no-such-package"])
    assert stamp.settings["NEUROKERNELS_BACKEND"] == "cpu"
    assert "SOME_PASSWORD" not in stamp.settings
    assert stamp.versions["pytest"] == pytest.__version__
    assert "no-such-package" not in stamp.versions


def test_the_commit_says_whether_files_differ_from_it(tmp_path):
    def git(*arguments):
        author = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
        return subprocess.run(
            ["git", *author, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout.strip()

    assert machine.commit(tmp_path) == "unknown"
    git("init", "-q")
    (tmp_path / "file").write_text("one")
    git("add", "file")
    git("commit", "-qm", "first")
    head = git("rev-parse", "--short", "HEAD")
    assert machine.commit(tmp_path) == head
    (tmp_path / "file").write_text("two")
    assert machine.commit(tmp_path) == f"{head}+"
