"""The conformance kit on every learner from mini-batches, and what their specs refuse."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys

import numpy as np
import pytest
from pydantic import ValidationError

from kernels.cpu.layout import LEARNED, NONFINITE
from kernels.cpu.replay.events import C_STEPS
from learners import conformance
from learners.replay.spec import MiniBatchSpec
from learners.spec import LearnerSpec, ModelSpec
from streams.batch import Batch

SMALL = {"batch": 3, "network": {"hidden": [7, 5]}}
REPLAY = {**SMALL, "replay": 4, "buffer": {"size": 20}}
KINDS = {
    "finetune": SMALL,
    "er": {**REPLAY, "standardise": True},
    "uer": {**REPLAY, "buffer": {"kind": "balanced", "size": 20}},
    "er_ace": {**REPLAY, "network": {"hidden": []}},
    "der": {**REPLAY, "dtype": "float64"},
    "agem": {**REPLAY, "buffer": {"kind": "fifo", "size": 20}},
    "mir": {**REPLAY, "candidates": 10},
    "pcr": REPLAY,
    "ewc": {**SMALL, "period": 20},
    "pec": {"teacher": 50, "units": 4, "outputs": 6},
}
IMAGES = {
    "random_conv": {"kind": "random_conv", "image": [1, 4, 6], "patch": 2, "stride": 1, "filters": 3},
    "resnet18": {"kind": "resnet18", "image": [1, 4, 6], "width": 1},
}


def make_spec(learner: dict, target: str = "multiclass", arrive: str = "immediate", features: int = 3) -> ModelSpec:
    return ModelSpec.model_validate(
        {
            "name": "m",
            "features": [{"name": f"f{k}", "missing": "refuse" if k == 1 else "mean"} for k in range(features)],
            "target": {"kind": target} | ({"max_classes": 8} if target == "multiclass" else {}),
            "labels": {"arrive": arrive, "pending": 3 if arrive == "delayed" else 0},
            "learner": learner,
        }
    )


def test_every_kind_is_checked() -> None:
    known = {kind for kind, spec in LearnerSpec.known().items() if issubclass(spec, MiniBatchSpec)}
    assert known == set(KINDS)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_conformance(kind) -> None:
    """Targets and label policies in turn."""
    points = list(itertools.product(("multiclass", "binary"), ("delayed", "immediate")))
    first = 2 * (sorted(KINDS).index(kind) % 2)
    for seed, (target, arrive) in enumerate((points[first], points[3 - first])):
        conformance.check_learner(make_spec({"kind": kind, **KINDS[kind]}, target, arrive), seed=seed)


@pytest.mark.parametrize(
    "name",
    [
        "state_round_trips",
        "a_snapshot_is_of_its_position",
        "any_delivery_gives_the_same",
        "any_crash_gives_the_same",
        "predict_is_what_the_fold_says",
    ],
)
@pytest.mark.parametrize("network", sorted(IMAGES))
def test_images(network, name, monkeypatch) -> None:
    """What concerns the network; a step in PyTorch takes milliseconds, so the logs are short."""
    learner = {"kind": "er", "batch": 10, "replay": 4, "buffer": {"size": 20}, "network": IMAGES[network]}
    short = lambda spec, seed, events=400, **more: conformance.random_log(spec, seed, min(events, 120), **more)  # noqa: E731
    monkeypatch.setattr("learners.conformance.checks.random_log", short)
    conformance.check(name, make_spec(learner, features=24), seed=1)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_rehearsal_ends_with_a_step_like_all_later_ones(kind) -> None:
    """A shard folds so many events before it serves: what it compiles then stalls nobody."""
    spec = make_spec({"kind": kind, **KINDS[kind]})
    built, rows = spec.learner.build(spec), spec.learner.rehearsal()
    built.fold(Batch.of(np.zeros((rows - 1, 3)), np.zeros(rows - 1), classes=(0,)))
    memory, steps = getattr(built._model, "memory", None), built._shared.counters[C_STEPS]
    assert memory is None or len(memory) > spec.learner.replay
    built.fold(Batch.of(np.zeros((1, 3)), np.zeros(1), classes=(0,)))
    assert built._shared.counters[C_STEPS] == steps + 1


REHEARSE = """
import gc, json, sys
import numpy as np
from numba.core.dispatcher import Dispatcher
from learners import conformance
from learners.spec import ModelSpec
from streams.batch import Batch

