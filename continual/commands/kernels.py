"""`continual kernels`: what the fused numerics do on this machine."""

from __future__ import annotations

import click

from continual.bench.kernels import kernels as bench


@click.group()
def kernels() -> None:
    """The fused numerics: measure them on this machine."""


kernels.add_command(bench, "bench")
