"""What the demonstration leaves behind: `report.html`, `curves.png`, `report.json`."""

from __future__ import annotations

import base64
import html
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from continual.demo import MAJORITY, NO_CHANGE, OURS, Run

COLORS = ("#c2410c", "#2563eb", "#059669", "#7c3aed")
STYLE = """
body { font: 16px/1.55 system-ui, sans-serif; color: #1c1917; background: #fafaf9; max-width: 60rem;
       margin: 2.5rem auto; padding: 0 1.2rem }
h1 { font-size: 1.7rem; margin-bottom: .2rem }
h2 { font-size: 1.15rem; margin-top: 2.2rem }
.lead { color: #57534e; margin-top: 0 }
.tiles { display: flex; flex-wrap: wrap; gap: 1rem; margin: 1.5rem 0 }
.tile, img { background: #fff; border: 1px solid #e7e5e4; border-radius: .6rem }
.tile { flex: 1 1 11rem; padding: .8rem 1rem }
.tile b { display: block; font-size: 1.45rem }
.tile span { color: #57534e; font-size: .88rem }
img { width: 100% }
table { border-collapse: collapse; width: 100% }
th, td { text-align: left; padding: .4rem .6rem; border-bottom: 1px solid #e7e5e4; vertical-align: top }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums }
pre { font: .88rem/1.5 ui-monospace, monospace; background: #1c1917; color: #f5f5f4; padding: .9rem 1rem;
      border-radius: .6rem; overflow: auto }
.good { color: #15803d }
.bad { color: #b91c1c }
.digest { word-break: break-all; font: .78rem ui-monospace, monospace }
footer { color: #78716c; font-size: .85rem; margin-top: 2.5rem }
"""


