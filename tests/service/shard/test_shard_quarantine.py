"""Events that stopped the fold: kept by the partition that met them, found and sent again whatever became of it."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from reshard_harness import logged, map_of
from shard_harness import batch_of, digest, events, spec_of

from continual.cli import main
from learners.compiled import CompiledLearner
from service.api import continual_v1_pb2 as pb
from service.client import Client

MARK = 12345.0


@pytest.fixture
def poisoned(monkeypatch):
    """An event whose first feature is `MARK` stops the fold, until the learner is mended."""
    fold = CompiledLearner.fold

    def stopped(self, batch):
        if (batch.x[:, 0] == MARK).any():
            raise RuntimeError("the marked event")
        return fold(self, batch)

    monkeypatch.setattr(CompiledLearner, "fold", stopped)
    return monkeypatch


def command(target, *arguments, code=0):
    done = CliRunner().invoke(main, ["events", "dead-letters", *arguments, "--target", target, "--json"])
    assert done.exit_code == code, (done.output, done.exception)
    return json.loads(done.stdout)


def test_what_stopped_the_fold_is_listed_and_sent_again_after_splits_and_merges(local, own_server, poisoned, name):
    spec = spec_of(name)
    given = events("binary", 60, by_id=True)
    given["x"][37, 0] = MARK
    target = local.target
    with Client(target) as client:
        client.models.create(spec)
        (answer,) = client.learn(name, [given], producer="p")
        assert np.flatnonzero(answer.predictions.outcome == pb.OUTCOME_QUARANTINED).tolist() == [37]
        one = {"a": MARK, "b": 0.5, "c": 1.0}
        held = command(target, "list", "--model", name)
        assert [(one["partition"], one["number"]) for one in held["dead_letters"]] == [("0", 37)]
        assert held["dead_letters"][0]["reason"] == "its fold raised RuntimeError: the marked event, twice, alone"
        client.models.split(name)
        alone = client.update(name, one, "UP", key="k", id="alone")
        assert alone.outcome.tolist() == [pb.OUTCOME_QUARANTINED]
        assert client.models.statistics(name).counts["quarantined"] == 2
        poisoned.undo()
        client.models.merge(name, "1", "2")
        held = command(target, "list", "--model", name)
        first, second = held["dead_letters"]
        assert (held["total"], first["partition"]) == (2, "0")
        assert second["partition"] in map_of(own_server.url, name).retired[1:]
        after = ("list", "--model", name, "--count", "1", "--after")
        pages = [command(target, *after, one["id"])["dead_letters"] for one in (first, second)]
        assert pages == [[second], []]
        shown = {"features": one, "key": "k", "time": 0}
        assert command(target, "show", second["id"], "--model", name) == second | {"event": shown}
        before = digest(client, name)
        for _ in range(2):
            sent = command(target, "retry", first["id"], second["id"], "--model", name)["outcomes"]
            assert [one["sent"] for one in sent] == [True, True]
        mended = command(target, "retry", first["id"], "--payload", "{}", "--model", name, code=1)["outcomes"]
        assert "--payload is for a message of a source" in mended[0]["reason"]
        assert command(target, "list", "--model", name)["total"] == 2
        again = logged(own_server.url, spec, "3")
        assert [ids for ids, _ in again] == [["e37"], ["alone"]]
        np.testing.assert_array_equal(again[0][1].x, batch_of(spec, given).x[37:38])
        assert digest(client, name) != before
