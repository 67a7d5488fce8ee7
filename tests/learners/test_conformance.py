"""The conformance kit on the recurrent learner, and on learners that break it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from learners import conformance
from learners.cells.base import CellSpec
from learners.heads.base import HeadSpec
from learners.spec import ModelSpec
from streams.batch import LABEL


def make_spec(target: str, arrive: str, dtype: str, **changes) -> ModelSpec:
    return spec_with(target, arrive, {"kind": "recurrent", "cell": {"units": 9}, "dtype": dtype} | changes)


FEATURES = ({"name": "a", "missing": "mean"}, "b", {"name": "c", "missing": "mean"})


def spec_with(target: str, arrive: str, learner: dict, features: Sequence[Any] = FEATURES) -> ModelSpec:
    return ModelSpec.model_validate(
        {
            "name": "m",
            "features": features,
            "target": {"kind": target} | ({"max_classes": 8} if target == "multiclass" else {}),
            "labels": {"arrive": arrive, "pending": 3 if arrive == "delayed" else 0},
            "learner": learner,
        }
    )


GRID = list(
    itertools.product(("binary", "multiclass", "regression"), ("immediate", "delayed"), ("float32", "float64"))
)


@pytest.mark.parametrize("name", conformance.CHECKS)
@pytest.mark.parametrize("point", GRID, ids="-".join)
def test_recurrent(point, name) -> None:
    conformance.check(name, make_spec(*point), seed=GRID.index(point))


@pytest.mark.parametrize("changes", [{"optimizer": {"kind": "sgd"}}, {"previous_label": False}], ids=str)
def test_recurrent_otherwise(changes) -> None:
    conformance.check_learner(make_spec("regression", "delayed", "float32", **changes), seed=50)


def test_the_filter_of_all_weights() -> None:
    """Classes that appear while their variances are the prior, labels by id, and rows that come back from the store."""
    learner = {"optimizer": {"kind": "ekf", "gamma": 0.999}}
    for target, arrive in (("multiclass", "delayed"), ("regression", "immediate")):
        conformance.check_learner(make_spec(target, arrive, "float32", **learner), seed=60)


@pytest.mark.parametrize(
    ("target", "learner", "said"),
    [
        ("binary", {"head": {"kind": "ridge"}}, "head.kind is 'ridge'"),
        ("binary", {"cell": {"kind": "ssm"}}, "cell.kind 'ssm'.*accepted: elstm, hgrn, lru"),
        ("binary", {"weight_decay": 0.1}, "weight_decay 0.1: .*0 is accepted"),
        ("binary", {"clip_norm": 1.0}, "clip_norm 1: .*0 is accepted"),
        ({"kind": "multiclass", "max_classes": 17}, {}, "max_classes 17: .*at most 16"),
    ],
    ids=["head", "cell", "decay", "clip", "classes"],
)
def test_the_filter_refuses(target, learner, said) -> None:
    target = target if isinstance(target, dict) else {"kind": target}
    model = {"name": "m", "features": ["a"], "target": target}
    with pytest.raises(ValueError, match=said):
        ModelSpec.model_validate({**model, "learner": {"kind": "recurrent", "optimizer": {"kind": "ekf"}, **learner}})


CELLS = {
    kind: {"cell": {"kind": kind, "units": 5}} | ({"gap_unit": 300.0} if cell.timed else {})
    for kind, cell in CellSpec.known().items()
}
CELLS["rtu, non-linear"] = {"cell": {"kind": "rtu", "units": 5, "linear": False}}
LEARNERS = [
    {},
    {"layers": 2, "optimizer": {"kind": "rmsprop"}, "clip_norm": 1.0},
    {"layers": 3, "optimizer": {"kind": "obgd"}, "weight_decay": 0.1, "recurrent_rate": 0.5, "encoder": {"units": 4}},
]
TARGETS = ("binary", "multiclass", "regression")


@pytest.mark.parametrize("cell", sorted(CELLS))
def test_every_cell(cell) -> None:
    """One layer, and stacks with other optimizers; targets in turn."""
    first = sorted(CELLS).index(cell)
    for number, otherwise in enumerate(LEARNERS):
        target = TARGETS[(first + number) % 3]
        conformance.check_learner(make_spec(target, "immediate", "float64", **CELLS[cell], **otherwise), seed=number)


@pytest.mark.parametrize("optimizer", ["adam", "ekf"])
def test_a_label_at_once_leaves_the_same_weights(optimizer) -> None:
    for target in ("binary", "multiclass", "regression"):
        spec = make_spec(target, "delayed", "float32", optimizer={"kind": optimizer})
        log = conformance.random_log(spec, 3, plain=True)
        whole, split = spec.learner.build(spec), spec.learner.build(spec)
        whole.fold(log)
        for row in range(len(log)):
            event = log.slice(row, row + 1)
            observation = type(log)(event.x, event.kind * 0, event.y * np.nan, event.key, event.time, event.id)
            split.fold(observation)
            label = event.kind * 0 + LABEL
            split.fold(type(log)(event.x * 0, label, event.y, event.key, event.time, event.id, event.classes))
        a, b = whole.shared_arrays(), split.shared_arrays()
        assert a.pop("counters")[1:].tobytes() == b.pop("counters")[1:].tobytes()
        assert {name: array.tobytes() for name, array in a.items()} == {n: array.tobytes() for n, array in b.items()}
        keys = sorted({log.key[row] for row in range(len(log))})
        slots = [learner.rows.lookup(type(log.key).pack(keys)) for learner in (whole, split)]
        rows = [learner.rows.columns["body"][where] for learner, where in zip((whole, split), slots)]
        assert rows[0].tobytes() == rows[1].tobytes()


STATIC = {"raw": {"kind": "raw"}, "random": {"kind": "random", "units": 7}}


@pytest.mark.parametrize("arrive", ["immediate", "delayed"])
@pytest.mark.parametrize("point", [("binary", "raw"), ("multiclass", "random"), ("regression", "random")], ids="-".join)
def test_static(point, arrive) -> None:
    """A linear head on the inputs, or on random features of them."""
    target, features = point
    learner = {"kind": "static", "features": STATIC[features]}
    conformance.check_learner(spec_with(target, arrive, learner), seed=70)


@pytest.mark.parametrize("arrive", ["immediate", "delayed"])
def test_static_on_images(arrive) -> None:
    """Random filters over the inputs."""
    filters = {"kind": "random_conv", "image": [1, 4, 4], "patch": 2, "stride": 1, "filters": 3}
    learner = {"kind": "static", "features": filters, "head": {"kind": "ridge"}}
    conformance.check_learner(spec_with("multiclass", arrive, learner, [f"f{k}" for k in range(16)]), seed=75)


HEADS = {
    "kalman": {"samples": 4},
    "ridge": {"penalties": [1.0, 10.0]},
    "nearest_mean": {},
    "lda": {"refresh": 20},
    "neighbours": {"memory": 256, "neighbours": 3},
    "lofi": {"units": 4, "rank": 3},
}


def test_every_head_is_checked() -> None:
    assert {*HEADS, "linear"} == set(HeadSpec.known())


@pytest.mark.parametrize("head", sorted(HEADS))
def test_every_head(head) -> None:
    """On random features of the inputs; targets in turn."""
    kinds = HeadSpec.known()[head].targets
    for number, (target, arrive) in enumerate([(kinds[-1], "delayed"), (kinds[0], "immediate"), (kinds[1], "delayed")]):
        learner = {"kind": "static", "features": STATIC["random"], "head": {"kind": head, **HEADS[head]}}
        conformance.check_learner(spec_with(target, arrive, learner), seed=80 + number)


def test_a_head_on_a_recurrence() -> None:
    """The filters teach the cell below them, or a read-out beside them does."""
    for target, arrive, trains in (("multiclass", "delayed", "predictive"), ("regression", "immediate", "read_out")):
        head = {"kind": "kalman", "samples": 4, "trains": trains}
        conformance.check_learner(make_spec(target, arrive, "float32", head=head), seed=90)
