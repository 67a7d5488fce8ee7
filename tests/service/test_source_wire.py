"""What the parser of messages takes for an event, admission takes too: no message can stop a source."""

from __future__ import annotations

import json

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from learners.spec import ModelSpec, source_mapping
from service.wire import Schema, decode_columns, encode_columns
from streams.sources.messages import MessageParser, Messages

VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=300),
    st.lists(st.integers(), max_size=2),
    st.sampled_from(["UP", "DOWN", "2024-01-01T00:00:00Z", 0, 1, 1e101]),
)
EVENTS = st.dictionaries(st.sampled_from(["a", "b", "label", "card", "at", "id"]), VALUES)
KINDS = ("binary", "multiclass", "regression")
TARGETS = [{"kind": "binary", "labels": ["DOWN", "UP"]}, *({"kind": kind} for kind in KINDS)]


@given(st.lists(EVENTS, min_size=1, max_size=8), st.sampled_from(TARGETS), st.booleans(), st.booleans())
@settings(max_examples=400, deadline=None)
def test_what_is_parsed_is_admitted(events, target, clock, pending):
    fields = {"key": "card", "id": "id"} | ({"time": "at"} if clock else {})
    spec = ModelSpec.model_validate(
        {
            "name": "m",
            "features": ["a", {"name": "b", "missing": "mean"}],
            "target": target,
            "labels": {"pending": int(pending)},
            "deployment": {"sources": [{"kind": "redis_stream", "stream": "s", "fields": fields}]},
        }
    )
    parser = MessageParser(source_mapping(spec, spec.deployment.sources[0]))
    values = [json.dumps(event).encode() for event in events]
    parsed = parser.parse(Messages("p", 0, len(values), range(len(values)), values))
    good = 0
    if parsed.batch is not None:
        schema = Schema.of(spec)
        admitted = decode_columns(encode_columns(parsed.batch, schema.target, parsed.ids), schema)
        good = len(admitted)
        for column in ("x", "y", "kind", "time", "id"):
            np.testing.assert_array_equal(getattr(admitted, column), getattr(parsed.batch, column))
    assert good + len(parsed.bad) == len(events)
