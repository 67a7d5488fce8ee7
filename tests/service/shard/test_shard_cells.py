"""Every cell and every head is served by changing nothing but the spec: what is held is the fold, after a kill too."""

import signal

import pytest
from shard_harness import batch_of, columns, digest, events, fold, same_answers, spec_of

from learners.cells.base import CellSpec
from learners.heads.base import HeadSpec
from learners.spec import ModelSpec
from service.client import Client


def spec_with(name: str, learner: dict) -> ModelSpec:
    return ModelSpec.model_validate({**spec_of(name).model_dump(mode="json"), "learner": learner})


@pytest.mark.parametrize("cell", sorted(CellSpec.known()))
def test_every_cell_is_served_and_recovered(start_shard, name, cell) -> None:
    plain = {"kind": "recurrent", "dtype": "float64", "layers": 2, "encoder": {"units": 3}}
    assert_served_and_recovered(start_shard, spec_with(name, {**plain, "cell": {"kind": cell, "units": 4}}))


@pytest.mark.parametrize("head", sorted(HeadSpec.known()))
def test_every_head_is_served_and_recovered(start_shard, name, head) -> None:
    plain = {"kind": "static", "features": {"kind": "random", "units": 7}}
    assert_served_and_recovered(start_shard, spec_with(name, {**plain, "head": {"kind": head}}))


def assert_served_and_recovered(start_shard, spec: ModelSpec) -> None:
    first, second = events("binary", 200, seed=1), events("binary", 100, seed=2)
    shard = start_shard()
    with Client(shard.target) as client:
        client.models.create(spec, timeout=300)
        said = list(client.learn(spec.name, [columns(spec, first)]))
        learner, folded = fold(spec, batch_of(spec, first))
        same_answers(said, folded)
        assert digest(client, spec.name) == learner.digest()
    shard.end(signal.SIGKILL)
    shard.start()
    with Client(shard.target) as client:
        list(client.learn(spec.name, [columns(spec, second)]))
        whole, _ = fold(spec, batch_of(spec, first), batch_of(spec, second))
        assert digest(client, spec.name) == whole.digest()
