"""Learners from mini-batches behind a shard: what is held is the fold, also when it is killed amid a mini-batch."""

from __future__ import annotations

import json
import signal

import numpy as np
import pytest
from shard_harness import TARGETS, LocalShard, batch_of, columns, digest, events, fold, same_answers

from learners.spec import ModelSpec
from service.client import Client
from service.errors import Refused

SMALL = {"batch": 7, "standardise": True}
LEARNERS = {
    "uer": {**SMALL, "network": {"hidden": [8]}, "buffer": {"kind": "balanced", "size": 30}},
    "ewc": {**SMALL, "network": {"hidden": [4]}, "period": 40},
    "pec": {"teacher": 30, "units": 4, "outputs": 5},
}


def spec_with(name: str, learner: dict, target: str = "multiclass", features: int = 3) -> ModelSpec:
    names = ["a", "b", "c"] if features == 3 else [f"p{k}" for k in range(features)]
    return ModelSpec.model_validate({"name": name, "features": names, "target": TARGETS[target], "learner": learner})


@pytest.mark.parametrize("kind", sorted(LEARNERS))
def test_served_killed_and_recovered(start_shard, name, kind) -> None:
    """A snapshot at an event that ends no mini-batch, a kill after more, and the rest."""
    spec = spec_with(name, {"kind": kind, **LEARNERS[kind]})
    parts = [events("multiclass", rows, seed=seed) for seed, rows in enumerate((150, 101, 99))]
    shard = start_shard()
    with Client(shard.target) as client:
        client.models.create(spec, timeout=300)
        said = list(client.learn(name, [columns(spec, parts[0])]))
        client.models.snapshot(name)
        said += list(client.learn(name, [columns(spec, parts[1])]))
        learner, folded = fold(spec, *(batch_of(spec, part) for part in parts[:2]))
        same_answers(said, folded)
        assert digest(client, name) == learner.digest()
    shard.end(signal.SIGKILL)
    shard.start()
    with Client(shard.target) as client:
        assert digest(client, name) == learner.digest(), "as it was before the kill"
        questions = events("multiclass", 20, seed=9)
        predicted = client.predict(name, questions["x"])
        wanted = learner.predict(batch_of(spec, questions))
        np.testing.assert_array_equal(predicted.value, wanted.value)
        list(client.learn(name, [columns(spec, parts[2])]))
        whole, _ = fold(spec, *(batch_of(spec, part) for part in parts))
        assert digest(client, name) == whole.digest()


def test_a_network_in_pytorch_says_what_its_bits_depend_on(local: LocalShard, name) -> None:
    network = {"kind": "resnet18", "image": [1, 4, 4], "width": 1}
    spec = spec_with(name, {"kind": "er", "network": network}, features=16)
    with Client(local.target) as client:
        client.models.create(spec, timeout=300)
        x, y = np.random.default_rng(0).normal(size=(25, 16)).astype(np.float32), ["a", "b"] * 12 + ["a"]
        list(client.learn(name, [columns(spec, {"x": x, "y": y})]))
        statistics = client.models.statistics(name, digest=True)
        assert {"kernels", "fold", "torch", "resnet"} <= set(json.loads(statistics.fingerprint))
        learner, _ = fold(spec, batch_of(spec, {"x": x, "y": y}))
        assert statistics.digest == learner.digest()


def test_a_spec_that_does_not_fit_is_refused_by_field(local: LocalShard, name) -> None:
    text = spec_with(name, {"kind": "er"}).to_json().replace('"size":200', '"size":5')
    with Client(local.target) as client:
        with pytest.raises(Refused, match=r"buffer.size 5: accepted: replay \(10\) or more"):
            client.models.create(text)
        assert not [model for model in client.models.list() if model.name == name]
