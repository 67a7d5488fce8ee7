"""`continual models`: the models of a running service."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import click

from continual.commands import _partitions
from continual.commands._shared import (
    Problem,
    connected,
    examples,
    json_option,
    plain_errors,
    say,
    show_either,
    show_json,
    show_table,
    show_yaml,
    target_note,
    target_option,
)


@click.group()
def models() -> None:
    """Create, list, inspect, snapshot, split and delete the models of a service."""


for command in (_partitions.split, _partitions.move, _partitions.merge, _partitions.rebalance):
    models.add_command(command)


@models.command(
    epilog=examples(
        "continual models create examples/shuttle.yaml",
        "continual models create flights --from flights.csv --label delayed --dry-run > flights.yaml",
    )
)
@click.argument("what", metavar="SPEC.yaml | NAME")
@click.option("--from", "source", metavar="FILE", help="Propose a spec that fits this file (or river:NAME).")
@click.option("--label", metavar="COLUMN", help="With --from: the column to predict.")
@click.option("--key", metavar="COLUMN", help="With --from: the column that names the entity.")
@click.option("--time", metavar="COLUMN", help="With --from: the column with the event time.")
@click.option("--dry-run", is_flag=True, help="Print the spec and create nothing.")
@target_option
@json_option
def create(what: str, source: str | None, dry_run: bool, target: str, as_json: bool, **roles: str | None) -> None:
    """Create a model from a spec file, or from the look of a data file."""
    with plain_errors():
        spec, notes = _proposed(what, source, roles) if source else (_from_file(what, roles), [])
        from learners.spec import ModelSpec

        model = ModelSpec.model_validate(spec)
    if dry_run:
        _print_spec(spec if not as_json else model.model_dump(mode="json"), notes, as_json)
        return
    with connected(target) as client:
        created = client.models.create(model)
    if as_json:
        show_json(_described(created))
        return
    for note in notes:
        say(note)
    kinds = f"{model.target.kind} target, {model.learner.kind} learner"
    say(f"Created {model.name}: {len(model.features)} features, {kinds}.")
    sending = f"continual events send {source or 'FILE'} --model {model.name}{_label_note(source, roles)}"
    say(f"Next:  {sending}{target_note(target)}")


def _label_note(source: str | None, roles: dict[str, str | None]) -> str:
    if source is None or source.startswith("river:"):
        return ""
    return "".join(f" --{part} {column}" for part, column in roles.items() if column)


def _proposed(name: str, source: str, roles: dict[str, str | None]) -> tuple[dict[str, Any], list[str]]:
    from continual.commands._sources import propose

    if roles["label"] is None and not source.startswith("river:"):
        raise Problem("--from needs --label: the column to predict", 2)
    spec, found = propose(name, source, **roles)
    if found is None:
        return spec, []
    notes = [f"looked at {found.rows:,} rows of {source}"]
    if found.ignored:
        notes.append(f"not used (not numeric): {', '.join(found.ignored)}")
    return spec, notes


def _from_file(path: str, roles: dict[str, str | None]) -> dict[str, Any]:
    from learners.yaml12 import from_yaml

    if any(roles.values()):
        raise Problem("--label, --key and --time belong to --from FILE; a spec file says all by itself", 2)
    if not Path(path).is_file():
        instead = f"models create {path} --from FILE --label COLUMN"
        raise Problem(f"{path}: no such spec file; to propose a spec for a data file: {instead}", 2)
    spec = from_yaml(Path(path).read_text())
    if not isinstance(spec, dict):
        instead = f"models create NAME --from {path} --label COLUMN"
        raise Problem(f"{path}: no spec, which is YAML with fields; to propose one for a data file: {instead}", 2)
    return spec


def _print_spec(spec: dict[str, Any], notes: list[str], as_json: bool) -> None:
    if as_json:
        show_json(spec)
        return
    for note in notes:
        say(f"# {note}")
    show_yaml(spec)


def _described(model: Any) -> dict[str, Any]:
    return {
        "name": model.name,
        "state": model.state,
        "position": model.position,
        "snapshot_position": model.snapshot_position,
        "partitions": [_partitions.described(part) for part in model.partitions],
        "spec": json.loads(model.spec_json),
    }


@models.command(name="list")
@target_option
@json_option
def list_models(target: str, as_json: bool) -> None:
    """List the models."""
    with connected(target) as client:
        held = [_described(client.models.get(model.name)) for model in client.models.list()]

    def people() -> None:
        if not held:
            say("No models yet: continual models create --help")
            return
        rows = []
        for one in held:
            spec = one["spec"]
            shape = [spec["target"]["kind"], len(spec["features"])]
            at = [one["position"], one["snapshot_position"], len(one["partitions"]), one["state"]]
            rows.append([one["name"], *shape, *at])
        show_table(["model", "target", "features", "events", "snapshot at", "partitions", "state"], rows)

    show_either({"models": held}, as_json, people)


@models.command()
@click.argument("name")
@target_option
@json_option
def get(name: str, target: str, as_json: bool) -> None:
    """Show a model's state and its complete spec."""
    with connected(target) as client:
        found = client.models.get(name)
        held = _described(found)

    def people() -> None:
        if len(found.partitions) > 1:
            _partitions.show_partitions(found.partitions)
        say(f"# {held['state']}, {held['position']:,} events, snapshot at {held['snapshot_position']:,}")
        for part in held["partitions"]:
            if "reason" in part:
                say(f"# partition {part['id']} is {part['state']}: {part['reason']}")
        show_yaml(held["spec"])

    show_either(held, as_json, people)


