"""The benchmark harness: races between rows that are right, records of them, and a report.

``pytest --benchmark`` runs the races of ``benchmarks/``; ``python -m neurokernels.bench report`` makes tables and plots
of what they left.
"""

from neurokernels.bench.goals import Goal, at_least, at_most, bandwidth, faster, within
from neurokernels.bench.kernels import kernels
from neurokernels.bench.memory import available, leaf_calls, saved_bytes
from neurokernels.bench.race import Absent, Gate, Row, race
from neurokernels.bench.results import GoalResult, Group, Machine, Results, RowResult, Trace, load, save

__all__ = [
    "Absent",
    "Gate",
    "Goal",
    "GoalResult",
    "Group",
    "Machine",
    "Results",
    "Row",
    "RowResult",
    "Trace",
    "at_least",
    "at_most",
    "available",
    "bandwidth",
    "faster",
    "kernels",
    "leaf_calls",
    "load",
    "race",
    "save",
    "saved_bytes",
    "within",
]
