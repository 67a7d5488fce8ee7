"""Every benchmark that compares, one after the other, each in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click

ORDER = ("cost", "files", "accuracy", "start", "recovery", "serving")


@click.command()
@click.option(
    "--out", type=click.Path(path_type=Path), help="Folder for NAME.json and NAME.md; nothing is written without."
)
@click.option("--stream", type=click.Choice(["elec2", "shuttle"]), default="elec2", show_default=True)
@click.option("--only", multiple=True, type=click.Choice(ORDER), help="Just this one; may be repeated.")
def all(out: Path | None, stream: str, only: tuple[str, ...]) -> None:
    """Run the benchmarks of cost, files, accuracy, start, recovery and serving at their full size.

    Ends with 1 when one of them failed, after the others.
    """
    failed = []
    for name in only or ORDER:
        command = [sys.executable, "-m", "continual.cli", "bench", name, "--stream", stream]
        if subprocess.run(command + (["--out", str(out)] if out else []), check=False).returncode:
            failed.append(name)
    if failed:
        raise click.ClickException(f"failed: {', '.join(failed)}")
