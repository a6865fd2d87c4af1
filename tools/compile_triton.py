"""Compiles the Triton kernels for GPUs that are not there, and measures the machine code.

    python tools/compile_triton.py [--arch 80 90] [--cases bits table ...] [--json-file FILE] [--record FILE]

Every case is a call of the library on tensors without memory. Its launches are caught with all of their arguments and
compiled as a launch would compile them. A record of an earlier run spares the cases that would be compiled from the
same sources with the same arguments by the same Triton. Exits with 1 if a kernel spills registers, or if one of LIF
needs shared memory (its loads then change their layout on the way to the registers) or has a fused multiply-add, which
flips spikes.
"""

import hashlib
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from operator import itemgetter
from pathlib import Path
from typing import Any

os.environ["TRITON_INTERPRET"] = "0"

import torch
import triton
import tyro
from torch import Tensor
from triton.backends.compiler import GPUTarget

import neurokernels
import sass
from neurokernels import surrogate as surrogates
from neurokernels._core import covariance_triton as covariance
from neurokernels.ops.cca import triton as cca
from neurokernels.ops.evolution import triton as evolution
from neurokernels.ops.evolution.network import Network
from neurokernels.ops.lif import rule as rules
from neurokernels.ops.lif import triton as lif
from neurokernels.ops.rsa import inference_triton as searchlight
from neurokernels.ops.rsa import loss_triton as similarity
from neurokernels.ops.rsa import triton as rdm
from neurokernels.ops.rsa.loss_leaves import Options
from neurokernels.ops.spectrum import triton as spectrum
from records import recorded, report

MODULES = (lif, spectrum, covariance, cca, rdm, similarity, searchlight, evolution)
MANY, FEW = (64, 4096), (4, 50)
TABLE = surrogates.tabulated([0.0, 1.0, 0.0], low=-1.0, high=1.0)
EVERYTHING = {
    "reset": "subtract", "above": True, "has_floor": True, "refractory": 3, "detach": False, "surrogate": "sigmoid",
    "learn": (True,) * 4, "tangent": True,
}  # fmt: skip

# Calls ---------------------------------------------------------------------------------------------------------------


def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """A tensor without memory."""
    return torch.empty(shape, dtype=dtype, device="meta")


def call_lif(
    dtype: torch.dtype = torch.float32,
    neurons: tuple[int, ...] = MANY,
    *,
    residual: str = "recompute",
    surrogate: Any = "atan",
    learn: tuple[bool, ...] = (False,) * 4,
    tangent: bool = False,
    time_dim: int = 0,
    **options: Any,
) -> None:
    """Forward and backward pass of `neurokernels.lif`, and its tangents."""
    chosen = surrogates.get(surrogate)
    fixed = {"reset": "zero", "above": False, "has_floor": False, "refractory": 0, "detach": True} | options
    values = (0.9, 1.0, 0.8, 0.0, -0.5, chosen.peak, chosen.slope, chosen.low, chosen.high)
    numbers, codes = rules.decode(rules.encode(rules.Rule(*fixed.values(), chosen.shape, residual, *values)))
    shape = list(neurons)
    shape.insert(time_dim, 100)
    x = empty(*shape, dtype=dtype).movedim(time_dim, 0)
    state = rules.compute_dtype(x)
    parameters = [empty(neurons[-1], dtype=state) if is_learnt else None for is_learnt in learn]
    v0, countdown = (
        empty(*neurons, dtype=state),
        empty(*neurons, dtype=torch.int32) if options.get("refractory") else None,
    )
    neuron = (*parameters, v0, countdown, None if chosen.table is None else chosen.table.to("meta", state))
    out = lif.forward(x, *neuron, numbers, codes)
    read = x if residual == "recompute" or learn[2] else None
    lif.backward(x, out.membrane, read, out.residual, out.counts, *neuron, numbers, codes, [True, True, *learn])
    if tangent:
        lif.jvp(x, v0, *parameters, x, *neuron, numbers, codes)


