"""Every recurrent cell is served by changing nothing but the spec: what is held is the fold, after a kill too."""

import signal

from shard_harness import batch_of, columns, digest, events, fold, same_answers, spec_of

from learners.cells.base import cells
from learners.spec import ModelSpec
from service.client import Client


def spec_with(name: str, kind: str) -> ModelSpec:
    spec = spec_of(name).model_dump(mode="json")
    learner = {"kind": "recurrent", "cell": {"kind": kind, "units": 4}, "dtype": "float64"}
    return ModelSpec.model_validate({**spec, "learner": {**learner, "layers": 2, "encoder": {"units": 3}}})


def test_every_cell_is_served_and_recovered(start_shard, name) -> None:
    specs = [spec_with(f"{name}-{kind}", kind) for kind in sorted(cells())]
    first, second = events("binary", 200, seed=1), events("binary", 100, seed=2)
    shard = start_shard()
    with Client(shard.target) as client:
        for spec in specs:
            client.models.create(spec, timeout=300)
            said = list(client.learn(spec.name, [columns(spec, first)]))
            learner, folded = fold(spec, batch_of(spec, first))
            same_answers(said, folded)
            assert digest(client, spec.name) == learner.digest(), spec.name
    shard.end(signal.SIGKILL)
    shard.start()
    with Client(shard.target) as client:
        for spec in specs:
            list(client.learn(spec.name, [columns(spec, second)]))
            whole, _ = fold(spec, batch_of(spec, first), batch_of(spec, second))
            assert digest(client, spec.name) == whole.digest(), spec.name
