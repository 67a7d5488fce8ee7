"""`continual bench faults`: processes killed, power lost, events that stop the fold; nothing acknowledged is lost."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.progress import Progress

from continual.bench import _faults_kills as kills_run
from continual.bench import _faults_poison as poison_run
from continual.bench import _faults_power as power_run
from continual.bench._faults_audit import Audit
from continual.bench._faults_campaign import run_campaign
from continual.bench._faults_served import Served
from continual.bench.report import out_option, publish

Row = dict[str, Any]


@click.command()
@click.option("--kills", default=200, show_default=True, help="SIGKILLs, spread over the stream.")
@click.option("--events", default=20_000, show_default=True, help="Events of the stream.")
@click.option(
    "--what",
    type=click.Choice([*kills_run.KINDS, "mixed"]),
    default="mixed",
    show_default=True,
    help="What a kill ends; `both` at once, `mixed`: one of the three at random.",
)
@click.option("--power-loss", is_flag=True, help="Lose power instead: unsynced bytes of the log are gone.")
@click.option("--losses", default=20, show_default=True, help="Losses of power, for each setting of appendfsync.")
@click.option("--poison", is_flag=True, help="Send events that stop the fold, and some that overflow, instead.")
@click.option(
    "--forked",
    is_flag=True,
    help="Fork the shards instead of starting them under Ray: kills by the thousand, in replays and rebuilds, of "
    "models whose fold raises or ends the process, slow ones, in snapshots and splits.",
)
@click.option("--seed", default=0, show_default=True, help="Of events, sizes of batches, and positions of faults.")
@out_option
def faults(
    kills: int,
    events: int,
    what: str,
    power_loss: bool,
    losses: int,
    poison: bool,
    forked: bool,
    seed: int,
    out: Path | None,
    as_json: bool,
) -> None:
    """Kill a served model hundreds of times and account for every acknowledged event.

    A real deployment (Ray, Redis) in a temporary folder. Clients stream events, and send some one by one and some of
    these twice, with the retries that they always do. Afterwards every acknowledged event is looked up in the log by
    its identity, and state and predictions are held against the uninterrupted fold, bit for bit. Exit status 1 if
    anything was lost, applied twice, or differs.
    """
    with tempfile.TemporaryDirectory(prefix="continual-faults-") as folder:
        if power_loss:
            sound = report_losses(Path(folder), losses, events, seed, out, as_json)
        elif forked:
            sound = report_campaign(Path(folder), kills, seed, out, as_json)
        elif poison:
            sound = report_poison(Path(folder), events, seed, out, as_json)
        else:
            sound = report_kills(Path(folder), kills, events, what, seed, out, as_json)
    sys.exit(0 if sound else 1)


def report_kills(
    folder: Path, kills: int, events: int, what: str, seed: int, out: Path | None, as_json: bool
) -> bool:
    """Runs and publishes `faults`; returns whether nothing was lost, doubled or different."""
    with progress("kills", events) as advance, Served(folder) as served:
        outcome = kills_run.run_kills(served, kills=kills, events=events, what=what, seed=seed, progress=advance)
    attack = outcome.kills
    kinds = [kind for kind in kills_run.KINDS if attack.done[kind]]
    rows = [recovery(kind, attack.done[kind], attack.seconds.get(kind, [])) for kind in kinds]
    audits = [{"model": name} | audit_row(audit) for name, audit in outcome.audits.items()]
    complete = attack.done.total() == kills
    sound = complete and all(audit.sound for audit in outcome.audits.values())
    notes = [sentence(name, audit) for name, audit in outcome.audits.items()]
    notes.append(
        "Model `file` gets one stream; model `mixed` another and, among it, single updates, some sent twice and some "
        "by two callers at once. Time to serving is from the kill to the first answer to an event sent after it, "
        "the client's waiting between retries included."
    )
    notes.append(f"Shard processes that ended without being killed: {outcome.unasked}.")
    if not complete:
        notes.append(f"Only {attack.done.total()} of {kills} kills took place.")
    details = {"audits": audits, "seed": seed, "events": events, "seconds": attack.seconds}
    title = f"Faults: {kills} kills over a stream of {events} events"
    publish("faults", title, rows, notes=notes, details=details, out=out, as_json=as_json)
    return sound


def report_losses(folder: Path, losses: int, events: int, seed: int, out: Path | None, as_json: bool) -> bool:
    """Runs and publishes `powerloss`; returns whether `always` lost nothing and the others were seen to lose."""
    rows: list[Row] = []
    notes: list[str] = []
    sound = True
    for appendfsync in power_run.DURABILITY:
        with progress(f"power loss, {appendfsync}", events) as advance:
            outcome = power_run.run_losses(
                folder / appendfsync, appendfsync=appendfsync, losses=losses, events=events, seed=seed, progress=advance
            )
        audit = outcome.audit
        row = {"appendfsync": appendfsync, "losses": outcome.losses, "bytes cut": outcome.bytes, "told": outcome.told}
        rows.append(row | audit_row(audit))
        if appendfsync == "always":
            sound &= audit.sound
        else:
            sound &= audit.consistent and bool(outcome.told or not audit.lost)
            if not audit.lost:
                sound = False
                notes.append(f"With {appendfsync} nothing was lost either: this run proves nothing about `always`.")
    notes.append(
        "Every process is killed and the append-only file is cut back to the length it had before its last sync. "
        "`always` must lose nothing. The other two must lose something, or the method would not see a missing sync; "
        "what is left is still folded exactly. `told`: how often the client said that acknowledged events are lost "
        "instead of going on over them."
    )
    title = f"Power loss: {losses} times over a stream of {events} events"
    publish("powerloss", title, rows, notes=notes, details={"seed": seed}, out=out, as_json=as_json)
    return sound


def report_poison(folder: Path, events: int, seed: int, out: Path | None, as_json: bool) -> bool:
    """Runs and publishes `poison`; returns whether service went on and nothing else was lost."""
    rows: list[Row] = []
    sound = True
    with progress("poison", len(FAULT) + 1) as advance, Served(folder, env=poison_run.PLUGIN) as served:
        for number, how in enumerate(poison_run.HOWS):
            outcome = poison_run.run_poison(served, how=how, events=events, seed=seed)
            rows.append({"event": FAULT[how]} | poison_row(outcome))
            sound &= outcome.audit.sound and outcome.kept and outcome.quarantined == [events // 2]
            advance(number + 1)
        outcome = poison_run.run_overflow(served, events=events, seed=seed)
        rows.append({"event": "overflows"} | poison_row(outcome))
        sound &= outcome.audit.sound and outcome.counts["nonfinite_skipped"] > 0
    notes = [
        "A marked event is set aside once its fold has failed twice, alone; it is kept as a dead letter, byte for "
        "byte; the state equals the fold of the log without it. Where its fold raises, the process lives. Where it "
        "ends the process, the shard is started again, and once more as it replays; then the event is found in a "
        "process of its own.",
        "An update that is not finite is skipped and counted; every number of the state and of the answers is finite.",
        "`silent s`: longest time between two answers. `kept`: the dead letter is the event. `skipped`: not finite.",
    ]
    title = f"Poison: events that stop the fold, in streams of {events}"
    publish("poison", title, rows, notes=notes, details={"seed": seed}, out=out, as_json=as_json)
    return sound


FAULT = {"raise": "raises", "exit": "exits", "crash": "crashes"}


def report_campaign(folder: Path, kills: int, seed: int, out: Path | None, as_json: bool) -> bool:
    """Runs and publishes `faults-forked`; returns whether nothing was lost, doubled or set aside unjustly."""
    with progress("kills", kills) as advance:
        found = run_campaign(folder, kills=kills, seed=seed, progress=advance)
    row = {
        "kills": found.total,
        "of trials": found.trials,
        "ended by an event": found.ended,
        "models": found.models,
        "logged": found.logged,
        "acked": found.acknowledged,
        "lost": found.lost,
        "doubled": found.doubled,
        "mispredicted": found.mispredicted,
        "stop the fold": found.stopping,
        "set aside": found.set_aside,
        "of others": found.unjust,
        "missed": found.missed,
        "state = fold": not found.differing,
    }
    where = ", ".join(f"{count} {phase}" for phase, count in found.kills.most_common())
    notes = [
        f"What the shards were doing when they were killed (several things at once count each): {where}.",
        "Five models: one healthy, one slow, one whose marked events raise, one whose marked events end the process, "
        "one that gets single updates and is split. `of trials`: kills of processes that tried a fold. `set aside`: "
        "events that became dead letters; `of others`: those among them whose fold does not fail; `missed`: events "
        "whose fold fails and which were not set aside. Each acknowledged event was looked up in the log, each state "
        "held against the fold of the log without faults, bit for bit.",
        *found.told,
    ]
    title = f"Faults: {found.total} kills of shards that are forked"
    publish("faults-forked", title, [row], notes=notes, details={"seed": seed}, out=out, as_json=as_json)
    return found.sound


def recovery(kind: str, kills: int, seconds: Sequence[float]) -> Row:
    """One row: kills of a kind and the times to serving."""
    p50, p99 = np.percentile(seconds, [50, 99]) if len(seconds) else (float("nan"), float("nan"))
    return {
        "killed": kind,
        "kills": kills,
        "recoveries": len(seconds),
        "serving again p50 s": float(p50),
        "p99 s": float(p99),
        "max s": max(seconds, default=float("nan")),
    }


def audit_row(audit: Audit) -> Row:
    """The columns that every table has."""
    return {
        "logged": audit.logged,
        "acked": audit.acknowledged,
        "lost": audit.lost,
        "doubled": audit.doubled,
        "mispredicted": audit.mispredicted,
        "state = fold": audit.digest and audit.counts and audit.file is not False,
    }


def poison_row(outcome: poison_run.Outcome) -> Row:
    """One row of the poison table."""
    return {
        "silent s": "-" if np.isnan(outcome.seconds) else round(outcome.seconds, 2),
        "starts": outcome.starts,
        "quarantined": len(outcome.quarantined),
        "skipped": outcome.counts["nonfinite_skipped"],
        "kept": outcome.kept,
    } | audit_row(outcome.audit)


def sentence(name: str, audit: Audit) -> str:
    """An audit in words."""
    whole = {None: "", True: ", and the fold of the file", False: ", but NOT the fold of the file"}[audit.file]
    exact = "equals" if audit.digest and audit.counts else "DIFFERS from"
    return (
        f"`{name}`: {audit.acknowledged:,} events acknowledged, {audit.lost} lost, {audit.doubled} applied twice "
        f"(each looked up by its identity among the {audit.logged:,} of the log); {audit.mispredicted} predictions "
        f"different; {audit.untold} acknowledged when their predictions were no longer remembered; the state {exact} "
        f"the uninterrupted fold of the log{whole}."
    )


@contextmanager
def progress(label: str, total: int) -> Iterator[Any]:
    """A bar on standard error; yields a function that is told how much is done."""
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=total)
        yield lambda done: bar.update(task, completed=done)
