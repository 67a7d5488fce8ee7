"""`continual bench`: every figure that the documentation quotes, printed by a command.

A benchmark is a module of this package with a click command of the module's name. It checks what it is about to time
before it prints a ratio, and hands its rows to `continual.bench.report`. Any other name is that of a scenario of
`continual.scenarios`, or of a file with a stream.
"""

from __future__ import annotations

import importlib
import pkgutil

import click


class Benchmarks(click.Group):
    """One command per module of this package that defines one of its own name, and one per scenario."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of the benchmarks."""
        names = [module.name for module in pkgutil.iter_modules(__path__)]
        return sorted(name for name in names if name not in ("report",) and not name.startswith("_"))

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """The benchmark or the scenario of that name, or None."""
        if name in self.list_commands(ctx):
            return getattr(importlib.import_module(f"{__name__}.{name}"), name)
        from continual.scenarios import catalog, command

        return command.command(name) if catalog.is_scenario(name) else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The benchmarks, then the scenarios by data set."""
        super().format_commands(ctx, formatter)
        from continual.scenarios import catalog, streams

        with formatter.section("Scenarios"):
            kinds = [(f"{data}-...", ", ".join(held)) for data, (held, _) in catalog.KINDS_OF.items()]
            formatter.write_dl([*kinds, ("...-stream", ", ".join(streams.STREAMS))])
            formatter.write_dl([("FILE", "A stream of one's own: .csv, .tsv, .jsonl or .parquet.")])


@click.group(cls=Benchmarks)
def bench() -> None:
    """Measure: speed against peers, accuracy on real streams, faults survived."""
