"""The report of a bench as one HTML page that needs nothing beside it."""

from __future__ import annotations

import base64
import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from continual.scenarios.methods import find
from continual.scenarios.plots import looks, wrapped
from continual.scenarios.scenario import Scenario
from continual.scenarios.summary import MORE, Column, Result, columns

STYLE = """
:root { --ink: #1c1917; --soft: #57534e; --line: #e7e5e4; --paper: #fff; --ground: #fafaf9; --mark: #0f766e }
* { box-sizing: border-box }
body { font: 16px/1.55 system-ui, sans-serif; color: var(--ink); background: var(--ground); max-width: 76rem;
       margin: 2.5rem auto; padding: 0 1.2rem }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 .3rem }
h2 { font-size: 1.15rem; margin: 2.4rem 0 .6rem }
.lead { color: var(--soft); margin: 0; max-width: 48rem }
.tiles { display: flex; flex-wrap: wrap; gap: 1rem; margin: 1.5rem 0 }
.tile, .card { background: var(--paper); border: 1px solid var(--line); border-radius: .6rem }
.tile { flex: 1 1 12rem; padding: .8rem 1rem }
.tile b { display: block; font-size: 1.4rem; line-height: 1.3 }
.tile span { color: var(--soft); font-size: .88rem }
.card { overflow-x: auto; padding: .3rem .6rem }
img { width: 100%; background: var(--paper); border: 1px solid var(--line); border-radius: .6rem }
table { border-collapse: collapse; width: 100%; font-size: .9rem }
th { font-weight: 600; color: var(--soft); font-size: .82rem; white-space: nowrap; vertical-align: bottom }
th, td { text-align: left; padding: .42rem .45rem; border-bottom: 1px solid var(--line) }
tr:last-child td { border-bottom: 0 }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }
td.best { font-weight: 700; color: var(--mark) }
td.name { white-space: nowrap; line-height: 1.35 }
.half { color: var(--soft); font-size: .85em; font-weight: 400 }
.dot { display: inline-block; width: .7em; height: .7em; border-radius: 50%; margin-right: .5em }
.bar { position: relative; height: .5rem; min-width: 4.5rem; background: var(--line); border-radius: .25rem }
.bar i { position: absolute; inset: 0 auto 0 0; border-radius: .25rem }
dl { display: grid; grid-template-columns: fit-content(20rem) 1fr; gap: .25rem 1.2rem; margin: 0; font-size: .93rem }
dt { font-weight: 600; overflow-wrap: anywhere } dd { margin: 0; color: var(--soft) }
pre { font: .86rem/1.5 ui-monospace, monospace; background: var(--ink); color: #f5f5f4; padding: .9rem 1rem;
      border-radius: .6rem; overflow: auto; white-space: pre-wrap; word-break: break-word }
li { margin: .2rem 0; color: var(--soft) }
footer { color: #78716c; font-size: .85rem; margin-top: 2.5rem }
@media (max-width: 40rem) { dl { grid-template-columns: 1fr } dd { margin-bottom: .5rem } }
"""

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<title>{title}</title><style>{style}</style></head><body>
<h1>{title}</h1>
<p class="lead">{protocol}</p>
<div class="tiles">{tiles}</div>
{sections}
<footer>{footer}</footer>
</body></html>
"""


@dataclass(frozen=True)
class Report:
    """What the page tells.

    Attributes:
        scenario: what was run.
        results: of each method.
        notes: sentences for the reader.
        paired: rows of the paired differences; empty: none were asked for.
        against: to which method.
        curves, matrices: PNGs; None: there is none.
        command: as typed.
        machine: where, and versions.
    """

    scenario: Scenario
    results: Sequence[Result]
    notes: Sequence[str]
    paired: Sequence[Mapping[str, Any]]
    against: str
    curves: bytes | None
    matrices: bytes | None
    command: str
    machine: Mapping[str, Any]


def page(report: Report) -> str:
    """The HTML document."""
    tested = report.scenario.tested
    machine = report.machine
    tiles = (f"<div class=tile><b>{_text(big)}</b><span>{_text(small)}</span></div>" for big, small in _tiles(report))
    shown = columns(report.scenario)
    sections = [
        ("Results", _table(report.results, shown, bar=True) + _caption(shown)),
        ("While it learns", _picture(report.curves, "Accuracy over the events learned") if report.curves else ""),
        ("Test by test", _matrices(report)),
        ("Difference to " + report.against + ", seed by seed", _plain(report.paired) if report.paired else ""),
        ("More figures", _table(report.results, MORE) + _caption(MORE) if tested else ""),
        ("Methods", _methods(report.results)),
        ("How it was measured", "<ul>" + "".join(f"<li>{_text(note)}</li>" for note in report.notes) + "</ul>"),
        ("Run it again", f"<pre>{_text(report.command)}</pre>"),
    ]
    facts = (
        machine["date"],
        f"{machine['processor']}, {machine['cores']} cores",
        f"Python {machine['python']}",
        ", ".join(f"{package} {number}" for package, number in machine["packages"].items()),
        f"commit {machine['commit']}",
    )
    return PAGE.format(
        title=_text(report.scenario.title),
        style=STYLE,
        protocol=_text(report.scenario.protocol),
        tiles="".join(tiles),
        sections="\n".join(f"<h2>{_text(head)}</h2>\n{body}" for head, body in sections if body),
        footer=" &middot; ".join(map(_text, facts)),
    )


def _text(value: Any) -> str:
    return html.escape(str(value))


def _name(label: str) -> str:
    return _text(wrapped(label)).replace("\n", "<br>")


def _leader(results: Sequence[Result], column: Column) -> Result | None:
    """The best by a column, of those that saw the events in their order; None where all are alike."""
    fair = [one for one in results if not find(one.method).joint and not math.isnan(one.mean(column.figure))]
    if len({one.mean(column.figure) for one in fair}) < 2:
        return None
    return max(fair, key=lambda one: column.better * one.mean(column.figure))


def _tiles(report: Report) -> list[tuple[str, str]]:
    headline, scenario = columns(report.scenario)[0], report.scenario
    seeds = max((len(one.done) for one in report.results), default=0)
    tiles = [
        (f"{scenario.events:,}", "events, each learned once"),
        (f"{len(report.results)} x {seeds}", "methods x seeds at most"),
    ]
    if scenario.tested:
        classes = f"{len(scenario.labels)} classes" + (", the task given" if scenario.task_given else "")
        tiles.insert(1, (str(len(scenario.experiences)), f"experiences, {classes}"))
    best = _leader(report.results, headline)
    if best is not None:
        value, unit = headline.text(best.mean(headline.figure)), " %" if headline.percent else ""
        tiles.insert(0, (value + unit, f"{headline.head.split(',')[0]} of {best.label}"))
    return tiles


def _table(results: Sequence[Result], shown: Sequence[Column], bar: bool = False) -> str:
    present = [one for one in shown if any(not math.isnan(result.mean(one.figure)) for result in results)]
    leaders = {one.figure: _leader(results, one) if one.better else None for one in present}
    heads = "".join(f"<th class=n>{_text(one.head)}</th>" for one in present)
    top = max((result.mean(present[0].figure) for result in results), default=math.nan) if present else math.nan
    out = [f"<tr><th>method</th>{heads}{'<th></th>' if bar else ''}<th class=n>seeds</th></tr>"]
    for number, result in enumerate(results):
        colour = looks(number)["color"]
        cells = [f'<td class=name><i class=dot style="background:{colour}"></i>{_name(result.label)}</td>']
        for place, one in enumerate(present):
            half = math.nan if place else result.half(one.figure)
            width = "" if math.isnan(half) else f" <span class=half>&plusmn; {one.text(half)}</span>"
            best = " best" if leaders[one.figure] is result else ""
            cells.append(f'<td class="n{best}">{one.text(result.mean(one.figure))}{width}</td>')
        if bar:
            share = result.mean(present[0].figure) / (1 if present[0].percent else top)
            filled = 0 if math.isnan(share) else 100 * share
            cells.append(f'<td><div class=bar><i style="width:{filled:.1f}%;background:{colour}"></i></div></td>')
        out.append(f"<tr>{''.join(cells)}<td class=n>{len(result.done)}</td></tr>")
    return f"<div class=card><table>{''.join(out)}</table></div>"


def _caption(shown: Sequence[Column]) -> str:
    items = "".join(f"<dt>{_text(one.head)}</dt><dd>{_text(one.meaning)}</dd>" for one in shown)
    return f"<details><summary class=lead>What the columns mean</summary><dl>{items}</dl></details>"


def _picture(png: bytes, alt: str) -> str:
    return f'<img alt="{_text(alt)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'


def _matrices(report: Report) -> str:
    if report.matrices is None:
        return ""
    names = "".join(f"<dt>{k}</dt><dd>{_text(one.name)}</dd>" for k, one in enumerate(report.scenario.experiences, 1))
    held = f"<details><summary class=lead>The experiences of seed 0</summary><dl>{names}</dl></details>"
    return _picture(report.matrices, "Accuracy on each test set after each experience") + held


def _plain(rows: Sequence[Mapping[str, Any]]) -> str:
    heads = "".join(f"<th{' class=n' if k else ''}>{_text(head)}</th>" for k, head in enumerate(rows[0]))
    lines = []
    for row in rows:
        cells = (f"<td{' class=n' if k else ''}>{_text(value)}</td>" for k, value in enumerate(row.values()))
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return f"<div class=card><table><tr>{heads}</tr>{''.join(lines)}</table></div>"


def _methods(results: Sequence[Result]) -> str:
    items = "".join(f"<dt>{_name(one.label)}</dt><dd>{_text(find(one.method).note)}</dd>" for one in results)
    return f"<dl>{items}</dl>"
