"""A deployment under Ray: it starts, learns, survives the death of a shard, and starts again."""

import os
import signal

import numpy as np
import pytest

from learners.spec import ModelSpec
from service.client import Client
from service.ports import free_port
from service.serve import Deployment, PortTaken, ServeOptions
from service.wire import Schema, columns_from, decode_columns

SPEC = ModelSpec.model_validate(
    {
        "name": "spine",
        "features": ["a", "b", "c"],
        "target": {"kind": "binary", "labels": ["DOWN", "UP"]},
        "learner": {"kind": "recurrent", "cell": {"units": 4}},
        "deployment": {"slots": 5},
    }
)
ROWS = 1200



def stream():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(ROWS, 3)).astype(np.float32)
    key = [f"k{k}" for k in rng.integers(0, 30, ROWS)]
    return columns_from(x, np.where(x[:, 0] > 0, "UP", "DOWN"), key=key, target=SPEC.target)


def batches(whole):
    """The stream in batches of 40."""
    batch = decode_columns(whole, Schema.of(SPEC))
    return [batch.slice(at, at + 40) for at in range(0, ROWS, 40)]


def shard_process(deployment):
    import ray

    return ray.get(deployment.actors["shard-0"].ready.remote(), timeout=60)


@pytest.mark.timeout(120)
def test_a_shard_under_ray_is_killed_and_recovers(tmp_path):
    options = ServeOptions(data=tmp_path, port=free_port(), shards=1)
    whole = stream()
    learner = SPEC.learner.build(SPEC)
    folded = learner.fold(decode_columns(whole, Schema.of(SPEC)))
    with Deployment(options) as deployment:
        with pytest.raises(PortTaken, match=str(options.port)):
            Deployment(options).start()
        first = shard_process(deployment)
        with Client(deployment.address, deployment.deployment) as client:
            client.models.create(SPEC)
            results = []
            for result in client.learn("spine", batches(whole), in_flight=4, timeout=60):
                results.append(result)
                if len(results) == 15:
                    os.kill(first, signal.SIGKILL)
            assert sum(result.rows for result in results) == ROWS
            known = [(r.predictions.position, r.predictions.value) for r in results if len(r.predictions)]
            for position, value in known:
                assert value.tobytes() == folded.value[position : position + len(value)].tobytes()
            assert client.models.get("spine").position == ROWS
            assert client.models.statistics("spine", digest=True).digest == learner.digest()
            assert shard_process(deployment) != first
            identity = deployment.deployment
    with Deployment(options) as deployment, Client(deployment.address, identity) as client:
        assert client.health() == "SERVING"
        assert deployment.deployment == identity
        assert client.models.get("spine").position == ROWS
        assert client.models.statistics("spine", digest=True).digest == learner.digest()
        assert client.update("spine", {"a": 0.0, "b": 0.0, "c": 0.0}, "UP").position == ROWS