def write(folder: Path, run: Run, result: Mapping[str, Any]) -> dict[str, Path]:
    """Writes the three files and returns where they are.

    Args:
        folder: made if missing.
        run: for the curves.
        result: what `continual demo --json` prints.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = {name: folder / name for name in ("report.html", "curves.png", "report.json")}
    plot(paths["curves.png"], run)
    paths["report.json"].write_text(json.dumps(result, indent=2) + "\n")
    paths["report.html"].write_text(page(result, paths["curves.png"].read_bytes()))
    return paths


def plot(path: Path, run: Run) -> None:
    """Error rate and kappa over all events so far, with the kill marked."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, PercentFormatter

    figure = Figure(figsize=(10, 6.4), dpi=130, layout="constrained")
    errors, kappas = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    for name, color in zip([OURS, *(rival.name for rival in run.rivals)], COLORS):
        n, error, kappa = zip(*run.curves[name])
        width = 2.4 if name == OURS else 1.5
        errors.plot(n, error, color=color, lw=width, label=name, zorder=4 if name == OURS else 3)
        kappas.plot(n, kappa, color=color, lw=width, zorder=4 if name == OURS else 3)
    for name, dashes in ((MAJORITY, (4, 2)), (NO_CHANGE, (1, 1.5))):
        n, error, _ = zip(*run.curves[name])
        errors.plot(n, error, color="#78716c", lw=1.3, dashes=dashes, label=name)
    errors.set_yscale("log")
    errors.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
    errors.yaxis.set_minor_formatter(FuncFormatter(lambda value, _: f"{value:.1%}" if str(value)[-1] in "25" else ""))
    errors.set_ylabel("errors so far (log scale)")
    kappas.set_ylabel("kappa so far")
    kappas.set_ylim(min(0.8, min(row[2] for row in run.curves[OURS][-len(run.curves[OURS]) // 2 :]) - 0.05), 1)
    kappas.set_xlabel("events")
    kappas.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    for axes in (errors, kappas):
        axes.axvline(run.killed_at, color="#b91c1c", lw=1.4, ls="--", zorder=2)
        axes.grid(alpha=0.25)
        axes.margins(x=0.01)
        axes.spines[["top", "right"]].set_visible(False)
    at = kappas.get_xaxis_transform()
    kappas.text(run.killed_at, 0.06, f"  SIGKILL, back after {run.outage:.1f} s", color="#b91c1c", transform=at)
    errors.legend(loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=5, frameon=False, fontsize=9)
    figure.suptitle("Every event is predicted before it is learned", x=0.01, ha="left", fontsize=13)
    figure.savefig(path)


PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<title>continual: demonstration</title><style>{style}</style></head><body>
<h1>{title}</h1>
<p class="lead">{stream}</p>
<div class="tiles">{tiles}</div>
<img alt="Error rate and kappa over the stream" src="data:image/png;base64,{picture}">
<h2>The proof</h2>
<p>The log was read back event by event, and the same events were folded once more in a process that nobody killed.</p>
{proof}
<h2>How well it predicted</h2>
<p>Every learner saw the same events in the same order and had to predict each before it saw the label. Accuracy alone
says little where {share} of the labels are alike; kappa and log-loss say more.</p>
{scores}
<p>{cost_note}</p>
<h2>How to go on</h2>
<pre>{how_to_go_on}</pre>
<footer>{footer}</footer>
</body></html>
"""


def page(result: Mapping[str, Any], png: bytes) -> str:
    """The report as one HTML page that needs nothing beside it."""
    machine = result["machine"]
    facts = (
        machine["date"],
        f"{machine['processor']}, {machine['cores']} cores",
        f"Python {machine['python']}",
        f"continual {machine['packages'].get('continual', 'from source')}, commit {machine['commit']}",
        f"{result['seconds']:.0f} s in all",
    )
    good, bad = "A shard was killed midway. Nothing was lost.", "A shard was killed, and something does not match."
    return PAGE.format(
        style=STYLE,
        title=good if result["nothing_lost"] else bad,
        stream=_text(result["stream"]),
        tiles="".join(
            f"<div class=tile><b>{_text(big)}</b><span>{_text(small)}</span></div>" for big, small in _tiles(result)
        ),
        picture=base64.b64encode(png).decode(),
        proof=_proof(result["checks"]),
        share=f"{result['majority_share']:.0%}",
        scores=_scores(result["scores"]),
        cost_note=_text(result["cost_note"]),
        how_to_go_on=_text(result["how_to_go_on"]),
        footer=" &middot; ".join(map(_text, facts)),
    )


def _tiles(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The headline figures, each with what it is."""
    held, kill, ours = result["nothing_lost"], result["kill"], result["scores"][0]
    majority = next(row for row in result["scores"] if row["learner"] == MAJORITY)
    guessing = f"always guessing the majority: {majority['accuracy']:.2%}"
    return [
        (f"{result['events']:,}", "events sent, logged, folded" if held else "events sent"),
        (f"{kill['outage_seconds']:.1f} s", f"without an answer after SIGKILL of the shard, process {kill['pid']}"),
        ("0 lost" if held else "FAILED", "0 twice, the state the same bit for bit" if held else "see the proof below"),
        (f"{ours['kappa']:.3f}", f"kappa; {ours['accuracy']:.2%} right, {guessing}"),
    ]


def _text(value: Any) -> str:
    return html.escape(str(value))


def _proof(checks: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for check in checks:
        mark = '<td class="good">&#10003;</td>' if check["holds"] else '<td class="bad">&#10007;</td>'
        values = [_value(check["found"]), _value(check["expected"])]
        cells = "".join(f'<td class="{"digest" if len(value) > 20 else "n"}">{value}</td>' for value in values)
        rows.append(f"<tr>{mark}<td>{_text(check['what'])}</td>{cells}</tr>")
    head = "<tr><th></th><th>what</th><th class=n>found</th><th class=n>must be</th></tr>"
    return f"<table>{head}{''.join(rows)}</table>"


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else _text(value)


def _scores(scores: Sequence[Mapping[str, Any]]) -> str:
    names = ("accuracy", "kappa", "log-loss", "&micro;s per event")
    rows = ["<tr><th>learner</th>" + "".join(f"<th class=n>{name}</th>" for name in names) + "</tr>"]
    for score in scores:
        figures = (_number(score["kappa"], 3), _number(score["log_loss"], 4), _number(score["microseconds"], 1))
        cells = "".join(f"<td class=n>{cell}</td>" for cell in (f"{score['accuracy']:.2%}", *figures))
        name = f"<b>{_text(score['learner'])}</b>" if score["learner"] == OURS else _text(score["learner"])
        rows.append(f"<tr><td>{name}</td>{cells}</tr>")
    return f"<table>{''.join(rows)}</table>"


def _number(value: float | None, digits: int) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.{digits}f}"
