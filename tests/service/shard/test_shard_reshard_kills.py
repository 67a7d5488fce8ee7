"""A shard is killed at every step of a split, a merge and a move, while events come: one side or the other holds."""

from __future__ import annotations

import signal
import threading
from contextlib import suppress
from pathlib import Path

import pytest
from reshard_harness import Folds, all_ids, batches, map_of
from shard_harness import LocalShard, ShardOfItsOwn, spec_of, until
from test_shard_routing import named

from service.client import Client
from service.errors import Refused
from service.store.connect import connect
from service.store.partition_map import Range

REPLACING = (
    "prepared in the map",
    "rows copied ahead",
    "prepared in the log",
    "rows copied",
    "children written",
    "committed",
)
MOVING = ("written ahead", "prepared in the log", "written", "committed")


class HaltingShard(ShardOfItsOwn):
    """The first of two shards; stops at a step once it was told to."""

    def __init__(self, redis: str, port: int, step: str) -> None:
        self.COMMAND = (str(Path(__file__).with_name("halting_shard.py")), step)
        super().__init__(redis, index=0, shards=2, port=port)

    def arm(self) -> None:
        self.process.send_signal(signal.SIGUSR1)

    def wait_halted(self) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline().startswith("halted at ")


class Traffic:
    """A producer that goes on until it is told to stop."""

    def __init__(self, target: str, model: str) -> None:
        self.given: list[dict] = []
        self.answered = 0
        self._more = threading.Event()
        self._more.set()
        self._error: BaseException | None = None
        self._target, self._model = target, model
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _source(self):
        whole = batches(200_000, 40, keys=50)
        for batch in whole:
            if not self._more.is_set():
                return
            self.given.append(batch)
            yield batch

    def _run(self) -> None:
        try:
            with Client(self._target) as client:
                for result in client.learn(self._model, self._source(), in_flight=4, timeout=60):
                    assert result.rows == 40
                    self.answered += 1
        except BaseException as error:
            self._error = error

    def wait_for_more(self, batches: int = 5) -> None:
        goal = self.answered + batches
        until(lambda: self.answered >= goal or self._error, 60)
        assert self._error is None

    def end(self) -> None:
        self._more.clear()

    def stop(self) -> None:
        self.end()
        self._thread.join(60)
        assert self._error is None
        assert self.answered == len(self.given)


@pytest.fixture
def second(own_server):
    shard = LocalShard(own_server.url, index=1, shards=2)
    yield shard
    shard.stop()
    assert not shard.failures


def killed_at(what, steps, second, url, spec, change, before=lambda models: None):
    """Creates a model, does what goes `before`, and makes a change under traffic, once for every step, killed there.

    Returns the batches that were sent.
    """
    traffic = None
    shard = None
    model = spec.name
    try:
        for step in [*steps, ""]:
            shard = HaltingShard(url, second.config.port, f"{what}: {step}")
            with Client(second.shard.address) as client:
                if traffic is None:
                    client.models.create(spec)
                    before(client.models)
                    traffic = Traffic(second.shard.address, model)
                traffic.wait_for_more()
                until(lambda: client.models.get(model).state == "serving")
                if step:
                    shard.arm()
                    asking = threading.Thread(target=ask, args=(second.shard.address, change))
                    asking.start()
                    shard.wait_halted()
                    shard.end(signal.SIGKILL)
                    asking.join()
        assert traffic is not None
        traffic.stop()
        return traffic.given
    finally:
        if traffic is not None:
            traffic.end()  # a test that failed leaves no producer behind
        if shard is not None:
            shard.close()


def ask(target, change):
    with Client(target) as client, suppress(Refused):  # the one that is asked is killed
        change(client.models)


def check(second, url, spec, given, history):
    """Every event is in a log once, every partition is the fold of its log, and nothing else is left in the store.

    Returns the digests of these folds.
    """
    model = spec.name
    sent = [id for batch in given for id in batch["id"]]
    assert sorted(all_ids(url, spec)) == sorted(sent)
    held = map_of(url, model)
    assert (held.prepared, held.dropped) == ((), ())
    folds = Folds(url, spec)
    found = {part.id: folds.fold(part, parents).digest() for part, parents in history}
    ids = {key.split(b"}")[0].split(b"/")[-1].decode() for key in connect(url).keys(f"*/{model}/*")}
    assert ids == {part.id for part, _ in history}
    return found