def call_leaky(dtype: torch.dtype = torch.float32, neurons: tuple[int, ...] = MANY) -> None:
    """Forward and backward pass of `neurokernels.leaky_integrate`, and its tangents."""
    x, numbers = empty(100, *neurons, dtype=dtype), [0.9, 0.8, 0.0]
    trace = lif.leaky_forward(x, None, None, None, numbers, True)
    decay = gain = empty(neurons[-1], dtype=trace.dtype)
    lif.leaky_backward(trace, x, trace, decay, gain, trace[0], numbers, True, dtype, [True] * 4)
    lif.leaky_jvp(x, decay, gain, trace[0], x, trace, decay, gain, trace[0], numbers, True)


def call_eigh(size: int, dtype: torch.dtype = torch.float32, vectors: bool = True) -> None:
    """`neurokernels.eigh` of 256 matrices."""
    spectrum.eigh(empty(256, size, size, dtype=dtype), vectors)


def call_covariance(*shape: int, dtype: torch.dtype = torch.float32) -> None:
    """Forward pass of `neurokernels.covariance`; its backward pass launches no kernel of ours."""
    covariance.covariance_forward(empty(*shape, dtype=dtype), 1.0)


def call_warm(dtype: torch.dtype = torch.float32, k: int = 50) -> None:
    """What the warm spectrum launches: centring, a small eigenproblem that is nearly diagonal, and the gradient."""
    x, compute = empty(1500, 2000, dtype=dtype), torch.promote_types(dtype, torch.float32)
    _, mean, total = covariance.centred(x, torch.bfloat16)
    spectrum.small_eigh(empty(*[128 if compute == torch.float32 else 64] * 2, dtype=compute), sweeps=4, positive=True)
    covariance.rank_update(empty(1500, k, dtype=compute), mean[:k], empty(2000, k, dtype=compute), x, mean, total)


def call_dcca(
    n: int, d1: int, d2: int, dtype: torch.dtype = torch.float32, *, batch: int = 1, objective: str = "nuclear",
    precision: str = "high", gradient: bool = True,
) -> None:  # fmt: skip
    """Forward and backward pass of `neurokernels.dcca_loss`."""
    x, y = empty(batch, n, d1, dtype=dtype), empty(batch, n, d2, dtype=dtype)
    value, weights, mean = cca.dcca(x, y, 1e-4, 1e-4, objective, 0, precision, gradient)
    if gradient:
        cca.dcca_backward(value, x, y, weights, mean)


def call_rdm(
    *shape: int, metric: str = "correlation", dtype: torch.dtype = torch.float32, condensed: bool = True
) -> None:
    """Forward and backward pass of `neurokernels.rdm`."""
    x = empty(*shape, dtype=dtype)
    d = rdm.rdm(x, metric, condensed)
    rdm.rdm_backward(d, x, d, metric, condensed)


