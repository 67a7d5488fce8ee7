"""The command line, `continual`."""

from __future__ import annotations

import importlib

import click

COMMANDS = {
    "serve": "continual.commands.serve",
    "demo": "continual.commands.demo",
    "bench": "continual.bench",
    "models": "continual.commands.models",
    "events": "continual.commands.events",
    "doctor": "continual.commands.doctor",
}
"""Command -> module whose attribute of the same name is the click command; imported when it is called."""


class Lazy(click.Group):
    """Imports a command's module when it is needed, so that `--help` is quick."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Commands in the order of `COMMANDS`."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """The command of that name, or None."""
        if name not in COMMANDS:
            return None
        return getattr(importlib.import_module(COMMANDS[name]), name)


@click.group(cls=Lazy, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="continual")
def main() -> None:
    """Learners that update on every event: served over gRPC, durable in Redis."""


if __name__ == "__main__":
    main()
