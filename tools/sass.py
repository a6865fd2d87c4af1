"""Machine code read back: resources and opcodes of cubins and fatbins, by the disassembler that comes with Triton."""

import os
import re
import subprocess
from pathlib import Path

import triton

_OPCODE = re.compile(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)", re.MULTILINE)


def dumped(binary: Path, *options: str) -> str:
    """What cuobjdump says of a binary."""
    tools = triton.knobs.nvidia
    path = os.pathsep.join((str(Path(tools.nvdisasm.path).parent), os.environ["PATH"]))
    run = [tools.cuobjdump.path, *options, str(binary)]
    return subprocess.run(run, env=os.environ | {"PATH": path}, capture_output=True, text=True, check=True).stdout


def opcodes(text: str) -> list[str]:
    """The opcodes in a listing of machine code, in order."""
    return _OPCODE.findall(text)


def fused(codes: list[str]) -> int:
    """How many of them are fused multiply-adds."""
    return sum(code.startswith(("FFMA", "DFMA")) for code in codes)


def spills(codes: list[str]) -> int:
    """How many of them go to a thread's local memory."""
    return sum(code.startswith(("STL", "LDL")) for code in codes)