def call_similarity(
    n: int, d: int, kind: str = "square", dtype: torch.dtype = torch.float32, *, accuracy: str = "high",
    gradient: bool = True,
) -> None:  # fmt: skip
    """What `neurokernels.rsa_loss` launches of li2019."""
    shape = {"square": (1, n, n), "condensed": (1, n * (n - 1) // 2), "features": (1, n, 300)}[kind]
    o = Options("li2019", "cosine", kind, (d,), 0, False, False, 1e-5, 1.0, accuracy)
    similarity.log_odds(empty(1, n, d, dtype=dtype), empty(*shape, dtype=dtype), o, gradient)


def call_searchlight(
    n: int, dtype: torch.dtype = torch.float32, metric: str = "correlation", method: str = "pearson"
) -> None:
    """`neurokernels.searchlight_rsa` of 2000 neighbourhoods with 3 models."""
    shape = (4, n, 5000) if metric == "crossnobis" else (n, 5000)
    indices, offsets = (empty(size, dtype=torch.int64) for size in (200_000, 2001))
    models = empty(3, n * (n - 1) // 2, dtype=dtype)
    searchlight.searchlight(empty(*shape, dtype=dtype), indices, offsets, models, metric, method)


def call_rollout(*hidden: int, exact: bool = False, keep: bool = False, **options: Any) -> None:
    """`neurokernels.maze_rollout` of 200 agents in 64 mazes, or going on from a state."""
    network, agents, mazes = Network(hidden, **options), 200, 64
    weights = empty(agents, network.edges, dtype=torch.int8 if exact else torch.float32)
    mask, walls = empty(agents, network.edges, dtype=torch.bool), empty(mazes, 8, 8, dtype=torch.uint8)
    places, state = empty(3, mazes, dtype=torch.int32), [empty(agents, mazes, dtype=torch.int32) for _ in range(3)]
    state = [*state, empty(agents, mazes, network.width)] if keep else []
    evolution.rollout(weights, mask, walls, places, state, network, 200, keep, keep)


def call_offspring() -> None:
    """The next generation of 200 agents."""
    weights, mask = empty(200, 620), empty(200, 620, dtype=torch.bool)
    evolution.offspring(weights, mask, empty(40, dtype=torch.int64), 3, 0, 0.1, 0.01, 127 / 32)


BFLOAT16, FLOAT16, FLOAT64 = torch.bfloat16, torch.float16, torch.float64
CASES: dict[str, Callable[[], None]] = {
    "bits": lambda: call_lif(residual="bits", surrogate="constant"),
    "bits bfloat16": lambda: call_lif(BFLOAT16, residual="bits", surrogate="constant"),
    "bits, few": lambda: call_lif(neurons=FEW, residual="bits", surrogate="constant"),
    "bits, boxcar": lambda: call_lif(
        residual="bits", surrogate="boxcar", reset="subtract", has_floor=True, refractory=3, detach=False
    ),
    "recompute": call_lif,
    "recompute bfloat16": lambda: call_lif(BFLOAT16),
    "recompute float16": lambda: call_lif(FLOAT16),
    "recompute, few": lambda: call_lif(neurons=FEW),
    "recompute, odd": lambda: call_lif(neurons=(63, 4099)),
    "recompute, time second": lambda: call_lif(time_dim=1),
    "recompute, time last": lambda: call_lif(time_dim=2),
    "membrane": lambda: call_lif(residual="membrane"),
    "membrane bfloat16": lambda: call_lif(BFLOAT16, residual="membrane"),
    "membrane, learnt": lambda: call_lif(residual="membrane", learn=(True,) * 4, refractory=3),
    "gerum2020": lambda: call_lif(
        above=True, has_floor=True, surrogate="constant", learn=(True, False, False, False)
    ),
    "attached": lambda: call_lif(detach=False),
    "everything": lambda: call_lif(**EVERYTHING),
    "everything bfloat16": lambda: call_lif(BFLOAT16, **EVERYTHING),
    "everything float64": lambda: call_lif(FLOAT64, **EVERYTHING),
    "everything, few": lambda: call_lif(neurons=FEW, **EVERYTHING),
    "table": lambda: call_lif(surrogate=TABLE),
    "table float64": lambda: call_lif(FLOAT64, surrogate=TABLE, tangent=True),
    **{name: (lambda name=name: call_lif(surrogate=name)) for name in surrogates.NAMED if name != "atan"},
    "leaky": call_leaky,
    "leaky bfloat16": lambda: call_leaky(BFLOAT16),
    "leaky float64": lambda: call_leaky(FLOAT64),
    "leaky, few": lambda: call_leaky(neurons=FEW),
    **{f"eigh {size}": (lambda size=size: call_eigh(size)) for size in (2, 4, 8, 16, 20, 32, 64, 100, 128)},
    **{f"eigh {size} float64": (lambda size=size: call_eigh(size, FLOAT64)) for size in (8, 16, 32, 64)},
    "eigh 32, values": lambda: call_eigh(32, vectors=False),
    "eigh 128, values": lambda: call_eigh(128, vectors=False),
    "covariance": lambda: call_covariance(1500, 2000),
    "covariance bfloat16": lambda: call_covariance(1500, 2000, dtype=BFLOAT16),
    "covariance float64": lambda: call_covariance(1500, 2000, dtype=FLOAT64),
    "covariance, tall": lambda: call_covariance(4096, 128),
    "covariance, tall bfloat16": lambda: call_covariance(4096, 128, dtype=BFLOAT16),
    "covariance, tall float64": lambda: call_covariance(4096, 128, dtype=FLOAT64),
    "covariance, odd": lambda: call_covariance(7, 1501, 333),
    "covariance 32": lambda: call_covariance(100, 200, 32),
    "covariance 16": lambda: call_covariance(100, 200, 16),
    "warm": call_warm,
    "warm bfloat16": lambda: call_warm(BFLOAT16),
    "warm float16": lambda: call_warm(FLOAT16),
    "warm float64": lambda: call_warm(FLOAT64),
    "warm, few": lambda: call_warm(k=10),
    "dcca 1": lambda: call_dcca(50, 1, 1),
    "dcca 10": lambda: call_dcca(128, 10, 10),
    "dcca 10 bfloat16": lambda: call_dcca(128, 10, 10, BFLOAT16),
    "dcca 10 float16": lambda: call_dcca(128, 10, 10, FLOAT16),
    "dcca 10 float64": lambda: call_dcca(128, 10, 10, FLOAT64),
    "dcca 10, value": lambda: call_dcca(50, 10, 10, gradient=False),
    "dcca 10, squares": lambda: call_dcca(50, 10, 10, objective="fro2"),
    "dcca 10, tall": lambda: call_dcca(4096, 10, 7),
    "dcca 32": lambda: call_dcca(128, 32, 32, batch=16),
    "dcca 32 bfloat16": lambda: call_dcca(128, 32, 32, BFLOAT16),
    "dcca 32 float64": lambda: call_dcca(128, 32, 32, FLOAT64),
    "dcca 32, odd": lambda: call_dcca(101, 31, 19),
    "dcca 32, value": lambda: call_dcca(50, 32, 32, gradient=False),
    "dcca 32, tall": lambda: call_dcca(4096, 32, 20),
    "dcca 64": lambda: call_dcca(256, 64, 64),
    "dcca 100, fast": lambda: call_dcca(1024, 100, 100, precision="fast"),
    "dcca 256": lambda: call_dcca(1024, 256, 256),
    "dcca 256 bfloat16": lambda: call_dcca(1024, 256, 256, BFLOAT16),
    "dcca 256 float64": lambda: call_dcca(1024, 256, 256, FLOAT64),
    "dcca 256, fast": lambda: call_dcca(1024, 256, 256, precision="fast"),
    "similarity": lambda: call_similarity(2048, 512),
    "similarity, condensed": lambda: call_similarity(2001, 333, "condensed"),
    "similarity, responses": lambda: call_similarity(2048, 512, "features"),
    "similarity, responses, fast": lambda: call_similarity(2048, 512, "features", accuracy="fast"),
    "similarity, fast": lambda: call_similarity(2048, 512, accuracy="fast"),
    "similarity, responses, float64": lambda: call_similarity(300, 100, "features", FLOAT64),
    "similarity, value": lambda: call_similarity(2048, 512, gradient=False),
    "similarity, few": lambda: call_similarity(32, 500),
    "dcca 333, odd": lambda: call_dcca(501, 333, 250, batch=7),
    "rdm": lambda: call_rdm(2000, 5000),
    "rdm, euclidean": lambda: call_rdm(2000, 5000, metric="euclidean"),
    "rdm, euclidean, square": lambda: call_rdm(2000, 5000, metric="euclidean", condensed=False),
    "rdm, crossnobis": lambda: call_rdm(4, 200, 500, metric="crossnobis"),
    "rdm, poisson, odd": lambda: call_rdm(7, 201, 333, metric="poisson"),
    "rdm float64": lambda: call_rdm(2000, 5000, dtype=FLOAT64),
    "rdm, euclidean float64": lambda: call_rdm(2000, 5000, metric="euclidean", dtype=FLOAT64),
    "rdm, few": lambda: call_rdm(100, 16, 100, metric="euclidean"),
    "rdm, 32": lambda: call_rdm(100, 30, 100, metric="euclidean"),
    "searchlight 12": lambda: call_searchlight(12),
    "searchlight 32, crossnobis": lambda: call_searchlight(32, metric="crossnobis", method="whitened_cosine"),
    "searchlight 60": lambda: call_searchlight(60),
    "searchlight 60, whitened": lambda: call_searchlight(60, metric="sqeuclidean", method="whitened_pearson"),
    "searchlight 60, poisson": lambda: call_searchlight(60, metric="poisson"),
    "searchlight 60, crossnobis": lambda: call_searchlight(60, metric="crossnobis"),
    "searchlight 60 float64": lambda: call_searchlight(60, FLOAT64),
    "searchlight 30 float64, crossnobis": lambda: call_searchlight(30, FLOAT64, "crossnobis", "whitened_pearson"),
    "searchlight 128": lambda: call_searchlight(128),
    "searchlight 128, whitened": lambda: call_searchlight(128, method="whitened_pearson"),
    "searchlight 128, stored": lambda: call_searchlight(128, metric="poisson", method="spearman"),
    "rollout 20": lambda: call_rollout(20),
    "rollout 20, exact": lambda: call_rollout(20, exact=True),
    "rollout 20, state": lambda: call_rollout(20, keep=True),
    "rollout 20, relu": lambda: call_rollout(20, activation="relu"),
    "rollout 20, sign": lambda: call_rollout(20, exact=True, activation="sign"),
    "rollout 30 and 34": lambda: call_rollout(30, 34),
    "rollout 30 and 34, exact": lambda: call_rollout(30, 34, exact=True, keep=True),
    "rollout 8 and 8": lambda: call_rollout(8, 8),
    "rollout 8 and 8, exact": lambda: call_rollout(8, 8, exact=True, keep=True),
    "rollout 64": lambda: call_rollout(64),
    "rollout 64, exact": lambda: call_rollout(64, exact=True),
    "offspring": call_offspring,
}  # fmt: skip

# Compilation ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recorder:
    """Stands for a kernel and keeps what it is launched with."""

    kernel: Any
    found: list[tuple[Any, dict[str, Any]]] = field(default_factory=list)

    def __getitem__(self, grid: Any) -> Callable[..., None]:
        return lambda **arguments: self.found.append((self.kernel, arguments))


def launches(case: str) -> list[tuple[Any, dict[str, Any]]]:
    """The kernels that a case launches, with all arguments and options."""
    found: list[tuple[Any, dict[str, Any]]] = []
    kernels = [(vars(m), name, kernel) for m in MODULES for name, kernel in vars(m).items() if name.endswith("_kernel")]
    for names, name, kernel in kernels:
        names[name] = Recorder(kernel, found)
    try:
        CASES[case]()
    finally:
        for names, name, kernel in kernels:
            names[name] = kernel
    return found


def key(case: str) -> str:
    """A digest of all that the binaries of a case are made of, but for Triton."""

    def told(value: Any) -> Any:
        return (value.dtype, value.shape, value.stride()) if isinstance(value, Tensor) else value

    made_of = [
        (kernel.fn.__name__, kernel.cache_key, sorted((name, told(value)) for name, value in arguments.items()))
        for kernel, arguments in launches(case)
    ]
    return hashlib.sha256(repr(made_of).encode()).hexdigest()


@dataclass(frozen=True)
class Driver:
    """What Triton asks a GPU's driver before it compiles."""

    arch: int

    def get_current_target(self) -> GPUTarget:
        """The GPU."""
        return GPUTarget("cuda", self.arch, 32)

    def get_current_device(self) -> int:
        """One device per architecture, since Triton keeps compiled kernels by device."""
        return self.arch

    def get_current_stream(self, device: int) -> int:
        """The default stream."""
        return 0


@dataclass(frozen=True)
class Row:
    """What a kernel became."""

    case: str
    kernel: str
    arch: str
    neurons_per_thread: int | None
    registers: int
    spills: int
    shared_bytes: int
    instructions: int
    fused: int
    failed: str


def disassembled(cubin: bytes) -> tuple[str, list[str]]:
    """The resource usage and the opcodes of a binary."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        text = sass.dumped(Path(file.name), "--dump-resource-usage", "--dump-sass")
    return text, sass.opcodes(text)


def compiled(case: str, arch: int) -> list[Row]:
    """Compiles a case for an architecture."""
    triton.runtime.driver.set_active(Driver(arch))
    rows, seen = [], set()
    for kernel, arguments in launches(case):
        binary = kernel.warmup(grid=(1,), **arguments)
        if binary.hash in seen:  # a step of an iteration, launched before
            continue
        seen.add(binary.hash)
        text, opcodes = disassembled(binary.asm["cubin"])
        usage = dict(re.findall(r"(REG|STACK|SHARED|LOCAL):(\d+)", text))
        fused, spills = sass.fused(opcodes), sass.spills(opcodes)
        # The division and the exponential of float64 are made of fused multiply-adds; a forward pass has neither.
        excused = "float64" in case and not kernel.fn.__name__.endswith("forward_kernel")
        shared = binary.metadata.shared
        spikes = "BLOCK" in arguments  # a block of neurons
        reasons = {"spills": spills, "shared memory": spikes and shared}
        reasons["fused multiply-adds"] = spikes and fused and not excused
        rows.append(
            Row(
                case, kernel.fn.__name__, f"sm_{arch}",
                arguments["BLOCK"] // (32 * arguments["num_warps"]) if spikes else None,
                int(usage["REG"]), spills, shared, len(opcodes), fused, ", ".join(filter(reasons.get, reasons)),
            )
        )  # fmt: skip
    return rows


def all_rows(arches: tuple[int, ...], cases: tuple[str, ...], jobs: int, known: Sequence[Row] = ()) -> Iterator[Row]:
    """Compiles every case for every architecture, a few at a time, but for those of which rows are known."""
    tasks = [(case, arch) for arch in arches for case in cases]
    found = {task: [row for row in known if (row.case, row.arch) == (task[0], f"sm_{task[1]}")] for task in tasks}
    due = [task for task in tasks if not found[task]]
    if due:
        with ProcessPoolExecutor(jobs, mp_context=get_context("fork")) as pool:
            found |= dict(zip(due, pool.map(compiled, *zip(*due, strict=True)), strict=True))
    for task in tasks:
        yield from found[task]


def main(
    arch: tuple[int, ...] = (80, 90),
    cases: tuple[str, ...] = tuple(CASES),
    jobs: int = len(os.sched_getaffinity(0)),
    json_file: Path | None = None,
    record: Path | None = None,
) -> None:
    """Compiles the kernels and prints what they became.

    Args:
        arch: Compute capabilities, for example 80 90.
        cases: Which calls to compile; all by default.
        jobs: How many processes compile at once.
        json_file: Where to write the table.
        record: Such a table, for cases that need not be compiled again.
    """
    unknown = [case for case in cases if case not in CASES]
    if unknown:
        sys.exit(f"cases must be among {', '.join(map(repr, CASES))}, got {unknown[0]!r}")
    keys = {case: key(case) for case in cases}
    known = (
        [Row(**row) for row in recorded(record, keys, itemgetter("case"), triton=triton.__version__)] if record else []
    )
    rows = list(all_rows(arch, cases, jobs, known))
    caption = f"{len(known)} of {len(rows)} rows are those of {record}" if record else None
    versions = {"neurokernels": neurokernels.__version__, "triton": triton.__version__, "torch": torch.__version__}
    report(Row, rows, lambda row: f"{row.case}, {row.kernel}, {row.arch}", versions, keys, caption, json_file)


if __name__ == "__main__":
    tyro.cli(main)
