"""Every op on every GPU backend of its table: right, the same at every run, on side streams, in CUDA graphs.

Cases come from the registry of the contract and from the tables of backends: what is entered there is tested here.
"""

import pytest
import torch
from torch import Tensor

from tests.contract.harness import cotangents, evaluate, forced, identical, leaves, same
from tests.contract.test_layouts import LAYOUTS
from tests.gpu.cases import DEVICE, Case, cases, home, parametrised, placed
from tests.gpu.waiting import WAITS, nothing_waits

CASES = list(cases())
gpu_alone = pytest.mark.skipif(DEVICE == "cpu", reason="NO CUDA GPU HERE: streams and graphs cannot be rehearsed")


@parametrised(CASES)
def test_accuracy(case: Case) -> None:
    """Every dtype, against float64."""
    for dtype in case.op.dtypes if DEVICE == "cuda" else case.op.dtypes[:1]:
        tensors = case.tensors(dtype)
        case.judge(case.run(tensors), tensors, str(dtype))


@parametrised(CASES)
def test_more_work(case: Case) -> None:
    """More than one block, and sizes that no tile divides."""
    tensors = case.tensors(large=True)
    case.judge(case.run(tensors), tensors, "large")


@parametrised(CASES)
def test_layouts(case: Case) -> None:
    """Strides, gaps and offsets; they may make another program, which adds in another order."""
    tensors = case.tensors()
    for layout in LAYOUTS if DEVICE == "cuda" else LAYOUTS[-1:]:
        case.judge(case.run({name: layout(t) for name, t in tensors.items()}), tensors, layout.__name__)


@parametrised(CASES)
def test_every_run_is_the_same(case: Case) -> None:
    tensors = case.tensors(large=True)
    expected = case.run(tensors)
    for _ in range(3 if DEVICE == "cuda" else 1):
        same(case.run(tensors), expected)


@parametrised(CASES)
def test_graph(case: Case) -> None:
    """Forward and backward are captured once, and replayed with other inputs."""
    if why := WAITS.get((case.op.name, case.sample.name)):
        pytest.skip(f"it waits for the GPU: {why}")
    if DEVICE == "cpu":  # what a capture would refuse can be seen here, too
        tensors = case.tensors(torch.float64)
        with nothing_waits(case):
            case.run(tensors)
        return
    given = leaves({name: placed(t) for name, t in case.tensors().items()})
    directions: list[Tensor] = []

    def run() -> list[Tensor]:
        with forced(case.op, case.backend, backward=1):
            outputs = case.op.call(**given, **case.sample.options)
            directions.extend(cotangents(outputs) if not directions else ())  # a copy to the GPU cannot be captured
            gradients = torch.autograd.grad(outputs, list(given.values()), directions, materialize_grads=True)
        return [*(o.detach() for o in outputs), *gradients]

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        run()  # compiles, and makes the handles and workspaces of torch's libraries
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = run()
    with torch.no_grad():
        for name, tensor in case.sample.tensors(torch.float32, seed=1).items():
            given[name].copy_(tensor)
    for tensor in captured:
        tensor.fill_(torch.nan)
    graph.replay()
    torch.cuda.synchronize()
    for i, (found, expected) in enumerate(zip(captured, run(), strict=True)):
        identical(found, expected, f"result {i}")


@gpu_alone
@parametrised(CASES)
def test_side_stream(case: Case) -> None:
    """Work is put on torch's current stream: there, while the others are busy, nothing is early."""
    tensors = case.tensors(large=True)
    expected, given = case.run(tensors), {name: placed(t) for name, t in tensors.items()}
    busy = torch.randn(4096, 4096, device=DEVICE)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream), forced(case.op, case.backend, backward=1):
        late = {name: torch.full_like(t, torch.nan) for name, t in given.items()}
        for _ in range(8):
            busy @ busy
        for name, tensor in late.items():
            tensor.copy_(given[name])
        aside = evaluate(case.op.call, late, **case.sample.options)
        found = home(aside)
    # Arguments that lie elsewhere may have strides that the others had not.
    same(found, expected) if all(t.is_contiguous() for t in given.values()) else case.judge(found, tensors, "aside")


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there is one GPU here")
@parametrised(CASES)
def test_second_device(case: Case) -> None:
    """Kernels run where the tensors are, not where torch's current device is."""
    tensors = case.tensors()
    given = {name: placed(t).to("cuda:1") for name, t in tensors.items()}
    with forced(case.op, case.backend, backward=1):
        found = evaluate(case.op.call, given, **case.sample.options)
    assert all(o.device.index == 1 for o in found.outputs)
    case.judge(home(found), tensors, "second device")