SOME = ("rows copied ahead", "children written", "committed")
"""The steps that `make test` stops at; the others take their time."""

slow = pytest.mark.long


@pytest.mark.timeout(240)
@pytest.mark.parametrize("steps", [SOME, pytest.param(REPLACING, marks=slow)], ids=["some", "all"])
def test_a_shard_killed_while_it_splits(second, own_server, steps):
    model = named(0, "split")

    def split(models):
        models.split(model, shards=["shard-0"])

    given = killed_at("split", steps, second, own_server.url, spec_of(model, slots=9), split)
    parts = map_of(own_server.url, model).partitions
    assert len(parts) == 2
    history = [(Range("0"), None), *((part, ["0"]) for part in parts)]
    check(second, own_server.url, spec_of(model, slots=9), given, history)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("steps", [SOME[1:], pytest.param(REPLACING, marks=slow)], ids=["some", "all"])
def test_a_shard_killed_while_it_merges(second, own_server, steps):
    model = named(0, "merge")
    parts = []

    def split(models):
        models.split(model, shards=["shard-0"])
        parts.extend(map_of(own_server.url, model).partitions)

    def merge(models):
        models.merge(model, "1", "2")

    given = killed_at("merge", steps, second, own_server.url, spec_of(model, slots=9), merge, split)
    (whole,) = map_of(own_server.url, model).partitions
    assert whole.whole
    history = [(Range("0"), None), *((part, ["0"]) for part in parts), (whole, ["1", "2"])]
    check(second, own_server.url, spec_of(model, slots=9), given, history)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("steps", [MOVING[-2:], pytest.param(MOVING, marks=slow)], ids=["some", "all"])
def test_a_shard_killed_while_it_moves_a_partition(second, own_server, steps):
    model = named(0, "move")

    def move(models):
        models.move(model, "0", "shard-1")

    given = killed_at("move", steps, second, own_server.url, spec_of(model, slots=9), move)
    (whole,) = map_of(own_server.url, model).partitions
    assert whole.shard == "shard-1"
    check(second, own_server.url, spec_of(model, slots=9), given, [(whole, None)])
    folded = second.partition(model).learner
    assert folded.position == 40 * len(given)


EXCHANGING = ("exchange published", "committed")


@pytest.mark.timeout(240)
def test_a_shard_killed_while_it_splits_a_model_whose_partitions_exchange(second, own_server):
    spec = spec_of(named(0, "exchanging"), slots=9, exchange={"every": 40})

    def split(models):
        models.split(spec.name, shards=["shard-0", "shard-1"])

    given = killed_at("split", EXCHANGING, second, own_server.url, spec, split)
    parts = map_of(own_server.url, spec.name).partitions
    assert len(parts) == 2
    check(second, own_server.url, spec, given, [(Range("0"), None), *((part, ["0"]) for part in parts)])


@pytest.mark.timeout(240)
def test_a_shard_killed_while_it_exchanges(second, own_server):
    """Between any two writes of an exchange; the other shard goes on meanwhile."""
    spec = spec_of(named(0, "exchange"), slots=9, exchange={"every": 40})

    def split(models):
        models.split(spec.name, shards=["shard-0", "shard-1"])

    steps = ("published", "logged", "folded")
    given = killed_at("exchange", steps, second, own_server.url, spec, lambda models: None, split)
    parts = map_of(own_server.url, spec.name).partitions
    assert len(parts) == 2
    first = LocalShard(own_server.url, index=0, shards=2, port=second.config.port)
    history = [(Range("0"), None), *((part, ["0"]) for part in parts)]

    def served():
        learners = {id: one.learner for shard in (first, second) for (_, id), one in shard.shard.partitions.items()}
        assert all(learner.exchange.counts[0] >= 2 for learner in learners.values())
        return {id: learner.digest() for id, learner in learners.items()}

    def as_logged():
        wanted = check(second, own_server.url, spec, given, history)
        return served() == {part.id: wanted[part.id] for part in parts}

    until(as_logged)  # what the killed one published last may be taken only now
    first.stop()
    assert not first.failures
