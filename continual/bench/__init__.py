"""`continual bench`: every figure that the documentation quotes, printed by a command.

A benchmark is a module of this package with a click command of the module's name. It checks what it is about to time
before it prints a ratio, and hands its rows to `continual.bench.report`.
"""

from __future__ import annotations

import importlib
import pkgutil

import click


class Benchmarks(click.Group):
    """One command per module of this package that defines one of its own name."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of the benchmarks."""
        names = [module.name for module in pkgutil.iter_modules(__path__)]
        return sorted(name for name in names if name not in ("report",) and not name.startswith("_"))

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """The benchmark of that name, or None."""
        if name not in self.list_commands(ctx):
            return None
        return getattr(importlib.import_module(f"{__name__}.{name}"), name)


@click.group(cls=Benchmarks)
def bench() -> None:
    """Measure: speed against peers, accuracy on real streams, faults survived."""
