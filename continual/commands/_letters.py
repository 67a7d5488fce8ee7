"""`continual events dead-letters`: events that did not fit."""

from __future__ import annotations

import json
import math
import re
import sys
from typing import Any

import click

from continual.commands._shared import (
    Problem,
    connected,
    examples,
    json_option,
    say,
    show_either,
    show_table,
    target_option,
)


@click.group(name="dead-letters")
def dead_letters() -> None:
    """Events that did not fit: why, their bytes, and another try.

    A message of a source that is no event of the model is kept here with the reason, and the source goes on. So is an
    event that stopped the fold (its id begins with q and its partition); it stays, since every replay has to pass over
    it.
    """


def _letter(one: Any) -> dict[str, Any]:
    return {
        "id": one.id,
        "producer": one.producer,
        "partition": one.partition,
        "number": one.number,
        "reason": one.reason,
        "payload": one.payload.decode(errors="backslashreplace"),
        "bytes": len(one.payload),
        "beside": json.loads(one.beside or "{}"),
    }


@dead_letters.command(name="list")
@click.option("--model", required=True, help="Name of the model.")
@click.option("--after", default="", metavar="ID", help="Begin after this one.")
@click.option("--count", type=click.IntRange(1, 1000), default=20, show_default=True, help="At most so many.")
@target_option
@json_option
def list_letters(model: str, after: str, count: int, target: str, as_json: bool) -> None:
    """List what did not fit, the oldest first."""
    with connected(target) as client:
        found = client.models.dead_letters(model, after, count)
    held = {"total": found.total, "dead_letters": [_letter(one) for one in found.letters]}

    def people() -> None:
        if not found.letters:
            say("None." if not after else f"None after {after}.")
            return
        rows = [[one.id, _whence(one), str(one.number), _short(one.reason)] for one in found.letters]
        show_table(["id", "from", "number", "reason"], rows, title=f"{len(rows)} of {found.total:,}")

    show_either(held, as_json, people)


def _whence(one: Any) -> str:
    return one.producer or f"partition {one.partition}"


def _short(text: str) -> str:
    return text if len(text) <= 160 else text[:157] + "..."


def _one(client: Any, model: str, id: str) -> Any:
    """A letter by its id; asked for as the one after the id just before it."""
    parts = re.fullmatch(r"(q\d+:)?(\d+)-(\d+)", id)
    if parts is None:
        raise Problem(f"{id!r} is no id of a dead letter; `continual events dead-letters list` shows them", 2)
    partition, mark, number = parts[1] or "", int(parts[2]), int(parts[3])
    before = partition + (f"{mark}-{number - 1}" if number else f"{max(0, mark - 1)}-{2**64 - 1}")
    found = [one for one in client.models.dead_letters(model, before, 1).letters if one.id == id]
    if not found:
        raise Problem(f"model {model!r} has no dead letter {id}")
    return found[0]


@dead_letters.command(name="show")
@click.argument("id")
@click.option("--model", required=True, help="Name of the model.")
@click.option("--raw", is_flag=True, help="Only the bytes, as they came.")
@target_option
@json_option
def show_letter(id: str, model: str, raw: bool, target: str, as_json: bool) -> None:
    """Show one: the reason and the original bytes; of an event that stopped the fold what it says."""
    with connected(target) as client:
        one = _one(client, model, id)
        event = _said(_spec(client, model), one) if one.partition else None
    if raw:
        sys.stdout.buffer.write(one.payload)
        return

    def people() -> None:
        say(f"{one.id}: {_whence(one)}, number {one.number}")
        say(f"reason: {one.reason}")
        if one.beside not in ("", "{}"):
            say(f"beside: {one.beside}")
        if event is not None:
            say(f"event: {json.dumps(event, ensure_ascii=False)}")
            return
        say(f"payload, {len(one.payload):,} bytes:")
        say(one.payload.decode(errors="backslashreplace"))

    show_either(_letter(one) | ({} if event is None else {"event": event}), as_json, people)


def _spec(client: Any, model: str) -> Any:
    from learners.spec import ModelSpec

    return ModelSpec.stored(client.models.get(model).spec_json)


def _said(spec: Any, one: Any) -> dict[str, Any] | None:
    """Features, key and time of an event that stopped the fold; None of one that was kept with others."""
    from service.wire import Schema, decode_columns

    made = _logged_event(spec, one, None)
    if isinstance(made, str):
        return None
    batch = decode_columns(made[0], Schema.of(spec))
    values = {feature.name: value for feature, value in zip(spec.features, batch.x[0].tolist())}
    features = {name: value for name, value in values.items() if not math.isnan(value)}
    return {"features": features, "key": batch.key[0].decode(errors="backslashreplace"), "time": int(batch.time[0])}


