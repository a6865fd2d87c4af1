"""The machine code of the CUDA kernels: registers, shared memory, spills, instructions.

    python tools/inspect_cuda.py [--nvrtc [--arch 80 90] [--record FILE]] [--json-file FILE]

Reads the fatbins that nvcc made when neurokernels was installed (sm_80 and sm_90), or, with ``--nvrtc``, compiles the
sources as a machine without nvcc does at first use, through CuPy. A record of an earlier run spares what would be
compiled from the same sources and headers by the same NVRTC. Needs no GPU. Exits with 1 if a kernel spills.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import tyro
from rich.console import Console
from rich.table import Table

import neurokernels
import sass
from neurokernels._core import cuda


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


def recorded(file: Path, keys: dict[str, str]) -> list[Row]:
    """The rows of a record that are of what would be compiled now."""
    record = json.loads(file.read_text())
    current = {name for name, made_of in keys.items() if record["keys"].get(name) == made_of}
    return [Row(**row) for row in record["rows"] if f"{row['source']} {row['arch']}" in current]


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
    spared = None
    if nvrtc:
        keys = {f"{source} sm_{a}": cuda.made_of(source, divmod(a, 10)) for source in sources() for a in arch}
        rows = recorded(record, keys) if record else []
        known = {(row.source, row.arch) for row in rows}
        left = [(source, a) for source in sources() for a in arch if (source, f"sm_{a}") not in known]
        rows += [row for source, a in left for row in by_nvrtc(source, a)]
        spared = f"compiled now: {', '.join(f'{source} sm_{a}' for source, a in left) or 'nothing'}"
    else:
        rows = [row for source in sources() for row in inspected(cuda.SHIPPED / f"{source}.fatbin")]
    table = Table(*(name.replace("_", " ") for name in Row.__dataclass_fields__), caption=spared)
    for row in rows:
        table.add_row(*map(str, asdict(row).values()), style="red" if row.failed else None)
    Console(width=None if sys.stdout.isatty() else 160).print(table)
    if json_file is not None:
        versions = {"neurokernels": neurokernels.__version__, "compiler": _compiler(nvrtc)}
        json_file.parent.mkdir(parents=True, exist_ok=True)
        made = {"versions": versions, "keys": keys, "rows": [asdict(row) for row in rows]}
        json_file.write_text(json.dumps(made, indent=1) + "\n")
    if any(row.failed for row in rows):
        sys.exit("; ".join(f"{row.kernel}, {row.arch}: {row.failed}" for row in rows if row.failed))


if __name__ == "__main__":
    tyro.cli(main)
