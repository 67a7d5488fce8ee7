"""What commands have in common: options, errors in one line, tables and JSON."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import click

from streams.printable import printable, printable_json

DEFAULT_PORT = 50051
DEFAULT_TARGET = f"127.0.0.1:{DEFAULT_PORT}"

INTERRUPTED = 130


class Problem(click.ClickException):
    """Ends the command with one line and an exit code.

    Args:
        message: what is the case, and what to do.
        code: exit code.
    """

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(printable(message))
        self.exit_code = code  # type: ignore[misc]


def examples(*lines: str) -> str:
    """The end of a command's help: lines to type, kept as they are."""
    return "\n\n".join(["Examples:", "\n".join(["\b", *(f"  {line}" for line in lines)])])


def target_option(command: Any) -> Any:
    """The option `--target`."""
    return click.option(
        "--target",
        default=DEFAULT_TARGET,
        envvar="CONTINUAL_TARGET",
        show_default=True,
        show_envvar=True,
        metavar="HOST:PORT",
        help="Any shard of the service.",
    )(command)


def target_note(target: str) -> str:
    """What a command that is printed needs to reach the same service: nothing where that is what it does anyway."""
    usual = os.environ.get("CONTINUAL_TARGET") or DEFAULT_TARGET
    return "" if target == usual else f" --target {target}"


def json_option(command: Any) -> Any:
    """The option `--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")(command)


@contextmanager
def plain_errors(target: str = "") -> Iterator[None]:
    """Turns what a user can cause into one line; anything else keeps its traceback.

    Args:
        target: the service that was called, for the message when nobody answers there.
    """
    try:
        yield
    except (click.ClickException, click.Abort):
        raise
    except Exception as error:
        message = explain(error, target)
        if message is None:
            raise
        raise Problem(message) from error


def explain(error: Exception, target: str = "") -> str | None:
    """One line (for a spec: one for each field) for an error of the input or the service; None for another."""
    from pydantic import ValidationError
    from yaml import YAMLError

    from service.errors import Refused

    if isinstance(error, Refused):
        if error.reason in ("UNAVAILABLE", "DEADLINE_EXCEEDED") and target:
            return f"nobody answers at {target}: start a service with `continual serve`, or name another with --target"
        hint = "; `continual models list` shows those there are" if error.reason == "MODEL_NOT_FOUND" else ""
        return f"{error.message} ({error.code.name} {error.reason}){hint}"
    if isinstance(error, ValidationError):
        return "; ".join(map(_of_field, error.errors(include_url=False)))
    if isinstance(error, YAMLError):
        return f"not YAML: {' '.join(str(error).split())}"
    return str(error) if isinstance(error, ValueError | OSError) else None


def _of_field(item: Any) -> str:
    from service.shard.specs import accepted

    field, text = ".".join(map(str, item["loc"])) or "spec", accepted(item)
    if item["type"] == "value_error":  # it names the value
        return f"{field}: {text}"
    return f"{field}: got {'nothing' if item['type'] == 'missing' else _short(item['input'])}; accepted: {text}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


@contextmanager
def connected(target: str) -> Iterator[Any]:
    """A client of the service at `target`; errors in one line."""
    with plain_errors(target):
        from service.client import Client

        with Client(target) as client:
            yield client


def say(line: str = "") -> None:
    """Prints one line, whatever the texts in it hold."""
    click.echo(printable(line))


def show_yaml(value: Any) -> None:
    """Prints a value as YAML; texts that must not be printed as they are stand in escapes."""
    from learners.yaml12 import to_yaml

    text = to_yaml(value)
    if printable(text.replace("\n", "")) != text.replace("\n", ""):
        text = to_yaml(value, escaped=True)
    click.echo(text, nl=False)


def show_json(value: Any) -> None:
    """Prints a value as JSON; numbers that JSON has not (NaN) become null."""
    click.echo(printable_json(json.dumps(_finite(value), indent=2, ensure_ascii=False, default=str)))


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _finite(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def show_table(columns: Iterable[str], rows: Iterable[Iterable[Any]], title: str | None = None) -> None:
    """Prints a table; columns of numbers stand right."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title and Text(printable(title)), title_justify="left", header_style="bold")
    held = [list(row) for row in rows]
    for place, column in enumerate(columns):
        numbers = bool(held) and all(isinstance(row[place], int | float) for row in held)
        table.add_column(column, justify="right" if numbers else "left", overflow="fold")
    for row in held:
        table.add_row(*(Text(printable(text_of(value))) for value in row))  # no markup in the texts of others
    Console().print(table)


def text_of(value: Any) -> str:
    """A value for a table: thousands apart, four digits of a fraction."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return "-" if math.isnan(value) else f"{value:.4f}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def show_either(value: Mapping[str, Any], as_json: bool, people: Callable[[], None]) -> None:
    """Prints `value` as JSON, or does what is meant for people."""
    if as_json:
        show_json(value)
    else:
        people()
