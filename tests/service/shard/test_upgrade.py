"""Data folders of releases before this one: they open, every model serves, and predicts as it did."""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shard_harness import LocalShard, events, spec_of

from learners.river import signing
from learners.spec import ModelSpec
from service.client import Client
from service.errors import Refused
from service.store.embedded import EmbeddedRedis

pytestmark = pytest.mark.timeout(1200)  # the fold of every learner may have to be compiled
GOLDEN = Path(__file__).resolve().parents[2] / "golden"
KINDS = "agem der drift er er_ace ewc finetune mir pcr pec recurrent river static uer"
"""Of learners, in 0.1."""

REPLAYED = ("tail", "late", "split")
"""Models with events after their snapshot, which the build of today folds by its own rules."""


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LocalShard, Client, dict[str, Any]]]:
    """A shard on the folder that 0.1 left."""
    folder = tmp_path_factory.mktemp("golden")
    before = signing._key, signing._given
    with tarfile.open(GOLDEN / "0.1.tar.gz") as tar:
        # Python 3.11 has filters from its fourth release on; the folder is this repository's own.
        tar.extractall(folder, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    with EmbeddedRedis(folder) as store:
        shard = LocalShard(store.url, signing_key=str(next(folder.glob("*key*"))))
        with Client(shard.target) as client:
            yield shard, client, json.loads((folder / "said.json").read_text())
        shard.stop()
        signing._key, signing._given = before
        assert not shard.failures


def test_every_kind_of_learner_of_then_is_in_the_folder(opened) -> None:
    shard, _, _ = opened
    specs = [ModelSpec.stored(text) for text in shard.shard.catalog.list().values()]
    assert {spec.learner.kind for spec in specs} == set(KINDS.split())


def test_every_model_serves_at_its_position_and_predicts_the_same(opened) -> None:
    _, client, said = opened
    for name, then in said.items():
        now = client.models.get(name)
        assert (now.state, now.position, len(now.partitions)) == ("serving", then["position"], then["partitions"]), name
        answer = client.predict(name, PROBES, key=[f"k{i}" for i in range(len(PROBES))])
        close = 0.2 if name in REPLAYED else 1e-4
        np.testing.assert_allclose(answer.value, then["value"], rtol=close, atol=close, err_msg=name)


PROBES = [[0.5, -1.0, 0.25], [-2.0, 0.0, 1.0], [0.0, 0.0, 0.0], [1.5, 1.5, -1.5]]


def test_what_was_sent_before_is_known_and_the_model_learns_on(opened) -> None:
    _, client, said = opened
    spec = ModelSpec.model_validate_json(client.models.get("defaults").spec_json)
    assert client.models.create(spec, exist_ok=True).position == said["defaults"]["position"]
    given = events("regression", 20, seed=9)
    assert sum(result.rows for result in client.learn("defaults", [given])) == 20
    assert client.models.get("defaults").position == said["defaults"]["position"] + 20


def test_a_spec_written_before_a_field_was_added_is_the_same_spec(local, name) -> None:
    """The text of a store may lack a field: as if the field had come with this build."""
    spec = spec_of(name)
    content = json.loads(spec.to_json())
    del content["learner"]["clip"]
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    local.shard.catalog.create(name, text)
    with Client(local.target) as client:
        assert client.models.create(spec, exist_ok=True).position == 0
        content["learner"]["clip"] = 3.0
        with pytest.raises(Refused, match="MODEL_EXISTS"):
            client.models.create(content, exist_ok=True)


def test_the_digest_leaves_defaults_out_and_keeps_kinds() -> None:
    spec = spec_of("m")
    written = json.loads(spec.to_json())
    brief = ModelSpec.model_validate({"name": "m", **{name: written[name] for name in ("features", "target")}}
                                     | {"learner": {"kind": "recurrent", "cell": {"kind": "mingru", "units": 4}}})
    assert brief.digest() == spec.digest()
    other = spec.model_copy(update={"target": spec_of("m", "regression").target})
    assert other.digest() != spec.digest()
    assert spec.model_copy(update={"deployment": spec_of("m", slots=5).deployment}).digest() == spec.digest()
    changed = json.loads(spec.to_json())
    changed["learner"]["clip"] = 3.0
    assert ModelSpec.model_validate(changed).digest() != spec.digest()


def test_a_digest_of_rule_1_is_that_of_the_stored_text() -> None:
    text = spec_of("m").to_json()
    content = json.loads(text)
    del content["deployment"]
    rule_1 = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    assert ModelSpec.stored(text).digests() == (spec_of("m").digest(), rule_1)
