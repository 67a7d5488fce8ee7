"""The command line, `continual`."""

from __future__ import annotations

import importlib
import logging

import click

from streams.printable import LineFormatter

COMMANDS = {
    "serve": ("continual.commands.serve", "Run the service: store, shards and the gRPC port."),
    "demo": ("continual.commands.demo", "See it work, and survive the kill of a shard."),
    "bench": ("continual.bench", "Measure speed, accuracy and faults survived."),
    "data": ("continual.commands.data", "List, fetch and check data sets."),
    "models": ("continual.commands.models", "Create, list, inspect, snapshot and delete models."),
    "events": ("continual.commands.events", "Send a file, or fold one; look at what did not fit."),
    "kernels": ("continual.commands.kernels", "Measure the fused numerics on this machine."),
    "doctor": ("continual.commands.doctor", "Check this machine and say what to do."),
}
"""Command -> module whose attribute of the same name is the click command, and its line in `--help`.

The module is imported when the command is called, and not for the list of commands."""


class Lazy(click.Group):
    """Imports a command's module when it is needed, so that `--help` is quick."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Commands in the order of `COMMANDS`."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """The command of that name, or None."""
        if name not in COMMANDS:
            return None
        return getattr(importlib.import_module(COMMANDS[name][0]), name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands, from `COMMANDS` alone."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


@click.group(cls=Lazy, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="continual")
def main() -> None:
    """Learners that update on every event: served over gRPC, durable in Redis.

    Begin with `continual demo`, or with `continual serve` in one terminal and `continual models create` and
    `continual events send` in another.
    """
    assert logging.lastResort is not None
    logging.lastResort.setFormatter(LineFormatter("%(message)s"))  # what a command logs goes to the terminal


if __name__ == "__main__":
    main()
