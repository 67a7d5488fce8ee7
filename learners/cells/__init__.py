"""Recurrent cells: spec, initial weights and sizes of each, one file per cell beside its compiled form.

The recurrences themselves are in `kernels.cpu.cells` and `kernels.reference.cells`, under the same names.
"""

from learners.cells.base import CellSpec

__all__ = ["CellSpec"]