def compiled():
    found = (one.py_func.__name__ for one in gc.get_objects() if issubclass(type(one), Dispatcher) and one.overloads)
    return sorted(found)

for given in json.loads(sys.argv[1]):
    spec = ModelSpec.model_validate(given)
    rows = spec.learner.rehearsal()
    zeros = Batch.of(np.zeros((rows, 3)), np.zeros(rows), classes=(0,))
    learner = spec.learner.build(spec)
    learner.predict(zeros, probabilities=True)
    learner.fold(zeros)
    before = compiled()
    for seed in range(3):
        log = conformance.random_log(spec, seed)
        learner.fold(log)
        learner.predict(log, probabilities=True)
    assert compiled() == before, (spec.learner.kind, set(compiled()) - set(before))
"""
"""What a shard does before it serves, in a process of its own: nothing was compiled there before."""


def test_after_a_rehearsal_nothing_is_compiled() -> None:
    specs = [make_spec({"kind": kind, **KINDS[kind]}, arrive="delayed").model_dump(mode="json") for kind in KINDS]
    subprocess.run([sys.executable, "-c", REHEARSE, json.dumps(specs)], check=True)


def test_a_step_that_is_not_finite_is_not_taken() -> None:
    """It is the label that completes the mini-batch that says so; predictions stay finite.

    Inputs and steps are bounded, so that no events lead there: the weights are set.
    """
    spec = make_spec({"kind": "er", **REPLAY, "rate": 100.0}, "binary", features=2)
    built = spec.learner.build(spec)
    built._model.net.body.theta[:] = 3e38
    x = np.tile([[3e37, 1e37], [-3e37, 2e37]], (30, 1))
    folded = built.fold(Batch.of(x, np.tile([0.0, 1.0], 30)))
    lost = np.flatnonzero(folded.outcome & NONFINITE)
    assert lost.tolist() == list(range(2, 60, 3))
    assert not (folded.outcome[lost] & LEARNED).any()
    assert np.isfinite(folded.value).all()
    assert all(np.isfinite(array).all() for array in built.shared_arrays().values() if array.dtype.kind == "f")


@pytest.mark.parametrize(
    ("learner", "target", "said"),
    [
        ({"kind": "er"}, "regression", "learner 'er' learns classes; accepted targets: binary, multiclass"),
        ({"kind": "er", "buffer": {"size": 9}}, "binary", r"buffer.size 9: accepted: replay \(10\) or more"),
        ({"kind": "er", "buffer": {"kind": "ring"}}, "binary", "'reservoir', 'balanced' or 'fifo'"),
        ({"kind": "er", "buffer": {"size": 1_000_000}}, "binary", None),
        ({"kind": "er", "network": {"kind": "resnet18", "image": [3, 32, 32]}}, "binary", "3072 numbers.* 3"),
        ({"kind": "finetune", "buffer": {}}, "binary", "Extra inputs"),
        ({"kind": "pcr", "bias": True}, "binary", "bias"),
        ({"kind": "pec", "batch": 10}, "binary", "batch"),
        ({"kind": "er", "network": {"hidden": [65536, 65536]}}, "binary", "the network takes .* bytes"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused(learner, target, said) -> None:
    if said is None:
        assert make_spec(learner, target)
        return
    with pytest.raises(ValidationError, match=said):
        make_spec(learner, target)


def test_images_that_do_not_fit_are_refused() -> None:
    for network, said in (
        ({**IMAGES["random_conv"], "patch": 5}, "network.pool 2: patches of 5 every 1 are laid 0 times"),
        ({**IMAGES["random_conv"], "patch": 3, "stride": 2}, "are laid 1 times"),
    ):
        with pytest.raises(ValidationError, match=said):
            make_spec({"kind": "er", "network": network}, features=24)
    with pytest.raises(ValidationError, match="batch 1: batch normalisation"):
        make_spec({"kind": "er", "batch": 1, "network": IMAGES["resnet18"]}, features=24)
    categories = {"name": "c", "categories": 3}
    with pytest.raises(ValidationError, match="have categories, learner 'er' accepts numbers only"):
        ModelSpec.model_validate(
            {"name": "m", "features": [categories], "target": {"kind": "binary"}, "learner": {"kind": "er"}}
        )
