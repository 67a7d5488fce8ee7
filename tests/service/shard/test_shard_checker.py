"""Specs are checked beside the shard: those that take long, or all memory, or end the process, harm nobody else."""

import asyncio
import json
import threading
from pathlib import Path

import grpc
import psutil
import pytest
import strange_learners
from shard_harness import refused_by, spec_of, until

from learners.spec import MAX_SPEC_BYTES, LearnerSpec, ModelSpec
from service.api import continual_v1_pb2 as pb
from service.api import continual_v1_pb2_grpc as api
from service.client import Client
from service.errors import Refused
from service.shard import checker
from service.shard.checker import Checker
from streams.mapping import SHOWN, twice

del LearnerSpec.registry["strange"]  # other tests go through all learners

INVALID = grpc.StatusCode.INVALID_ARGUMENT


@pytest.fixture
def strange(monkeypatch):
    """The learner of `strange_learners`, for this test alone."""
    LearnerSpec.known()
    monkeypatch.setitem(LearnerSpec.registry, "strange", strange_learners.StrangeSpec)
    return lambda name="m", **how: json.dumps(
        {"name": name, "features": ["a"], "target": {"kind": "binary"}, "learner": {"kind": "strange", **how}}
    )


@pytest.fixture
def check():
    checkers = []

    def check(text, **limits):
        checkers.append(Checker(**limits))
        return asyncio.run(checkers[-1].accept(text)), checkers[-1]

    yield check
    for one in checkers:
        one.close()


def refusal(check, text, **limits):
    with pytest.raises(Refused) as refused:
        check(text, **limits)
    assert refused.value.code is INVALID
    return refused.value


def test_what_fits_is_given_back_as_it_is_kept(check):
    spec = spec_of("m")
    short = json.dumps({"name": "m", "features": ["a"], "target": {"kind": "binary"}})
    assert check(spec.to_json())[0] == spec.to_json()
    assert check(short)[0] == ModelSpec.model_validate_json(short).to_json()
    assert ModelSpec.stored(spec.to_json()).to_json() == spec.to_json()


@pytest.mark.parametrize("what", ["checked", "built"])
def test_a_spec_that_takes_too_much_processor_time_is_refused_by_the_limit(check, strange, what):
    limits = {"check_seconds": 1 if what == "checked" else 60, "compile_seconds": 1}
    refused = refusal(check, strange(**{what: "works"}), **limits)
    assert refused.reason == "CHECK_TOO_LONG"
    assert "at most 1 s of processor time" in refused.message


@pytest.mark.parametrize("what", ["checked", "built"])
def test_a_spec_that_sleeps_too_long_is_refused_by_the_limit(check, strange, what):
    refused = refusal(check, strange(**{what: "sleeps"}), wait_seconds=20.0)
    assert refused.reason == "CHECK_TOO_LONG"
    assert "at most 20 s" in refused.message


def test_time_that_a_spec_waits_for_the_processor_does_not_count(check, strange):
    assert "strange" in check(strange(checked="sleeps", seconds=12.0), check_seconds=10)[0]


def test_a_spec_that_takes_too_much_memory_is_refused_by_the_limit(check, strange):
    refused = refusal(check, strange(checked="grows"), memory_bytes=2 << 30)
    assert refused.reason == "CHECK_FAILED"
    assert "2048 MiB of memory" in refused.message


def test_a_spec_whose_check_ends_its_process_is_refused_and_the_next_one_is_not(strange):
    one = Checker()

    async def both():
        with pytest.raises(Refused, match="status 3"):
            await one.accept(strange(checked="ends"))
        with pytest.raises(Refused, match="it cannot be built"):
            await one.accept(strange(built="raises"))
        return await one.accept(strange())

    assert "strange" in asyncio.run(both())
    one.close()


def test_the_process_begins_with_the_first_spec_and_ends_with_the_last(monkeypatch):
    monkeypatch.setattr(checker, "IDLE_SECONDS", 0.2)
    one = Checker()
    assert one._process is None

    async def used():
        await one.accept(spec_of("m").to_json())
        process = psutil.Process(one._process.pid)
        while process.is_running():
            await asyncio.sleep(0.02)
        assert await one.accept(spec_of("n").to_json())

    asyncio.run(used())
    one.close()


def test_a_shard_has_no_such_process_before_the_first_model_and_leaves_none_behind(start_shard):
    shard = start_shard()
    process = psutil.Process(shard.process.pid)
    assert process.children() == []
    with Client(shard.target) as client:
        client.models.create(spec_of("m"))
        (helper,) = process.children()
        shard.end(9)
        until(lambda: not helper.is_running() or helper.status() == psutil.STATUS_ZOMBIE)


def test_a_process_that_is_busy_ends_with_its_shard(start_shard, strange, monkeypatch):
    monkeypatch.setenv("CONTINUAL_LEARNERS", "strange_learners")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    shard = start_shard()
    process = psutil.Process(shard.process.pid)
    with grpc.insecure_channel(shard.target) as channel:
        asked = api.ModelsStub(channel).Create.future(
            pb.CreateModelRequest(spec_json=strange(checked="sleeps", seconds=600.0))
        )
        (helper,) = until(process.children)
        shard.end(9)
        until(lambda: not helper.is_running() or helper.status() == psutil.STATUS_ZOMBIE)
        assert asked.exception() is not None


