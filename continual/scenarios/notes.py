"""The sentences under a table: how it was measured, and what a reader would otherwise have to guess."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from continual.scenarios.campaign import Done
from continual.scenarios.protocol import Protocol
from continual.scenarios.scenario import Scenario


def notes(
    scenario: Scenario, protocol: Protocol, done: Sequence[Done], picked: Mapping[str, Mapping[str, Any]], seeds: int
) -> list[str]:
    """What every reader of the table must know.

    Args:
        scenario: of seed 0.
        protocol: what was read.
        done: the runs of the table.
        picked: what is known of rates that were picked, by method.
        seeds: how many were asked for.
    """
    said = [*_reading(scenario, protocol), *_baselines(done)]
    for pick in picked.values():
        tried = ", ".join(f"{rate}: {score:.4f}" for rate, score in pick["scores"].items())
        edge = ", the best at an end of those tried" if _at_an_end(pick) else ""
        seen = "on a fifth of the training events held out" if pick["held out"] else "in hindsight, on the same events"
        seeds_ = f"seeds {pick['seeds'][0]} to {pick['seeds'][-1]}"
        said.append(f"{pick['of']}: rate picked {seen}, {seeds_} ({tried}){edge}.")
    shares = {one.task.method: one.run.cost["learned"] for one in done if one.task.protocol.cost > 1}
    if shares:
        told = ", ".join(f"{method} {100 * share:.0f} %" for method, share in shares.items())
        said.append(
            "The stream does not wait: a batch that comes while a method is busy is predicted and passed over; its "
            f"cost is that of its passes, relative to ER. Learned of the events: {told}; the others all."
        )
    said.append("+- is half of the 95 % interval of the mean (Student's t) over seeds, which draw orders and weights.")
    commits = sorted({str(one.machine["commit"]) for one in done})
    if len(commits) > 1:
        said.append(f"Runs were kept from several commits: {', '.join(commits)}.")
    runs = Counter(one.task.method for one in done)
    short = [f"{method} {count}" for method, count in runs.items() if count < seeds]
    if short:
        said.append(f"Fewer seeds than the {seeds} that were asked for: {', '.join(short)}.")
    return said


def _at_an_end(pick: Mapping[str, Any]) -> bool:
    """Whether the best rate is the smallest or the largest one: a better one may lie beyond."""
    rates = sorted(pick["scores"], key=float)
    return pick["rate"] in (rates[0], rates[-1])


def _reading(scenario: Scenario, protocol: Protocol) -> list[str]:
    said = [scenario.protocol]
    if scenario.tested:
        said.append(
            f"All test sets are asked every {protocol.points(scenario):,} events and after each experience; for LCA "
            f"the own test over the first {protocol.beta} batches of {protocol.batch}; WF and WP within "
            f"{protocol.window} evaluations."
        )
    return said


def _baselines(done: Sequence[Done]) -> list[str]:
    said, first = [], done[0]
    held = first.run.prequential
    if "no_change" in held:
        said.append(
            f"On the stream of seed {first.task.seed} repeating the last label is right for "
            f"{100 * held['no_change']:.1f} %, the most frequent label so far for {100 * held['majority']:.1f} %."
        )
    shifts = sorted({one.run.near_future["shift"] for one in done if one.run.near_future})
    if shifts:
        said.append(f"Near-future accuracy: S = {', '.join(f'{shift:g}' for shift in shifts)} events.")
    return said
