"""River's estimators behind a shard: the answers of River in process, after a kill too, and tampering."""

from __future__ import annotations

import pickle
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from shard_harness import TARGETS, LocalShard, batch_of, columns, digest, events, fold

from learners.base import hash_shared
from learners.river import signing
from learners.spec import ModelSpec
from service.client import Client
from service.errors import Refused
from service.shard.config import DEPLOYMENT
from service.store.connect import connect
from service.store.ownership import OwnerRecord
from service.store.partition import Partition as Store
from service.store.snapshot import RESERVED

TREE = {"path": "river.tree.HoeffdingTreeClassifier", "parameters": {"grace_period": 20}}
FOREST = {"path": "river.forest.ARFClassifier", "parameters": {"n_models": 3, "grace_period": 20, "seed": 7}}


def spec_with(name: str, estimator: dict, kind: str, **deployment) -> ModelSpec:
    return ModelSpec.model_validate(
        {
            "name": name,
            "features": ["a", "b", "c"],
            "target": TARGETS[kind],
            "learner": {"kind": "river", "estimator": estimator},
            "deployment": deployment,
        }
    )


class ByHand:
    """River in a loop, fed the same dictionaries."""

    def __init__(self, model) -> None:
        self.model = model
        self.last: dict[str, int] = {}
        self.number: dict[object, int] = {}

    def fold(self, given: dict, labels: list | None) -> list[dict]:
        said = []
        for x, label, key in zip(given["x"].tolist(), given["y"], given["key"]):
            features = dict(zip("abc", x)) | ({"last_label": self.last[key]} if key in self.last else {})
            y = labels.index(label) if labels else self.number.setdefault(label, len(self.number))
            said.append(self.model.predict_proba_one(features))
            self.model.learn_one(features, bool(y) if labels else y)
            self.last[key] = y
        return said


def values(said: list[dict], binary: bool) -> list[float]:
    given = [(d.get(True, 0.0) if binary else max(d.values()), sum(d.values())) if d else (0.0, 0.0) for d in said]
    return [value / total if total else (0.5 if binary else 0.0) for value, total in given]


def test_a_tree_and_a_forest_are_served_killed_and_recovered(start_shard, name, key) -> None:
    from river.forest import ARFClassifier
    from river.tree import HoeffdingTreeClassifier

    tree, forest = spec_with(f"{name}-t", TREE, "multiclass"), spec_with(f"{name}-f", FOREST, "binary", slots=4)
    hands = {
        tree.name: ByHand(HoeffdingTreeClassifier(grace_period=20)),
        forest.name: ByHand(ARFClassifier(n_models=3, grace_period=20, seed=7)),
    }
    shard = start_shard(signing_key=key)
    for number in range(4):  # a snapshot after the second part, a kill after the third
        with Client(shard.target) as client:
            for spec in (tree, forest):
                kind = spec.target.kind
                given = events(kind, 150, seed=number)
                if number == 0:
                    client.models.create(spec, timeout=120)
                parts = list(client.learn(spec.name, [columns(spec, given)]))
                said = hands[spec.name].fold(given, TARGETS["binary"]["labels"] if kind == "binary" else None)
                value = np.concatenate([part.predictions.value for part in parts])
                np.testing.assert_allclose(value, values(said, kind == "binary"), rtol=1e-14)
                if number == 1:
                    client.models.snapshot(spec.name)
        if number == 2:
            shard.end(signal.SIGKILL)
            shard.start()
    with Client(shard.target) as client:
        for spec in (tree, forest):
            learner, _ = fold(spec, *(batch_of(spec, events(spec.target.kind, 150, seed=s)) for s in range(4)))
            assert digest(client, spec.name) == learner.digest(), "as folded in this process, without a kill"


