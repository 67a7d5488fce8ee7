"""A snapshot that other numerics wrote is recognised, said so in the log, and loaded."""

from __future__ import annotations

import json
import logging

import pytest
from shard_harness import FEATURES, TARGETS, LocalShard, columns, events

from learners.river import pickles
from learners.spec import ModelSpec
from service.client import Client

TREE = {"path": "river.tree.HoeffdingTreeClassifier"}
LEARNERS = [
    {"kind": "river", "estimator": TREE},
    {"kind": "drift", "learner": {"kind": "recurrent", "cell": {"units": 4}}},
]


@pytest.mark.parametrize("learner", LEARNERS, ids=lambda learner: learner["kind"])
def test_a_snapshot_of_another_river_is_recognised(own_server, name, key, learner, monkeypatch, caplog) -> None:
    model = {"name": name, "features": FEATURES, "target": TARGETS["binary"], "learner": learner}
    spec = ModelSpec.model_validate(model)
    ours = pickles.numerics()
    assert set(ours) == {"river", "python", "numpy"}
    said = []
    for versions in (ours | {"river": "0.1", "numpy": "0.2"}, ours, ours):
        monkeypatch.setattr(pickles, "numerics", lambda versions=versions: versions)
        caplog.clear()
        with caplog.at_level(logging.WARNING, "service.shard.recovery"):
            shard = LocalShard(own_server.url, signing_key=key)
        said.append([record.message for record in caplog.records])
        with Client(shard.target) as client:
            client.models.create(spec, exist_ok=True)
            list(client.learn(name, [columns(spec, events("binary", 30, seed=len(said)))]))
            assert client.models.get(name).position == 30 * len(said)
            assert json.loads(client.models.statistics(name).fingerprint).items() >= versions.items()
        shard.stop()
        assert not shard.failures
    told = f"numpy 0.2 then, {ours['numpy']} now, river 0.1 then, {ours['river']} now"
    assert said == [[], [f"model {name}: numerics differ from those of its snapshot: {told}"], []]