def test_other_models_are_served_while_a_spec_is_checked(client, shard, strange, name, monkeypatch):
    client.models.create(spec_of(name))
    made = Checker()
    monkeypatch.setattr(checker, "of_process", lambda: made)
    creating = threading.Thread(target=client.models.create, args=(strange(name + "s", checked="sleeps", seconds=5.0),))
    creating.start()
    until(lambda: made._waiting)
    for _ in range(200):
        client.predict(name, [[1, 2, 3]])
    assert creating.is_alive()
    assert [one.name for one in client.models.list() if one.name == name + "s"] == []
    creating.join()
    assert client.models.get(name + "s").state == "serving"
    made.close()
    for model in (name, name + "s"):
        client.models.delete(model)


def test_more_specs_than_may_wait_are_refused(strange, monkeypatch):
    monkeypatch.setattr(checker, "WAITING", 2)
    one = Checker()

    async def many():
        texts = [spec_of(f"m{i}").to_json() for i in range(4)]
        return await asyncio.gather(*map(one.accept, texts), return_exceptions=True)

    answers = asyncio.run(many())
    assert [type(answer) for answer in answers] == [str, str, Refused, Refused]
    assert answers[2].reason == "CHECKS_WAITING"
    assert answers[2].retry_seconds
    one.close()


def test_bounds_of_a_spec_are_named(channel):
    def create(**spec):
        full = {"name": "never-made", "features": ["a"], "target": {"kind": "binary"}} | spec
        return refused_by(lambda: api.ModelsStub(channel).Create(pb.CreateModelRequest(spec_json=json.dumps(full))))

    assert "at most 100000" in create(features=[f"f{i}" for i in range(100_001)]).message
    assert "at most 200" in create(features=["x" * 201]).message
    refused = create(features=["x" * (MAX_SPEC_BYTES + 1)])
    assert (refused.reason, str(MAX_SPEC_BYTES) in refused.message) == ("SPEC_TOO_LARGE", True)
    again = [f"f{i}" for i in range(30_000)]
    refused = create(features=[*again, "f7", "f9"])
    assert refused.reason == "INVALID_SPEC"
    assert "['f7', 'f9']" in refused.message + refused.violations[0].accepted


class Counted(str):
    """A text that counts how often it is compared."""

    __slots__ = ()
    compared = 0

    def __eq__(self, other):
        Counted.compared += 1
        return str.__eq__(self, other)

    __hash__ = str.__hash__


def test_names_are_searched_for_duplicates_in_linear_time():
    names = [Counted(f"f{i}") for i in range(3000)] + [Counted(f"f{i}") for i in range(100)]
    assert twice(names) == sorted(names[:100])[:SHOWN]
    assert Counted.compared < 20 * len(names)


def test_whatever_a_refusal_says_reaches_the_caller(channel):
    """Trailers of more than 8 KiB would turn into RESOURCE_EXHAUSTED."""
    long = "ф" * 100_000
    models, data = api.ModelsStub(channel), api.OnlineLearningStub(channel)
    spec = {"name": "never-made", "features": ["a"], "target": {"kind": "binary"}}
    event = pb.Event(key=b"k", id=long)
    event.features[long] = 1.0
    calls = [
        lambda one=one: models.Create(pb.CreateModelRequest(spec_json=json.dumps(one)))
        for one in (
            spec | {long[:20_000] + str(i): long[:500] for i in range(20)},
            spec | {"features": [{"name": str(i), "колонка" * 20: 1} for i in range(5000)]},
            spec | {"features": [{"name": str(i) + "😀" * 201} for i in range(2000)]},
            spec | {"name": long},
            spec | {"learner": {"kind": long}},
            spec | {"learner": {"kind": "river", "estimator": {"path": "river." + "x" * 5000}}},
            spec | {"target": {"kind": "binary", "labels": [long, long]}},
            spec | {"deployment": {"sources": [{"kind": "kafka", "topic": long, "servers": long}]}},
        )
    ]
    calls += [
        lambda: models.Get(pb.GetModelRequest(name=long)),
        lambda: models.Split(pb.SplitRequest(name=long, partition=long)),
        lambda: models.ListDeadLetters(pb.ListDeadLettersRequest(name=long, after=long)),
        lambda: data.Predict(pb.PredictRequest(model=long, event=event)),
        lambda: data.Update(pb.UpdateRequest(model=long, event=event)),
        lambda: data.GetProducer(pb.GetProducerRequest(model=long, producer=long)),
    ]
    for call in calls:
        with pytest.raises(grpc.RpcError) as error:
            call()
        assert error.value.code() not in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.INTERNAL), call
        size = sum(len(key) + len(value) + 32 for key, value in error.value.trailing_metadata())
        assert size < 8192
