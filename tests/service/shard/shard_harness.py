"""A shard in this process or in its own, and the fold that it has to equal."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import cache
from typing import Any

import grpc
import numpy as np
import pytest

from learners.base import Folded, Learner
from learners.spec import ModelSpec
from service.api import continual_v1_pb2 as pb
from service.client import Client
from service.errors import Refused, from_rpc_error
from service.ports import free_port
from service.shard.config import ShardConfig
from service.shard.server import Server
from service.shard.shard import Shard
from service.store.connect import connect
from service.store.embedded import EmbeddedRedis
from service.wire import Schema, columns_from, decode_columns, slice_columns
from streams.batch import Batch
from streams.reach import Reach

OPEN = Reach(folders=("/",))
FEATURES = ("a", "b", "c")
TARGETS: dict[str, dict[str, Any]] = {
    "binary": {"kind": "binary", "labels": ["DOWN", "UP"]},
    "multiclass": {"kind": "multiclass"},
    "regression": {"kind": "regression"},
}



def spec_of(name: str, kind: str = "binary", *, units: int = 4, labels: Any = None, **deployment: Any) -> ModelSpec:
    return ModelSpec.model_validate(
        {
            "name": name,
            "features": [{"name": f, "missing": "mean" if f == "c" else "refuse"} for f in FEATURES],
            "target": TARGETS[kind],
            "learner": {"kind": "recurrent", "cell": {"units": units}},
            "labels": labels or {},
            "deployment": deployment,
        }
    )


@cache
def one_loop() -> asyncio.AbstractEventLoop:
    """The event loop of all shards in this process, on a thread of its own: grpc.aio wants one per process."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()
    return loop


class LocalShard:
    """A shard on a thread of this process; what would end its process is kept in `failures`."""

    def __init__(self, redis: str, **config: Any) -> None:
        self.failures: list[BaseException] = []
        self.config = ShardConfig(redis, **{"port": free_port(), "reach": OPEN, **config})
        self.target = f"127.0.0.1:{self.config.port}"
        self.run(self._start(), 900.0)  # kernels may be compiled first

    async def _start(self) -> None:
        self.shard = Shard(self.config, self.failures.append)
        self.server = Server(self.shard)
        await self.shard.start(await self.server.start())
        await self.server.open_public()

    def run(self, work: Coroutine[Any, Any, Any], timeout: float = 60.0) -> Any:
        """The result of a coroutine on the shard's loop."""
        return asyncio.run_coroutine_threadsafe(work, one_loop()).result(timeout)

    def partition(self, model: str, id: str = "0") -> Any:
        return self.shard.partitions[model, id]

    def learner(self, model: str) -> Any:
        return self.partition(model).learner

    def stop(self) -> None:
        async def stop() -> None:
            await self.server.stop(0.5)
            await self.shard.stop()

        self.run(stop())


class ShardOfItsOwn:
    """A shard as a process."""

    COMMAND: tuple[str, ...] = ("-m", "service.shard.actor")

    def __init__(self, redis: str, *, wait: bool = True, **config: Any) -> None:
        self.config = ShardConfig(redis, **{"port": free_port(), "reach": OPEN, **config})
        self.target = f"127.0.0.1:{self.config.port}"
        self.start(wait)

    def start(self, wait: bool = True) -> None:
        """Starts the process (again, on the same port)."""
        command = [sys.executable, *self.COMMAND, json.dumps(asdict(self.config))]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        if wait:
            self.wait_ready()

    def wait_ready(self) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    def end(self, number: int) -> int:
        """Sends a signal and waits for the end; returns the exit code."""
        self.process.send_signal(number)
        return self.process.wait(30)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


