"""What a spec may say of its sources and sinks."""

from __future__ import annotations

import pytest
from pydantic import TypeAdapter, ValidationError

from learners.spec import ModelSpec
from streams.sinks.spec import Sink
from streams.sources.spec import Source

KAFKA = {"kind": "kafka", "bootstrap": "b:1", "topic": "t"}
REDIS = {"kind": "redis_stream", "stream": "s"}
FOLDER = {"kind": "folder", "path": "/in"}


def model(*sources, **more):
    spec = {"name": "m", "features": ["a", "b"], "target": {"kind": "binary"}, "deployment": {"sources": sources}}
    return ModelSpec.model_validate(spec | more)


def test_sources_are_no_part_of_the_digest_and_come_back_from_json():
    start = {"time": "2024-05-01T12:00:00+02:00"}
    spec = model(KAFKA | {"start": start}, REDIS | {"start": {"position": "5-1"}, "fields": {"features": {"a": "x"}}})
    assert ModelSpec.model_validate_json(spec.to_json()) == spec
    assert spec.digest() == model().digest()
    assert [source.producer for source in spec.deployment.sources] == ["kafka:t", "redis:s"]
    assert model(FOLDER).deployment.sources[0].producer == "folder:/in"
    assert model(KAFKA | {"name": "again"}).deployment.sources[0].producer == "kafka:again:t"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ({"kind": "rabbit"}, "kafka"),
        (KAFKA | {"topic": "a/b"}, "topic"),
        (KAFKA | {"bootstrap": ""}, "bootstrap"),
        (KAFKA | {"start": "yesterday"}, "start"),
        (KAFKA | {"start": {"time": "2024-05-01T12:00:00"}}, "time zone"),
        (KAFKA | {"start": {"position": "5-1"}}, "offset"),
        (KAFKA | {"options": {"auto.offset.reset": "latest"}}, "auto.offset.reset"),
        (KAFKA | {"options": {"sasl.password": "x"}}, "password_env"),
        (REDIS | {"start": {"position": 5}}, "entry id"),
        (REDIS | {"start": {"position": "x"}}, "accepted"),
        (REDIS | {"url": "http://h"}, "redis://"),
        (REDIS | {"url": "redis://u:secret@h"}, "password_env"),
        (REDIS | {"stream": ""}, "stream"),
        (REDIS | {"payload": None, "envelope": "cloudevents"}, "payload"),
        (REDIS | {"payload": None, "envelope": "arrow"}, "payload"),
        (KAFKA | {"envelope": "arrow", "fields": {"time": "$time"}}, "a row has none"),
        (REDIS | {"batch": 0}, "batch"),
        (REDIS | {"unknown": 1}, "unknown"),
        (FOLDER | {"path": "in"}, "path"),
        (FOLDER | {"start": {"position": 1}}, "start"),
        (FOLDER | {"lost": "latest"}, "lost"),
        (FOLDER | {"envelope": "plain"}, "envelope"),
        (FOLDER | {"fields": {"key": "$key"}}, "a row has none"),
    ],
)
def test_what_does_not_fit_is_named(source, said):
    with pytest.raises(ValidationError, match=said):
        TypeAdapter(Source).validate_python(source)


@pytest.mark.parametrize(
    ("sources", "said"),
    [
        ([KAFKA, KAFKA | {"start": "latest"}], "kafka:t"),
        ([KAFKA | {"fields": {"features": {"c": "x"}}}], "no features"),
        ([KAFKA | {"fields": {"label": "a"}}], "'a' is a feature too"),
        ([KAFKA | {"fields": {"features": {"a": "b"}}}], "twice"),
    ],
)
def test_what_does_not_fit_the_model_is_named(sources, said):
    with pytest.raises(ValidationError, match=said):
        model(*sources)


def test_sinks_are_no_part_of_the_digest_and_come_back_from_json():
    spec = {"name": "m", "features": ["a"], "target": {"kind": "binary"}}
    to = [{"kind": "redis_stream", "stream": "s", "name": "two"}, KAFKA]
    whole = ModelSpec.model_validate(spec | {"deployment": {"sinks": to}})
    assert ModelSpec.model_validate_json(whole.to_json()) == whole
    assert whole.digest() == ModelSpec.model_validate(spec).digest()
    assert [sink.identity for sink in whole.deployment.sinks] == ["redis:two:s", "kafka:t"]
    with pytest.raises(ValidationError, match="sinks must differ, these are there twice: kafka:t"):
        ModelSpec.model_validate(spec | {"deployment": {"sinks": [KAFKA, KAFKA | {"behind": 5000}]}})


@pytest.mark.parametrize(
    ("sink", "said"),
    [
        ({"kind": "folder", "path": "/x"}, "kafka"),
        (KAFKA | {"topic": "a/b"}, "topic"),
        (KAFKA | {"options": {"transactional.id": "x"}}, "transactional.id"),
        (KAFKA | {"options": {"sasl.password": "x"}}, "password_env"),
        (KAFKA | {"behind": 10}, "behind"),
        (REDIS | {"url": "redis://u:secret@h"}, "password_env"),
        (REDIS | {"keep": 0}, "keep"),
        (REDIS | {"lost": "latest"}, "lost"),
    ],
)
def test_what_does_not_fit_a_sink_is_named(sink, said):
    with pytest.raises(ValidationError, match=said):
        TypeAdapter(Sink).validate_python(sink)