@dead_letters.command(
    epilog=examples(
        "continual events dead-letters retry 1763712000000-0 --model payments",
        "continual events dead-letters retry 1763712000000-0 --model payments --payload '{\"amount\": 12}'",
        "continual events dead-letters retry --all --model payments",
    )
)
@click.argument("ids", nargs=-1, metavar="ID...")
@click.option("--model", required=True, help="Name of the model.")
@click.option("--all", "everything", is_flag=True, help="Every message of a source that is kept now.")
@click.option("--payload", metavar="JSON", help="The event as it should have been, instead of what came.")
@target_option
@json_option
def retry(
    ids: tuple[str, ...], model: str, everything: bool, payload: str | None, target: str, as_json: bool
) -> None:
    """Send again what did not fit: now the last event of the model, it enters the log once, and the letter goes.

    What still does not fit stays, with the reason. Ends with 1 if anything stayed. An event that stopped the fold is
    sent as it was logged (mend its learner first); its letter is kept, however often it is sent again.
    """
    if bool(ids) == everything:
        raise Problem("name one or more ids, or give --all", 2)
    if payload is not None and len(ids) != 1:
        raise Problem("--payload is for one id", 2)
    with connected(target) as client:
        spec = _spec(client, model)
        letters = _every(client, model) if everything else [_one(client, model, id) for id in ids]
        outcomes = [_again(client, spec, one, payload) for one in letters]
    stayed = [one for one in outcomes if not one["sent"]]

    def people() -> None:
        for one in stayed:
            say(f"{one['id']} stays: {_short(one['reason'])}")
        say(f"{len(outcomes) - len(stayed)} sent, {len(stayed)} stayed.")

    show_either({"outcomes": outcomes}, as_json, people)
    if stayed:
        raise SystemExit(1)


def _every(client: Any, model: str) -> list[Any]:
    letters: list[Any] = []
    while page := client.models.dead_letters(model, letters[-1].id if letters else "", 1000).letters:
        letters += page
    return [one for one in letters if one.producer]


def _again(client: Any, spec: Any, one: Any, payload: str | None) -> dict[str, Any]:
    """Sends a letter under a name of its own."""
    from service.client import Numbered

    made = _logged_event(spec, one, payload) if one.partition else _parsed(spec, one, payload)
    if isinstance(made, str):
        return {"id": one.id, "sent": False, "reason": made}
    columns, numbers = made
    for _ in client.learn(spec.name, [Numbered(columns, f"dead-letter:{one.id}", 0, 1, numbers)]):
        if not one.partition:
            client.models.drop_dead_letter(spec.name, one.id)
    return {"id": one.id, "sent": True}


def _logged_event(spec: Any, one: Any, payload: str | None) -> tuple[Any, Any] | str:
    """The columns of an event that stopped the fold; or why it cannot be sent."""
    from service.api import continual_v1_pb2 as pb
    from service.shard.requests import LEARN
    from service.wire import Schema, decode_event, encode_columns

    if payload is not None:
        return "it was logged, and is sent as it was: --payload is for a message of a source"
    if one.payload[:1] == LEARN:
        columns = pb.LearnRequest.FromString(one.payload[1:]).columns
        return (columns, None) if columns.rows == 1 else "it was kept with all of its batch, by an older version"
    event, schema = pb.UpdateRequest.FromString(one.payload[1:]).event, Schema.of(spec)
    return encode_columns(decode_event(event, schema), schema.target, [event.id]), None


def _parsed(spec: Any, one: Any, payload: str | None) -> tuple[Any, Any] | str:
    """The columns of a message by the mapping of its source, and their numbers; or why there are none."""
    from learners.spec import source_mapping
    from service.wire import Schema, encode_columns
    from streams.sources.arrow import MOST_ROWS, ArrowParser
    from streams.sources.messages import MessageParser, Messages
    from streams.sources.reader import Rows

    whole = (one.producer, one.producer.rpartition("/")[0])
    source = next((held for held in spec.deployment.sources if held.producer in whole), None)
    if source is None:
        return "no source of the model has this identity"
    value: Any = one.payload if payload is None else payload.encode()
    if getattr(source, "payload", "") is None:
        value = _fields(value)
    mapping, messages = source_mapping(spec, source), Messages.single(value, one.beside or "{}")
    envelope = getattr(source, "envelope", "plain")
    if envelope == "arrow" and payload is None:
        rows = ArrowParser(mapping, MOST_ROWS).parse(messages)[0]
    else:  # a mended row, of a file or of many in a message, is a JSON object
        envelope = "plain" if envelope == "arrow" else envelope
        rows = Rows.of(messages, MessageParser(mapping, envelope, source.fields.label_as).parse(messages))
    if rows.batch is None:
        return str(rows.bad[0][1])
    return encode_columns(rows.batch, Schema.of(spec).target, rows.ids), rows.numbers


def _fields(value: bytes) -> dict[bytes, bytes] | None:
    """The fields of an entry without payload, from the JSON that a letter keeps of them; None if it is none."""
    try:
        held = json.loads(value)
    except ValueError:
        return None
    if not isinstance(held, dict):
        return None
    return {name.encode(): str(content).encode() for name, content in held.items()}
