"""`continual models split | move | merge | rebalance`: which shard has which keys of a model."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import click

from continual.commands._shared import connected, examples, json_option, say, show_either, show_table, target_option

CHANGE_SECONDS = 600.0


@click.command(
    epilog=examples("continual models split payments", "continual models split payments --into 4 --to shard-1")
)
@click.argument("name")
@click.option("--partition", default="", help="Id of the partition.  [default: the widest]")
@click.option("--into", default=2, show_default=True, type=click.IntRange(2, 256), help="Number of pieces.")
@click.option(
    "--to",
    "shards",
    multiple=True,
    metavar="SHARD",
    help="Shard for a piece; several take the pieces in turn.  [default: the first stays, others where the fewest are]",
)
@target_option
@json_option
def split(name: str, partition: str, into: int, shards: tuple[str, ...], target: str, as_json: bool) -> None:
    """Cut a partition of a model in pieces that learn on apart, each from the weights of now.

    The keys are dealt out by their hash. From now on each piece learns from its keys alone: more events a second, and a
    model per piece.
    """
    with connected(target) as client:
        done = client.models.split(name, partition, into, shards, timeout=CHANGE_SECONDS)
    _show(name, done, as_json)


@click.command()
@click.argument("name")
@click.argument("partition")
@click.option("--to", "shard", default="", help="Shard that takes it.  [default: the one with the fewest]")
@target_option
@json_option
def move(name: str, partition: str, shard: str, target: str, as_json: bool) -> None:
    """Give a partition of a model to another shard."""
    with connected(target) as client:
        done = client.models.move(name, partition, shard, timeout=CHANGE_SECONDS)
    _show(name, done, as_json)


@click.command()
@click.argument("name")
@click.argument("first")
@click.argument("second")
@target_option
@json_option
def merge(name: str, first: str, second: str, target: str, as_json: bool) -> None:
    """Make one of two neighbouring partitions, on the shard of the FIRST.

    The weights of the one that has folded more events stay, those of the other are given up; the rows of all keys are
    kept.
    """
    with connected(target) as client:
        done = client.models.merge(name, first, second, timeout=CHANGE_SECONDS)
    _show(name, done, as_json)


@click.command()
@click.argument("name", required=False, default="")
@target_option
@json_option
def rebalance(name: str, target: str, as_json: bool) -> None:
    """Move partitions (of all models, or of one) until no shard has two more than another."""
    with connected(target) as client:
        done = client.models.rebalance(name, timeout=CHANGE_SECONDS)
    held = {"moved": [described(part) for part in done.partitions], "seconds": done.seconds}

    def people() -> None:
        if not done.partitions:
            say("Nothing to move.")
            return
        show_table(["model", "partition", "shard"], [[part.model, part.id, part.shard] for part in done.partitions])

    show_either(held, as_json, people)


def _show(name: str, done: Any, as_json: bool) -> None:
    held = {"name": name, "partitions": [described(part) for part in done.partitions], "seconds": done.seconds}

    def people() -> None:
        show_partitions(done.partitions)
        say(f"The partitions concerned took no events for {done.seconds:.2f} s.")

    show_either(held, as_json, people)


def described(part: Any) -> dict[str, Any]:
    """A partition as JSON shows it; hashes as text, since not every reader of JSON has 64 bits."""
    plain = {name: getattr(part, name) for name in ("model", "id", "shard", "address", "state", "start")}
    plain |= {"reason": part.reason} if part.reason else {}
    return plain | {"first_hash": f"{part.first_hash:016x}", "last_hash": f"{part.last_hash:016x}"}


def show_partitions(partitions: Iterable[Any]) -> None:
    """A table of partitions."""
    rows = [[p.id, f"{p.first_hash:016x} - {p.last_hash:016x}", p.shard, p.address, p.state] for p in partitions]
    show_table(["partition", "key hashes", "shard", "address", "state"], rows)
