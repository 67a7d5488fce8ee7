"""Writes the golden data folder of a release: every kind of learner, as that release left it when it was killed.

Run it once for each release, in a checkout of it, before the next one changes anything:

    PYTHONPATH=tests/service/shard python tests/golden/write.py tests/golden/0.1.tar.gz

The archive holds the store's append-only file, the signing key, and `said.json`: the position of every model and what
it predicted for `PROBES` at the end. `tests/service/shard/test_upgrade.py` opens it with the build of today.
"""

from __future__ import annotations

import json
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from shard_harness import TARGETS, ShardOfItsOwn, events

from learners.river import signing
from learners.spec import ModelSpec
from service.client import Client
from service.store.embedded import EmbeddedRedis

ROWS = 120
CELLS = ("mingru", "minlstm", "elstm", "lru", "rtu", "hgrn", "s5", "ssm")
HEADS: dict[str, dict[str, str]] = {
    "linear": {},
    "kalman": {},
    "ridge": {},
    "lda": {"target": "multiclass"},
    "nearest_mean": {"target": "multiclass"},
    "neighbours": {"target": "multiclass"},
    "lofi": {"target": "multiclass"},
}
SMALL = {"batch": 3, "network": {"hidden": [7]}}
REPLAY = {**SMALL, "replay": 4, "buffer": {"size": 20}}
METHODS: dict[str, dict[str, Any]] = {
    "finetune": SMALL,
    "er": {**REPLAY, "standardise": True},
    "uer": {**REPLAY, "buffer": {"kind": "balanced", "size": 20}},
    "er_ace": REPLAY,
    "der": REPLAY,
    "agem": REPLAY,
    "mir": {**REPLAY, "candidates": 10},
    "pcr": REPLAY,
    "ewc": {**SMALL, "period": 20},
    "pec": {"teacher": 50, "units": 4, "outputs": 6},
}
TREE = {"path": "river.tree.HoeffdingTreeClassifier", "parameters": {"grace_period": 20}}
QUEUE = {"kind": "redis_stream", "stream": "golden-events", "fields": {"key": "key"}}
PROBES = [[0.5, -1.0, 0.25], [-2.0, 0.0, 1.0], [0.0, 0.0, 0.0], [1.5, 1.5, -1.5]]


def models() -> list[dict[str, Any]]:
    """The specs, as a user would have written them for that release."""

    def spec(name: str, learner: dict[str, Any], target: str = "binary", **rest: Any) -> dict[str, Any]:
        return {
            "name": name,
            "features": ["a", "b", {"name": "c", "missing": "mean"}],
            "target": TARGETS[target] | ({"max_classes": 32} if target == "multiclass" else {}),
            "learner": learner,
            **rest,
        }

    made = [spec(f"cell-{kind}", {"cell": {"kind": kind, "units": 4}}) for kind in CELLS]
    for kind, how in HEADS.items():
        target = how.get("target", "regression")
        made.append(spec(f"head-{kind}", {"kind": "static", "head": {"kind": kind}}, target))
    made += [spec(f"method-{kind}", {"kind": kind, **learner}, "multiclass") for kind, learner in METHODS.items()]
    made += [
        spec("defaults", {"cell": {"units": 4}}, "regression"),
        spec("tail", {"cell": {"units": 4}}, deployment={"slots": 4}),
        spec("ekf", {"cell": {"units": 4}, "optimizer": {"kind": "ekf"}}),
        spec("river", {"kind": "river", "estimator": TREE}),
        spec("drift", {"kind": "drift", "learner": {"cell": {"units": 4}}}),
        spec("split", {"cell": {"units": 4}}),
        spec("late", {"cell": {"units": 4}}, labels={"arrive": "delayed", "pending": 3}),
        spec("queues", {"cell": {"units": 4}}, deployment={"sources": [QUEUE]}),
    ]
    return made


def learn(client: Client, spec: dict[str, Any], seed: int, rows: int = ROWS) -> None:
    """Sends events; a model with late labels gets labels by id for the even ones."""
    given = events(spec["target"]["kind"], rows, seed=seed)
    if spec["name"] == "late":
        given["id"] = [f"{seed}-{i}" for i in range(rows)]
        labels = given.pop("y")
        given["y"] = [None] * rows
        later = {"y": labels[::2], "key": given["key"][::2], "id": given["id"][::2]}
    for result in client.learn(spec["name"], [given]):
        assert result.rows == rows
    if spec["name"] == "late":
        for key, id, y in zip(later["key"][-12:], later["id"][-12:], later["y"][-12:]):
            client.label(spec["name"], id, key, y)


def said(client: Client, name: str) -> dict[str, Any]:
    """What a model says at its position."""
    keys = [f"k{i}" for i in range(len(PROBES))]
    answer = client.predict(name, PROBES, key=keys)
    statistics = client.models.statistics(name, digest=True)
    model = client.models.get(name)
    return {
        "position": model.position,
        "partitions": len(model.partitions),
        "value": np.asarray(answer.value, float).tolist(),
        "code": np.asarray(answer.code).tolist(),
        "digest": statistics.digest or [part.digest for part in statistics.partitions],
        "counts": {name: count for name, count in sorted(statistics.counts.items()) if count},
    }


def main(archive: Path) -> None:
    """Writes the archive."""
    with tempfile.TemporaryDirectory() as folder, EmbeddedRedis(Path(folder) / "redis") as store:
        data = Path(folder) / "data"
        data.mkdir()
        key = signing.make_key(data)
        shard = ShardOfItsOwn(store.url, signing_key=str(key))
        specs = models()
        for spec in specs:
            ModelSpec.model_validate(spec)
        with Client(shard.target) as client:
            for spec in specs:
                print(spec["name"], flush=True)
                client.models.create(spec, timeout=600)
                learn(client, spec, seed=1)
            client.models.split("split")
            for spec in specs:
                client.models.snapshot(spec["name"])
            for spec in specs:  # what comes after the snapshot is replayed from the log
                if spec["name"] in ("tail", "late", "split"):
                    learn(client, spec, seed=2, rows=30)
            answers = {spec["name"]: said(client, spec["name"]) for spec in specs}
        shard.end(9)
        shard.close()
        store.stop()
        (data / "said.json").write_text(json.dumps(answers, indent=1, sort_keys=True))
        for path in (Path(folder) / "redis").glob("*.aof"):
            path.rename(data / path.name)
        with tarfile.open(archive, "w:gz", compresslevel=9) as tar:
            for path in sorted(data.iterdir()):
                tar.add(path, path.name)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
