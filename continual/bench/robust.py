"""One bad value, a burst, a wrong clock, keys of other scales, a rare cause: what is left of the error afterwards."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np

from continual.bench import _helpers as helpers
from continual.bench._helpers import Row
from continual.bench._robust_streams import (
    BURST,
    CAUSES,
    EVENTS,
    KINDS,
    PLACES,
    SCALES,
    SIZES,
    Case,
    Made,
    Target,
)
from continual.bench.report import machine, out_option, publish
from continual.peers import NoChange, Peer, River, river_linear
from learners.spec import ModelSpec
from streams.batch import Batch

SIZE = 1024
ALLOWED, POINTS = 1.1, 1.0
"""Of a regression the error over that of the clean run, of classes the points of accuracy lost, that meet the aim."""

BOTH: tuple[Target, ...] = ("regression", "binary")
EVERY = KINDS["regression"]
"""All disturbances: those of classes are among them."""


@dataclass(frozen=True)
class Arm:
    """A learner of ours, or a peer.

    Attributes:
        name: shown.
        learner: for a target the learner part of a spec, or a peer.
        targets: what it predicts.
        kinds: disturbances that it is asked about.
    """

    name: str
    learner: Callable[[Target], dict[str, Any] | Peer]
    targets: tuple[Target, ...] = BOTH
    kinds: tuple[str, ...] = EVERY

    def predictions(self, target: Target, batch: Batch, labels: dict[str, Any]) -> np.ndarray:
        """float64 [n]: what is predicted of each event before it is learned, a number or 0 and 1."""
        learner = self.learner(target)
        if isinstance(learner, Peer):
            return learner.run(batch).predicted
        model = ModelSpec.model_validate(
            {
                "name": "robust",
                "features": [f"x{i}" for i in range(batch.x.shape[1])],
                "target": {"kind": target},
                "learner": learner,
                "labels": labels,
            }
        )
        folded = helpers.fold(model.learner.build(model), helpers.cuts(batch, SIZE))[1]
        said = [part.value if target == "regression" else part.code for part in folded]
        return np.concatenate(said).astype(np.float64)


def _ours(name: str, *targets: Target, **learner: Any) -> Arm:
    return Arm(name, lambda target: learner, targets or BOTH)


def _static(head: str, *targets: Target, **fields: Any) -> Arm:
    return _ours(f"static {head}", *targets, kind="static", head={"kind": head, **fields})


def _served(name: str, **models: str) -> Arm:
    """River's scaler of deviations and a model of River, served."""
    scaler = {"path": "river.preprocessing.StandardScaler"}
    return Arm(
        f"river: {name}",
        lambda target: {"kind": "river", "estimator": [scaler, {"path": f"river.{models[target]}"}]},
    )


def _robust_scaler(target: Target) -> Peer:
    """River's scaler by quantiles in front of its linear models."""

    def build() -> Any:
        from river import linear_model, preprocessing

        model = linear_model.LinearRegression if target == "regression" else linear_model.LogisticRegression
        return preprocessing.RobustScaler() | model()

    return River("River RobustScaler", target, build)


_TIMELESS = tuple(kind for kind in EVERY if kind != "clock")

ARMS = (
    _ours("recurrent", kind="recurrent"),
    _ours("recurrent kalman", kind="recurrent", head={"kind": "kalman"}),
    _ours("recurrent ssm by time", kind="recurrent", cell={"kind": "ssm"}, gap_unit=1e6),
    _static("linear"),
    _static("kalman"),
    replace(_static("kalman", forget_unit=1e6, gammas=[0.99]), name="static kalman by time", kinds=("clock",)),
    _static("lofi"),
    _static("ridge"),
    _static("lda", "binary"),
    _static("nearest_mean", "binary"),
    _static("neighbours"),
    _ours("drift", kind="drift"),
    *(
        _ours(kind, "binary", kind=kind)
        for kind in ("finetune", "ewc", "agem", "er", "er_ace", "der", "mir", "uer", "pcr", "pec")
    ),
    _ours("er standardised", "binary", kind="er", standardise=True),
    _served("linear", regression="linear_model.LinearRegression", binary="linear_model.LogisticRegression"),
    _served("tree", regression="tree.HoeffdingTreeRegressor", binary="tree.HoeffdingTreeClassifier"),
    Arm("peer: River StandardScaler, linear", river_linear, kinds=_TIMELESS),
    Arm("peer: River RobustScaler, linear", _robust_scaler, kinds=_TIMELESS),
    Arm("peer: no change", lambda target: NoChange("no change", target), kinds=_TIMELESS),
)