@models.command()
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@target_option
@json_option
def delete(name: str, yes: bool, target: str, as_json: bool) -> None:
    """Delete a model with its log and its state, for good."""
    with connected(target) as client:
        position = client.models.get(name).position
        if not yes and not as_json:
            click.confirm(f"Delete {name} with {position:,} events for good?", abort=True)
        client.models.delete(name)
    line = f"Deleted {name} ({position:,} events)."
    show_either({"deleted": name, "events": position}, as_json, lambda: say(line))


@models.command()
@click.argument("name")
@target_option
@json_option
def snapshot(name: str, target: str, as_json: bool) -> None:
    """Write a snapshot now and wait until it is committed."""
    with connected(target) as client:
        written = client.models.snapshot(name)
    held = {"name": name, **{part: getattr(written, part) for part in ("position", "rows", "bytes", "digest")}}
    line = f"Snapshot of {name} at {written.position:,} events: {written.rows:,} keyed rows, {written.bytes:,} bytes."
    show_either(held, as_json, lambda: say(line))


@models.command()
@click.argument("name")
@click.option("--digest", is_flag=True, help="Also the digest of the state (reads every keyed row).")
@target_option
@json_option
def stats(name: str, digest: bool, target: str, as_json: bool) -> None:
    """Show counts and prequential metrics: every event was predicted before it was learned.

    calibration_error is the mean gap between the confidence in the predicted class and how often it is right, over 15
    bins; interval_coverage the share of labels inside the 90 % interval, interval_width its mean width. They are there
    where the learner tells a confidence or an interval.

    Of a model with several partitions: the sums over all of them, and how far each is.

    Of a source: how it is, messages that it has not read yet (of a Redis Stream: at most so many), events that this run
    of it has taken, and messages that did not fit (`continual events dead-letters`). Of a sink: how it is, events that
    are answered and not written yet, and the position that it has come to.

    With --json also the fingerprint of the numerics: state and predictions are equal to the bit where it is equal.
    """
    with connected(target) as client:
        found = client.models.statistics(name, digest=digest)
    held = {
        "name": name,
        "position": found.position,
        "snapshot_position": found.snapshot_position,
        "keys_resident": found.keys_resident,
        "counts": dict(sorted(found.counts.items())),
        "metrics": dict(sorted(found.metrics.items())),
        "sources": [_source(one) for one in found.sources],
        "sinks": [_sink(one) for one in found.sinks],
        "fingerprint": json.loads(found.fingerprint),
        **({"digest": found.digest} if digest else {}),
        "partitions": [_part(one, digest) for one in found.partitions],
    }

    def people() -> None:
        at = f"snapshot at {found.snapshot_position:,}, {found.keys_resident:,} keys in memory"
        say(f"{name}: {found.position:,} events folded, {at}")
        show_table(["metric", "value"], sorted(found.metrics.items()) or [["(no labels yet)", ""]])
        show_table(["count", ""], sorted(found.counts.items()))
        if found.sources:
            show_table(["source", "state", "lag", "taken", "dead letters"], map(_source_row, found.sources))
        if found.sinks:
            show_table(["sink", "state", "lag", "written up to"], map(_sink_row, found.sinks))
        if found.partitions:
            show_table(["partition", "folded to", "snapshot at", "keys in memory"], map(_part_row, found.partitions))
        for one in (found.partitions or [found]) if digest else ():
            say(f"digest {one.digest}" + (f" of partition {one.partition}" if found.partitions else ""))

    show_either(held, as_json, people)


