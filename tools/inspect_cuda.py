"""The machine code of the CUDA kernels: registers, shared memory, spills, instructions.

    python tools/inspect_cuda.py [--nvrtc [--arch 80 90] [--record FILE]] [--json-file FILE]

Reads the fatbins that nvcc made when neurokernels was installed (sm_80 and sm_90), or, with ``--nvrtc``, compiles the
sources as a machine without nvcc does at first use, through CuPy. A record of an earlier run spares what would be
compiled from the same sources and headers by the same NVRTC. Needs no GPU. Exits with 1 if a kernel spills.
"""

import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import tyro

import neurokernels
import sass
from neurokernels._core import cuda
from records import recorded, report


@dataclass(frozen=True)
class Row:
    """What a kernel became."""

    source: str
    kernel: str
    arch: str
    registers: int
    spills: int
    stack_bytes: int
    static_shared_bytes: int
    instructions: int
    fused: int
    failed: str


def inspected(binary: Path) -> Iterator[Row]:
    """The kernels of a cubin or a fatbin, of every architecture for which it has machine code."""
    usage, arch = {}, ""
    for line in sass.dumped(binary, "--dump-resource-usage").splitlines():
        if found := re.match(r"\s*arch = (sm_\w+)", line):
            arch = found[1]
        elif found := re.match(r"\s*Function (\w+):", line):
            name = found[1]
        elif "REG:" in line:
            usage[name, arch] = {key: int(value) for key, value in re.findall(r"(\w+):(\d+)", line)}
    for elf in sass.dumped(binary, "--dump-sass").split("Fatbin elf code:"):
        found = re.search(r"arch = (sm_\w+)", elf) or re.search(r"EF_CUDA_SM(\d+)", elf)
        for function in re.split(r"\n\s*Function : ", elf)[1:]:
            name = function.split()[0]
            (key,) = [k for k in usage if k[0] == name and (found is None or k[1] in ("", found[1]))]
            codes, used = sass.opcodes(function), usage[key]
            spills = sass.spills(codes)
            failed = "spills" if spills or used["STACK"] else ""
            yield Row(
                binary.stem.split("-")[0], name, key[1], used["REG"], spills, used["STACK"], used["SHARED"],
                len(codes), sass.fused(codes), failed,
            )  # fmt: skip


def by_nvrtc(source: str, arch: int) -> Iterator[Row]:
    """The kernels of a source, compiled through CuPy for an architecture, and not from the cache."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        binary = Path(folder, f"{source}.cubin")
        binary.write_bytes(cuda.compiled(source, divmod(arch, 10)))
        for row in inspected(binary):
            yield Row(**asdict(row) | {"arch": f"sm_{arch}"})


def sources() -> list[str]:
    """The CUDA sources, as they were installed."""
    return sorted(path.stem for path in (cuda.SHIPPED / "csrc" / "cuda").glob("*.cu"))


def _compiler(nvrtc: bool) -> str:
    if nvrtc:
        return "NVRTC {}.{}".format(*cuda._nvrtc().getVersion())
    said = subprocess.run(["nvcc", "--version"], capture_output=True, text=True, check=True).stdout
    return f"nvcc {found[1]}" if (found := re.search(r"V([\d.]+)", said)) else "nvcc"


def main(
    nvrtc: bool = False,
    arch: tuple[int, ...] = (80, 90),
    json_file: Path | None = None,
    record: Path | None = None,
) -> None:
    """Prints what the kernels became.

    Args:
        nvrtc: Compile with NVRTC, through CuPy, instead of reading what nvcc made.
        arch: Compute capabilities for NVRTC, for example 80 90.
        json_file: Where to write the table.
        record: Such a table of NVRTC's, for what need not be compiled again.
    """
    keys: dict[str, str] = {}
    caption = None
    if nvrtc:
        wanted = {f"{source} sm_{a}": (source, a) for source in sources() for a in arch}
        keys = {case: cuda.made_of(source, divmod(a, 10)) for case, (source, a) in wanted.items()}
        rows = [Row(**row) for row in recorded(record, keys, "{source} {arch}".format_map)] if record else []
        known = {f"{row.source} {row.arch}" for row in rows}
        left = [case for case in wanted if case not in known]
        rows += [row for case in left for row in by_nvrtc(*wanted[case])]
        caption = f"compiled now: {', '.join(left) or 'nothing'}"
    else:
        rows = [row for source in sources() for row in inspected(cuda.SHIPPED / f"{source}.fatbin")]
    # nvcc is asked for its version only where that is written: its fatbins can be read without it.
    versions = {"neurokernels": neurokernels.__version__, "compiler": _compiler(nvrtc)} if json_file else {}
    report(Row, rows, lambda row: f"{row.kernel}, {row.arch}", versions, keys, caption, json_file)


if __name__ == "__main__":
    tyro.cli(main)