@dataclass(frozen=True)
class Figure:
    """What a disturbance did to a learner.

    Attributes:
        value: of the disturbance.
        clean: of the clean run, at each of `PLACES`: the mean absolute error, or the accuracy.
        worse: at each of `PLACES`: the error over that of the clean run, or the points of accuracy lost.
        met: whether the aim is.
    """

    value: str
    clean: list[float]
    worse: list[float]
    met: bool


def _figure(arm: Arm, target: Target, case: Case, known: dict[bytes, np.ndarray]) -> Figure:
    """Runs a case; `known` holds the predictions of the arm on clean events by their digest."""
    clean_run = hashlib.sha256(repr(case.labels).encode())
    for array in (case.clean.x, case.clean.y, case.clean.time, case.clean.key.offsets, case.clean.key.data):
        clean_run.update(array.tobytes())
    name = clean_run.digest()
    if name not in known:
        known[name] = arm.predictions(target, case.clean, case.labels)
    runs = known[name], arm.predictions(target, case.batch, case.labels)
    twin = case.truth if case.clean_truth is None else case.clean_truth
    number = np.arange(len(case.truth))
    each = len(case.truth) // EVENTS  # rows of an event
    clean, worse = [], []
    for start, stop in PLACES:
        rows = case.counted & (number >= case.at + each * start) & (number < case.at + each * stop)
        good, bad = (_error(target, run[rows], truth[rows]) for run, truth in zip(runs, (twin, case.truth)))
        clean.append(good if target == "regression" else 1 - good)
        worse.append(bad / good if target == "regression" else 100 * (bad - good))
    most = ALLOWED if target == "regression" else POINTS
    return Figure(case.value, clean, worse, all(value <= most for value in worse[case.from_place :]))


def _error(target: Target, said: np.ndarray, truth: np.ndarray) -> float:
    """The mean absolute error, or the share of wrong classes; what is no number is as bad as can be."""
    if target == "binary":
        return float(np.mean(said != truth))
    with np.errstate(invalid="ignore"):
        return float(np.nan_to_num(np.abs(said - truth), nan=math.inf).mean())


def _row(arm: Arm, target: Target, kind: str, figures: Sequence[Figure]) -> Row:
    """The worst of the values that were tried."""
    missed = [figure.value for figure in figures if not figure.met]
    worst = [max(figure.worse[place] for figure in figures) for place in range(len(PLACES))]
    return {
        "learner": arm.name,
        "target": target,
        "disturbed": kind,
        "clean": f"{figures[0].clean[-1]:.3g}",
        **{f"after {start:,}": _text(target, value) for (start, _), value in zip(PLACES, worst)},
        "aim": f"NO: {', '.join(missed)}" if missed else "met",
    }


def _text(target: Target, value: float) -> str:
    if target == "binary":
        return f"{value:+.1f} pt" if abs(value) >= 0.05 else "0"
    return f"{value:.2f} x" if value < 1000 else f"{value:.0e} x"