@models.command(
    epilog=examples(
        "continual models predict quick a=0.3 b=1.2 c=0",
        "continual models predict payments amount=12 hour=9 --key card-17",
    )
)
@click.argument("name")
@click.argument("features", nargs=-1, required=True, metavar="FEATURE=VALUE...")
@click.option("--key", default="", help="The entity that the event belongs to.")
@target_option
@json_option
def predict(name: str, features: tuple[str, ...], key: str, target: str, as_json: bool) -> None:
    """Predict one event as the next one, and say how sure that is; nothing is changed.

    A learner that cannot tell its variance, the part of it that more data would remove, or a 90 % interval says
    nothing of it (with --json: null).
    """
    event = dict(map(_feature, features))
    with connected(target) as client:
        answer = client.predict(name, event=event, key=key, probabilities=True, uncertainty=True)
    predicted = answer.predicted()[0]
    classes = None if answer.probabilities is None else dict(zip(answer.labels, answer.probabilities[0].tolist()))
    held = {"name": name, "position": answer.position, "predicted": predicted, "probabilities": classes}
    sure = {part: float(column[0]) for part in _UNCERTAIN if (column := getattr(answer, part)) is not None}

    def people() -> None:
        shown = f"{predicted:g}" if isinstance(predicted, float) else predicted
        interval = f" +- {sure['interval']:g}" if "interval" in sure else ""
        say(f"{shown}{interval}  (after {answer.position:,} events)")
        if sure:
            show_table(["uncertainty", ""], [[_UNCERTAIN[part], value] for part, value in sure.items()])
        if classes:
            ranked = sorted(classes, key=classes.__getitem__, reverse=True)
            show_table(["class", "probability"], [[name, classes[name]] for name in ranked])

    show_either({**held, **dict.fromkeys(_UNCERTAIN), **sure}, as_json, people)


def _part(one: Any, digest: bool) -> dict[str, Any]:
    plain = ("partition", "position", "snapshot_position", "keys_resident", *(("digest",) if digest else ()))
    return {name: getattr(one, name) for name in plain} | {"metrics": dict(sorted(one.metrics.items()))}


def _part_row(one: Any) -> list[Any]:
    return [one.partition, one.position, one.snapshot_position, one.keys_resident]


def _source(said: Any) -> dict[str, Any]:
    plain = ("name", "state", "detail", "events", "dead_letters", "lost", "time_us")
    return {part: getattr(said, part) for part in plain} | {"lag": dict(said.lag), "next": dict(said.next)}


def _sink(said: Any) -> dict[str, Any]:
    plain = ("name", "state", "detail", "position", "lag", "records", "lost", "time_us")
    return {part: getattr(said, part) for part in plain}


def _state(said: Any) -> str:
    if time.time() - said.time_us / 1e6 > STALE_SECONDS:
        return f"not running (was {said.state})"
    return f"{said.state}: {said.detail}" if said.detail else said.state


def _lost(said: Any) -> str:
    return f" (+ {said.lost:,} lost)" if said.lost else ""


def _source_row(said: Any) -> list[Any]:
    taken = f"{said.events:,}{_lost(said)}"
    return [said.name, _state(said), f"{sum(said.lag.values()):,}", taken, said.dead_letters]


def _sink_row(said: Any) -> list[Any]:
    return [said.name, _state(said), f"{said.lag:,}", f"{said.position:,}{_lost(said)}"]


STALE_SECONDS = 10.0
"""After this long a source or sink that said nothing is taken not to run."""

_UNCERTAIN = {
    "variance": "variance",
    "epistemic": "part that more data would remove",
    "interval": "half of the 90 % interval",
}


def _feature(text: str) -> tuple[str, float]:
    name, _, value = text.rpartition("=")
    try:
        number = float(value)
    except ValueError:
        name = ""
    if name:
        return name, number
    raise Problem(f"{text!r} is no feature; accepted: NAME=NUMBER", 2)


@models.command()
@json_option
def schema(as_json: bool) -> None:
    """Every field of a spec: a table, or with --json the JSON schema (for editors and validators)."""
    from continual.commands._schema import fields, spec_schema

    document = spec_schema()
    show_either(document, as_json, lambda: show_table(["field", "accepted", "default", "meaning"], fields(document)))