def test_a_shard_without_a_key_refuses_the_model(local: LocalShard, name, monkeypatch) -> None:
    monkeypatch.setattr(signing, "_given", False)
    with Client(local.target) as client:
        with pytest.raises(Refused, match=r"must be signed.*--signing-key FILE.*CONTINUAL_SIGNING_KEY") as refused:
            client.models.create(spec_with(name, TREE, "binary"))
        assert refused.value.reason == "NO_SIGNING_KEY"
        assert [model.name for model in client.models.list()] == []


@pytest.fixture
def keyed(own_server, key) -> Iterator[LocalShard]:
    """A shard with a key, in this process."""
    shard = LocalShard(own_server.url, signing_key=key)
    yield shard
    shard.stop()
    assert not shard.failures


def test_what_river_has_not_is_refused_by_field(keyed, name) -> None:
    bad = spec_with(name, TREE, "binary").to_json().replace("river.tree", "os.tree")
    with Client(keyed.target) as client:
        with pytest.raises(Refused, match="accepted: the import path of one of River's classes") as refused:
            client.models.create(bad)
        assert refused.value.violations[0].field.startswith("spec.learner")
        assert not client.models.list()


def test_a_label_of_another_type_is_refused_in_the_midst(keyed, name) -> None:
    x = {"a": 1.0, "b": 0.0, "c": 0.0}
    wrong = {"binary": ("UP", 1.5), "regression": (2.5, "UP"), "multiclass": ("red", 0.5)}
    estimators = {"regression": {"path": "river.tree.HoeffdingTreeRegressor"}}
    with Client(keyed.target) as client:
        for kind, (label, other) in wrong.items():
            model = f"{name}-{kind}"
            client.models.create(spec_with(model, estimators.get(kind, TREE), kind), timeout=120)
            client.update(model, x, label)
            before = digest(client, model)
            with pytest.raises(Refused) as refused:
                client.update(model, x, other)
            assert refused.value.reason == "LABEL_TYPE"
            assert digest(client, model) == before


def put_in_place(url: str, spec: ModelSpec, **changed: bytes) -> dict[str, np.ndarray]:
    """What somebody who can write the store can do: other arrays in the snapshot, all digests right.

    Returns:
        the arrays as they were.
    """
    client = connect(url)
    store = Store(client, DEPLOYMENT, spec.name)
    token = store.acquire(OwnerRecord.here("intruder", "nowhere:1"))
    snapshot = store.load_snapshot()
    assert snapshot is not None
    arrays = snapshot.arrays | {name: np.frombuffer(data, np.uint8) for name, data in changed.items()}
    names = spec.learner.build(spec).shared_arrays().keys()
    shared = hash_shared({name: arrays[name] for name in names & arrays.keys()}).hexdigest()
    manifest = {name: value for name, value in snapshot.manifest.items() if name not in RESERVED}
    writer = store.begin_snapshot(token, snapshot.position)
    writer.write(arrays)
    writer.commit(manifest | {"shared_digest": shared})
    client.close()
    return snapshot.arrays


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_shard_does_not_read_what_it_has_not_signed(start_shard, own_server, name, key, tmp_path) -> None:
    spec = spec_with(name, TREE, "binary")
    written = tmp_path / "log"
    shard = start_shard(signing_key=key, log=str(written))
    with Client(shard.target) as client:
        client.models.create(spec, timeout=120)
        list(client.learn(name, [columns(spec, events("binary", 100))]))
        client.models.snapshot(name)
        before = digest(client, name)
    shard.end(signal.SIGKILL)
    touched = tmp_path / "touched"
    good = put_in_place(own_server.url, spec, estimator=pickle.dumps(Evil(touched)))
    shard.start()
    with Client(shard.target) as client:
        shown = client.models.get(name)
        assert shown.state == "failed", "it is not served rather than read"
        assert "not signed with this deployment's key" in shown.partitions[0].reason
    assert not touched.exists()
    assert "not signed with this deployment's key" in written.read_text()
    shard.end(signal.SIGKILL)
    put_in_place(own_server.url, spec, estimator=good["estimator"].tobytes())
    shard.start()
    with Client(shard.target) as client:
        assert digest(client, name) == before, "nothing else was changed"