def events(kind: str, rows: int, *, keys: int = 7, seed: int = 0, by_id: bool = False) -> dict[str, Any]:
    """Columns as `columns_from` takes them; labels depend on the features and the key's past."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, len(FEATURES))).astype(np.float32)
    key = rng.integers(0, keys, rows)
    y: Any
    score = x[:, 0] + 0.5 * np.sin(np.arange(rows) / 9.0)
    if kind == "binary":
        y = np.where(score > 0, "UP", "DOWN").tolist()
    elif kind == "regression":
        y = score.astype(float)
    else:  # texts and integers, new ones as the stream goes on
        names = ["red", 7, "green", -3, "blau", 2**40]
        limit = 2 + np.arange(rows) * len(names) // rows
        y = [names[min(int(v * 2) % len(names), m - 1)] for v, m in zip(np.abs(score), np.minimum(limit, len(names)))]
    out: dict[str, Any] = {"x": x, "y": y, "key": [f"k{k}" for k in key]}
    if by_id:
        out["id"] = [f"e{i}" for i in range(rows)]
    return out


def columns(spec: ModelSpec, given: dict[str, Any]) -> pb.Columns:
    return columns_from(**given, target=spec.target)


def cut(whole: pb.Columns, schema: Schema, sizes: Iterator[int] | list[int]) -> list[pb.Columns]:
    """The rows of `whole` in pieces of `sizes`, the last one short or as long as what is left."""
    pieces, at = [], 0
    for size in sizes:
        if at >= whole.rows:
            break
        pieces.append(head_of(slice_columns(whole, at, schema), min(size, whole.rows - at), schema))
        at += size
    if at < whole.rows:
        pieces.append(slice_columns(whole, at, schema))
    return pieces


def head_of(whole: pb.Columns, rows: int, schema: Schema) -> pb.Columns:
    """The first rows of columns."""
    lengths = np.frombuffer(whole.key_length, "<u4")[:rows]
    ids = np.frombuffer(whole.id_length, "<u4")[:rows]
    return pb.Columns(
        rows=rows,
        x=whole.x[: rows * schema.width * 4],
        kind=whole.kind[:rows],
        y=whole.y[: rows * 8],
        code=whole.code[: rows * 4],
        labels=whole.labels,
        key=whole.key[: int(lengths.sum())],
        key_length=lengths.tobytes(),
        time_us=whole.time_us[: rows * 8],
        id=whole.id[: int(ids.sum())],
        id_length=ids.tobytes(),
    )


def batch_of(spec: ModelSpec, given: dict[str, Any]) -> Batch:
    return decode_columns(columns(spec, given), Schema.of(spec))


def fold(spec: ModelSpec, *batches: Batch) -> tuple[Learner, Folded]:
    """The fold in this process, without slots to be short of."""
    free = spec.model_copy(update={"deployment": spec.deployment.model_copy(update={"slots": 65_536})})
    learner = free.learner.build(free)
    return learner, Folded.concat([learner.fold(batch) for batch in batches])


def digest(client: Client, model: str) -> str:
    return client.models.statistics(model, digest=True).digest


def same_answers(results: list[Any], folded: Folded) -> None:
    """The answers of a stream, in order, against those of the fold: to the bit."""
    value = np.concatenate([r.predictions.value for r in results])
    np.testing.assert_array_equal(value.view(np.int64), folded.value.view(np.int64))
    np.testing.assert_array_equal(np.concatenate([r.predictions.outcome for r in results]), folded.outcome)
    if len(results[0].predictions.code):
        np.testing.assert_array_equal(np.concatenate([r.predictions.code for r in results]), folded.code)
    positions = [r.predictions.position for r in results]
    assert positions == np.cumsum([0] + [r.rows for r in results])[:-1].tolist()


def learn_requests(
    spec: ModelSpec, given: dict[str, Any], sizes: Iterator[int] | list[int], producer: str = "p"
) -> list[pb.LearnRequest]:
    """What a producer sends for these events, cut into batches."""
    out, at = [], 0
    for piece in cut(columns(spec, given), Schema.of(spec), sizes):
        out.append(pb.LearnRequest(model=spec.name, producer=producer, sequence=at, columns=piece))
        at += piece.rows
    return out


@contextmanager
def paused_writes(server: EmbeddedRedis, seconds: float = 5.0) -> Iterator[None]:
    """Holds back every write in the store, as a slow disk would, until the block ends."""
    client = connect(server.url)
    client.execute_command("CLIENT", "PAUSE", int(seconds * 1000), "WRITE")
    try:
        yield
    finally:
        client.execute_command("CLIENT", "UNPAUSE")
        client.close()


def until(condition: Callable[[], Any], seconds: float = 20.0) -> Any:
    """Waits for a condition; fails where it does not come true."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)
    return value


def refused_by(call: Callable[[], Any]) -> Refused:
    """The refusal of a unary call."""
    with pytest.raises(grpc.RpcError) as error:
        call()
    return from_rpc_error(error.value)
