"""The command line: ``neurokernels train spiking``, ``neurokernels data mnist``, ``neurokernels info``."""

import sys
from collections.abc import Sequence
from importlib import import_module

from neurokernels.trainers import TRAINERS

_USAGE = f"""usage: neurokernels COMMAND ...

  train {{{",".join(TRAINERS)}}}   train a paper's network and draw a report; --help lists the settings
  data [NAME]       list the data sets, or fetch one into the cache
  info              versions, instruction set, GPUs, and which backend runs which op
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit status: 2 for what the user can mend, 128 + signal when interrupted."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    command, rest = (words[0], words[1:]) if words else ("", [])
    if command in ("-h", "--help"):
        print(_USAGE, end="")
        return 0
    if command not in _COMMANDS:
        return _refuse(f"{_USAGE}\nthere is no command {command!r}" if command else _USAGE.rstrip())
    try:
        return _COMMANDS[command](rest)
    except KeyboardInterrupt:
        return 130


def _train(words: Sequence[str]) -> int:
    if not words or words[0] not in TRAINERS:
        named = f"there is no trainer {words[0]!r}" if words else "which trainer?"
        return _refuse(f"neurokernels train: {named}; trainers: {', '.join(TRAINERS)}")
    try:
        from neurokernels import BackendError
        from neurokernels.trainers.loop import Interrupted

        trainer = import_module(TRAINERS[words[0]])
    except ModuleNotFoundError as missing:
        return _refuse(f"neurokernels train needs {missing.name}: pip install 'neurokernels[train]'")
    try:
        return int(trainer.main(words[1:]))
    except Interrupted as stop:
        print(f"\nstopped in {stop}; the same command with --resume goes on from there", file=sys.stderr)
        return 128 + stop.number
    except (OSError, BackendError) as why:  # DataError and RunError too: written for the user
        return _refuse(str(why))


def _data(words: Sequence[str]) -> int:
    from neurokernels import data

    if not words:
        print("\n".join(data.names()))
        return 0
    try:
        for name in words:
            data.load(name)
    except (OSError, ValueError) as why:
        return _refuse(str(why))
    return 0


def _info(words: Sequence[str]) -> int:
    from neurokernels.info import describe

    print(describe())
    return 0


def _refuse(text: str) -> int:
    print(text, file=sys.stderr)
    return 2


_COMMANDS = {"train": _train, "data": _data, "info": _info}