@click.command()
@click.option("--only", multiple=True, help="Learners with this name, or in their names; repeatable. !x: not with x.")
@click.option("--kind", "kinds", multiple=True, type=click.Choice(EVERY), help="Just this disturbance; repeatable.")
@click.option("--seed", default=0, show_default=True, help="Of the events and of the learners.")
@out_option
def robust(only: tuple[str, ...], kinds: tuple[str, ...], seed: int, out: Path | None, as_json: bool) -> None:
    """What one bad value, a burst of them, a wrong clock, keys of other scales or a rare cause leave behind.

    With --out the rows of learners and disturbances that are not run now stay as they are in the table there.
    """
    rows, runs = _kept(out, seed)
    chosen = [arm for arm in ARMS if _is_chosen(arm.name, only)]
    if not chosen:
        raise click.BadParameter(f"no learner has {only!r} in its name; there are {[arm.name for arm in ARMS]}")
    made = {target: Made(target, seed) for target in BOTH}
    commit = machine()["commit"]
    for arm in chosen:
        began = time.perf_counter()
        for target in arm.targets:
            known: dict[bytes, np.ndarray] = {}
            for kind in KINDS[target]:
                if kind not in (kinds or EVERY) or kind not in arm.kinds:
                    continue
                figures = [_figure(arm, target, case, known) for case in made[target].cases(kind)]
                rows[arm.name, target, kind] = _row(arm, target, kind, figures)
                runs[f"{arm.name}, {target}, {kind}"] = {
                    "commit": commit,
                    "figures": [asdict(figure) for figure in figures],
                }
        click.echo(f"{arm.name}: {time.perf_counter() - began:.0f} s", err=True)
    order = {arm.name: number for number, arm in enumerate(ARMS)}
    table = [rows[name] for name in sorted(rows, key=lambda name: (order[name[0]], name[1] == "binary"))]
    ours = [row for row in table if not row["learner"].startswith("peer")]
    met = sum(row["aim"] == "met" for row in ours)
    publish(
        "robust",
        "What a disturbance leaves behind: the error afterwards over that of the same events without it",
        table,
        notes=[f"{met} of {len(ours)} rows of this project's learners meet the aim.", *_NOTES],
        details={"runs": runs, "seed": seed, "places": PLACES},
        out=out,
        as_json=as_json,
    )


def _kept(out: Path | None, seed: int) -> tuple[dict[tuple[str, ...], Row], dict[str, Any]]:
    """Rows, by learner, target and disturbance, and runs of an earlier table in that folder."""
    path = Path() if out is None else out / "robust.json"
    if not path.is_file():
        return {}, {}
    document = json.loads(path.read_text())
    if document["details"]["seed"] != seed:
        return {}, {}
    names = {arm.name for arm in ARMS}
    rows = [row for row in document["rows"] if row["learner"] in names]
    return {(row["learner"], row["target"], row["disturbed"]): row for row in rows}, document["details"]["runs"]


def _is_chosen(name: str, only: Sequence[str]) -> bool:
    wanted = [part for part in only if not part.startswith("!")]
    unwanted = [part[1:] for part in only if part.startswith("!")]
    names = {arm.name for arm in ARMS}
    meant = any(name == part if part in names else part in name for part in wanted)
    return (not wanted or meant) and not any(part in name for part in unwanted)


_NOTES = (
    f"{EVENTS:,} events of two normal features; the target is 3 a - 2 b + 0.1 e, or whether a + b / 2 is above 0. The "
    "two runs of a row differ in the disturbance only, and events that were disturbed do not count in either. `x`: the "
    "mean absolute error over that of the clean run; `pt`: points of accuracy lost. Each is the worst of the values "
    f"tried, over the events {', '.join(f'{a:,} to {b:,}' for a, b in PLACES)} after the disturbance; clean is the "
    "error or the accuracy of the clean run at the last of these places. All values are in the JSON.",
    f"The aim: at most {ALLOWED:g} times the clean error, or {POINTS:g} point of accuracy lost, from 1,000 events "
    "after one bad value on, from 5,000 after all else. `NO` names the values that miss it.",
    f"label, feature: one value is {', '.join(f'{size:g}' for size in SIZES)}; burst: {BURST} events in a row (of "
    "classes, 20 wrong ones); first: the first event of the stream. One wrong class is no row: it disturbs nothing.",
    "clock: one event says that it is of the year 2100, and 500 events later the concept turns round. `ignore`: with "
    "labels.out_of_order `ignore`; `horizon`: with labels by id half a second later and labels.horizon_time of 60 s.",
    f"key scale: of two keys one has targets {', '.join(f'{size:g}' for size in SCALES)} times as large from then on; "
    "the error is that of the other key. Learners have no input that tells keys apart but the last label.",
    "rare cause: a third feature is 1 on 2 % of events from then on, and adds "
    f"{' or '.join(f'{cause:g}' for cause in CAUSES)} to the target. The error is over those events (about 20 of a "
    "thousand), against the same events without the cause; `beside a rare cause`: over the others.",
    "peers: River's StandardScaler (running mean and deviation) and RobustScaler (median and quartiles) before its "
    "LinearRegression or LogisticRegression, at their defaults; and the last label of the key.",
)
