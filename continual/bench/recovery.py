"""A shard is killed with a long log since its snapshot: how fast it replays, and how long until it serves again."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path
from typing import Any

import click

from continual.bench import _served
from continual.bench._helpers import (
    check,
    cuts,
    fold,
    load,
    median,
    ratio_row,
    repeated,
    spec,
    stream_options,
    until,
    value_row,
    warm,
)
from continual.bench.report import out_option, publish
from service.client import Client, Refused
from service.serve import Deployment

SIZE = 1024
MODEL = "recovery"
REPLAYED = re.compile(rf"model {MODEL}: .* (\d+) events replayed in ([\d.]+) s, snapshot loaded in ([\d.]+) s")


@click.command()
@stream_options
@click.option("--replayed", default=100_000, show_default=True, help="Events since the snapshot.")
@click.option("--rounds", default=3, show_default=True, help="Kills; a fold of the same events before each.")
@out_option
def recovery(stream: str, events: int | None, replayed: int, rounds: int, out: Path | None, as_json: bool) -> None:
    """Kill a shard with events since its snapshot; replay rate against the fold in process, time to healthy."""
    chosen = load(stream, events)
    model = spec(chosen, name=MODEL, snapshot_every=10**9)
    warm(model, chosen.batch)
    pieces = cuts(repeated(chosen.batch, replayed), SIZE)
    learner = model.learner.build(model)
    measured = []
    with _served.deployed() as deployment, Client(deployment.address) as client:
        client.models.create(model)
        for _ in range(rounds):
            client.models.snapshot(MODEL)
            check(sum(reply.rows for reply in client.learn(MODEL, pieces)) == replayed, f"{replayed} events answered")
            folding, _ = fold(learner, pieces)
            measured.append({"fold": folding, **_killed(deployment, client, replayed)})
            said = client.models.statistics(MODEL, digest=True)
            check(said.position == learner.position, f"{learner.position} events in the log, got {said.position}")
            check(said.digest == learner.digest(), "the state of an uninterrupted fold")
    publish(
        "recovery",
        f"Recovery: a shard killed with {replayed:,} events since its snapshot",
        _rows(measured, replayed),
        notes=[
            f"Medians of {rounds} kills by SIGKILL. The log holds batches of {SIZE} events; the fold in process is of "
            "the same batches. After every kill the digest is that of an uninterrupted fold.",
            "Replay includes reading the log from the store, decoding it, and rebuilding the marks and answers for "
            "producers that resend.",
        ],
        details={"kills": measured, "spec": model.model_dump(mode="json")},
        out=out,
        as_json=as_json,
    )


def _rows(measured: list[dict[str, float]], replayed: int) -> list[dict]:
    of = {name: median([one[name] for one in measured]) for name in measured[0]}
    rest = median([one["healthy"] - one["load"] - one["replay"] for one in measured])
    rates = replayed / of["replay"], replayed / of["fold"]
    return [
        ratio_row("replay, events/s", rates[0], "the fold in process", rates[1], 0.8, at_least=True),
        value_row("from kill to health SERVING, s", of["healthy"]),
        value_row("of it: loading the snapshot, s", of["load"]),
        value_row("of it: replay, s", of["replay"]),
        value_row("of it: noticing, a new process, imports, the compiled fold, ownership, s", rest),
    ]


def _killed(deployment: Deployment, client: Client, replayed: int) -> dict[str, float]:
    """Kills the shard and waits until it serves; seconds in all, of loading and of replay."""
    import ray  # not earlier: Ray reads its settings when it is imported

    actor: Any = next(iter(deployment.actors.values()))
    log = next((deployment.options.data / "logs").glob("*.log"))
    known = len(log.read_text())
    pid = ray.get(actor.ready.remote())
    start = time.perf_counter()
    os.kill(pid, signal.SIGKILL)
    until(lambda: not _serving(deployment.address), 5, "a shard that is killed answers no more", every=0.0)
    until(lambda: _serving(deployment.address), 60, "a shard that was killed serves again")
    healthy = time.perf_counter() - start
    found = REPLAYED.findall(log.read_text()[known:])
    check(len(found) == 1 and int(found[0][0]) == replayed, f"{replayed} events replayed, the log says {found}")
    return {"healthy": healthy, "replay": float(found[0][1]), "load": float(found[0][2])}


def _serving(address: str) -> bool:
    with Client(address) as client:
        try:
            return client.health(timeout=0.3) == "SERVING"
        except Refused:
            return False
