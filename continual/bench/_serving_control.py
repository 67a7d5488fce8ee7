"""The data plane beside the control plane: how long Predict waits while the service is asked for something else."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from continual.bench import _served
from continual.bench._helpers import Row, Stream, check, cuts, percentiles, ratio_row, repeated, spec, with_keys
from service.client import Client, Refused

BOUND = 3.0
"""Predict's p99 during a control call over its p99 without."""


def beside_control(
    client: Client, stream: Stream, keys: int, trees: int, idle: float
) -> tuple[list[Row], dict[str, Any]]:
    """Predict to one model during each control call, over Predict before and after it.

    Args:
        client: of the service.
        stream: has the events.
        keys: of the model that others ask for while one predicts.
        trees: of the forest that is created.
        idle: seconds of Predict before and after each call, so that what disturbs the machine disturbs both.

    Returns:
        Rows, and details.
    """
    wide = [f"f{number}" for number in range(30_000)]
    small = {"features": ["a"], "target": {"kind": "binary"}}
    forest = {"path": "river.forest.ARFClassifier", "parameters": {"n_models": trees}}
    twice = {"name": "twice", **small, "features": [*wide, wide[0]]}

    def keyed() -> None:
        client.models.create(spec(stream, 16, name="keyed", slots=2 * keys, snapshot_every=10**9))
        for reply in client.learn("keyed", cuts(with_keys(repeated(stream.batch, keys), keys), 4096)):
            check(reply.refused is None, "a row for every key")

    works: dict[str, Callable[[], Any]] = {
        "30,000 features, one name twice, are refused": lambda: _refused(client, twice),
        "a model of 30,000 features is created": lambda: client.models.create(twice | {"features": wide}),
        f"a River forest of {trees} trees is created": lambda: client.models.create(
            {"name": "forest", **small, "learner": {"kind": "river", "estimator": forest}}
        ),
        "models are listed": lambda: [client.models.list() for _ in range(20)],
        "statistics of another model are read with the digest": lambda: client.models.statistics("keyed", digest=True),
        f"a snapshot of {keys:,} keys of another model is written": lambda: client.models.snapshot("keyed", 300),
    }
    keyed()
    return _measured(client, stream, works, idle)


def beside_compiling(stream: Stream, idle: float) -> tuple[list[Row], dict[str, Any]]:
    """The same while a cell is compiled for the first time: by a service with an empty cache of its own."""
    with _empty_cache(), _served.deployed() as deployment, Client(deployment.address) as client:
        created = spec(stream, 16, name="compiled")
        works = {"a cell is compiled for the first time": lambda: client.models.create(created)}
        return _measured(client, stream, works, idle)


@contextmanager
def _empty_cache() -> Iterator[None]:
    name = "NUMBA_CACHE_DIR"
    before = os.environ.get(name)
    with tempfile.TemporaryDirectory() as folder:
        os.environ[name] = folder
        try:
            yield
        finally:
            del os.environ[name]
            if before is not None:
                os.environ[name] = before


def _measured(
    client: Client, stream: Stream, works: dict[str, Callable[[], Any]], idle: float
) -> tuple[list[Row], dict[str, Any]]:
    model = "beside"
    small = {"target": {"kind": "binary"}, "learner": {"kind": "static"}}
    client.models.create({"name": model, "features": stream.mapping.features, **small})
    rows, details = [], {}
    features = str(len(stream.mapping.features))
    with _served.module("_pings", _served.owner(client, model), model, features, stdin=subprocess.PIPE) as pings:
        _served.line(pings)
        for what, work in works.items():
            before = _during(pings, lambda: time.sleep(idle))
            during = _during(pings, work)
            without = before + _during(pings, lambda: time.sleep(idle))
            ours, theirs = percentiles(during), percentiles(without)
            details[what] = {
                "calls": len(during),
                "ms": {"p50": ours[0], "p99": ours[1], "max": 1e3 * max(during)},
                "without_ms": {"p50": theirs[0], "p99": theirs[1], "max": 1e3 * max(without)},
            }
            rows.append(ratio_row(f"Predict p99 while {what}, ms", ours[1], "without", theirs[1], BOUND))
    client.models.delete(model)
    return rows, details


def _during(pings: subprocess.Popen[str], work: Callable[[], Any]) -> list[float]:
    """Seconds of every call that begins before `work` is done; at least one."""
    assert pings.stdin is not None
    for step in (work, lambda: None):
        pings.stdin.write("\n")
        pings.stdin.flush()
        step()
    return json.loads(_served.line(pings))


def _refused(client: Client, given: dict[str, Any]) -> None:
    for _ in range(5):
        try:
            client.models.create(given)
        except Refused as refused:
            check("'f0'" in str(refused), f"a refusal that names the feature, got {refused}")
        else:
            check(False, "a refusal")
