"""Messages become columns; what is no event is named, whatever stands beside it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.batch import LABEL, LABELLED, OBSERVATION
from streams.mapping import Mapping, hash_ids
from streams.sources.messages import MessageParser, Messages
from streams.sources.redis_ids import id_of, number_of

PLAIN = Mapping(("a", "b"), "label", key="card", time="at", id="id", missing=("b",), time_unit="us")
GOOD = b'{"a": 1.5, "b": 2, "label": 1, "card": "c7", "at": 1700000000000000, "id": "e1", "more": [{"x": null}]}'
POISON = {
    "nothing": b"",
    "tombstone": None,
    "blank": b" \n ",
    "not JSON": b"\x00\x01\x02",
    "cut off": GOOD[:30],
    "two objects": GOOD + GOOD,
    "object and more": GOOD + b" x",
    "ends like an object": b'{"a":}',
    "an array": b"[1, 2]",
    "a number": b"3",
    "begins what the next would end": b'{"a": 1.5,',
    "ends what none began": b'"b": 2}' + GOOD,
    "text for a number": b'{"a": "1.5"}',
    "null for a number": b'{"a": null}',
    "no features": b'{"label": 1}',
    "infinite": b'{"a": 1e39}',
    "beyond double": b'{"a": 1e999}',
    "not a number": b'{"a": NaN}',
    "unknown label": b'{"a": 1, "label": 2}',
    "label of another type": b'{"a": 1, "label": "1"}',
    "label is an object": b'{"a": 1, "label": {}}',
    "a field twice": b'{"a": 1, "a": 2}',
    "not UTF-8": b'{"a": 1, "card": "\xff"}',
    "half a character": b'{"a": 1, "card": "\xc3"}',
    "key too long": b'{"a": 1, "at": 1, "card": "' + b"k" * 1025 + b'"}',
    "id too long": b'{"a": 1, "at": 1, "id": "' + b"k" * 257 + b'"}',
    "no time": b'{"a": 1}',
    "before the epoch": b'{"a": 1, "at": -5}',
    "time is no time": b'{"a": 1, "at": "yesterday"}',
    "deeply nested": b'{"a": ' + b"[" * 50_000 + b"]" * 50_000 + b"}",
}


def messages(values, **beside):
    numbers = range(100, 100 + len(values))
    return Messages("kafka:t/0", 100, 100 + len(values), numbers, values, **beside)


def test_good_messages_become_columns():
    other = b'\n{"b": null,\n "a": -1, "card": "c8", "at": "2023-11-14T22:13:20Z"}'
    parsed = MessageParser(PLAIN).parse(messages([GOOD, other]))
    batch = parsed.batch
    assert not parsed.bad
    np.testing.assert_array_equal(batch.x, np.array([[1.5, 2], [-1, np.nan]], np.float32))
    assert batch.kind.tolist() == [LABELLED, OBSERVATION]
    assert batch.y[0] == 1
    assert [batch.key[0], batch.key[1]] == [b"c7", b"c8"]
    assert batch.time.tolist() == [1700000000000000] * 2
    assert parsed.ids == ["e1", ""]
    assert (batch.id == hash_ids([b"e1", b""])).all()


@pytest.mark.parametrize("how", POISON)
@pytest.mark.parametrize("before", [0, 1, 5])
def test_poison_is_named_and_disturbs_nobody(how, before):
    values = [GOOD] * before + [POISON[how]] + [GOOD] * 3
    parsed = MessageParser(PLAIN).parse(messages(values))
    assert [index for index, _ in parsed.bad] == [before]
    bad = parsed.bad[0][1]
    assert bad.original == (POISON[how] or b"")
    assert "accepted: " in str(bad)
    assert len(parsed.batch) == before + 3
    assert (parsed.batch.x == np.float32([1.5, 2])).all()


@given(st.lists(st.sampled_from(["good", *POISON]), min_size=1, max_size=12))
@settings(max_examples=60, deadline=None)
def test_any_mixture_is_sorted_out(kinds):
    values = [GOOD if kind == "good" else POISON[kind] for kind in kinds]
    parsed = MessageParser(PLAIN).parse(messages(values))
    assert [index for index, _ in parsed.bad] == [index for index, kind in enumerate(kinds) if kind != "good"]
    good = kinds.count("good")
    assert (0 if parsed.batch is None else len(parsed.batch)) == good == len(parsed.ids)


@pytest.mark.parametrize("cut", [1, 2, 3, 7])
def test_what_a_message_says_does_not_depend_on_its_neighbours(cut):
    """Labels and keys keep the type that they have, however messages are read together."""
    mapping = Mapping(("a",), "label", key="card", target="multiclass")
    labels = [1, "1", True, "x", None, -3, "x"]
    cards = ["7", 7, "k", None, 7, "", "7"]
    values = [json.dumps({"a": i, "label": y, "card": c}).encode() for i, (y, c) in enumerate(zip(labels, cards))]
    told = []
    for at in range(0, 7, cut):
        batch = MessageParser(mapping).parse(messages(values[at : at + cut])).batch
        told += [None if np.isnan(y) else batch.classes[int(y)] for y in batch.y]
        assert [batch.key[i].decode() for i in range(len(batch))] == [str(c or "") for c in cards[at : at + cut]]
    assert list(map(repr, told)) == ["1", "'1'", "1", "'x'", "None", "-3", "'x'"]


def test_labels_come_late_where_the_spec_has_room_for_them():
    mapping = Mapping(("a", "b"), "label", id="id", missing=("b",), late=True)
    values = [b'{"a": 1, "id": "e"}', b'{"id": "e", "label": 1}', b'{"label": 1}', b'{"b": 1, "id": "e", "label": 1}']
    parsed = MessageParser(mapping).parse(messages(values))
    assert parsed.batch.kind.tolist() == [OBSERVATION, LABEL]
    assert parsed.ids == ["e", "e"]
    assert [(index, bad.column) for index, bad in parsed.bad] == [(2, "a"), (3, "a")]


CE = Mapping(("a",), "label", key="$key", time="$time", id="$id", time_unit="us")


def test_both_modes_of_cloud_events_and_plain_ones():
    event = {"specversion": "1.0", "id": "e1", "source": "/s", "type": "t", "time": "2023-11-14T22:13:20Z"}
    structured = json.dumps(event | {"partitionkey": "p", "data": {"a": 2, "label": 1}}).encode()
    headers = [
        {"content-type": b"application/cloudevents+json; charset=UTF-8"},
        {"ce_specversion": b"1.0", "ce_id": b"e2", "ce_source": b"/s", "ce_type": b"t"},
        {"content-type": b"application/json"},
        {"ce_specversion": b"0.3", "ce_id": b"e2", "ce_source": b"/s"},
        {"content-type": b"application/cloudevents+json"},
        {"content-type": b"application/cloudevents+json"},
    ]
    plain = b'{"a": 3, "label": 0}'
    none = json.dumps(event | {"data_base64": "AAAA"}).encode()
    old = json.dumps(event | {"specversion": "0.3", "data": {"a": 2}}).encode()
    values = [structured, plain, plain, plain, none, old]
    held = messages(values, headers=headers, keys=[b"k"] * 6, times=[9] * 6)
    parsed = MessageParser(CE).parse(held)
    batch = parsed.batch
    assert [index for index, _ in parsed.bad] == [3, 4, 5]
    assert parsed.ids == ["/s#e1", "/s#e2", ""]
    assert [batch.key[i] for i in range(3)] == [b"p", b"k", b"k"]
    assert batch.time.tolist() == [1700000000000000, 9, 9]
    assert batch.x[:, 0].tolist() == [2, 3, 3]
    assert batch.y.tolist() == [1, 0, 0]


def test_fields_without_types():
    mapping = Mapping(("a", "b"), "label", key="card", time="at", target="multiclass", missing=("b",), time_unit="ms")
    entry = {b"a": b"1.5", b"b": b"", b"label": b"7", b"card": b"c", b"at": b"1700000000000"}
    values = [entry, entry | {b"a": b"x"}, {b"b": b"1"}, entry | {b"label": b"red"}, entry | {b"card": b"\xff"}]
    parsed = MessageParser(mapping).parse(messages(values))
    assert [(index, bad.column) for index, bad in parsed.bad] == [(1, "a"), (2, "a"), (4, "card")]
    assert json.loads(parsed.bad[0][1].original)["a"] == "x"
    assert parsed.batch.classes == ("7", "red")
    assert parsed.batch.time.tolist() == [1700000000000000] * 2
    whole = MessageParser(mapping, label_as="integer").parse(messages(values))
    assert whole.batch.classes == (7,)
    assert [index for index, _ in whole.bad] == [1, 2, 3, 4]


def test_ids_of_a_redis_stream_keep_their_order_as_numbers():
    ids = ["0-0", "0-1", "1526919030474-0", "1526919030474-55", "1526919030475-0", f"{2**42 - 1}-{2**20 - 1}"]
    numbers = [number_of(id) for id in ids]
    assert numbers == sorted(set(numbers))
    assert max(numbers) < 2**62
    assert [id_of(number) for number in numbers] == ids
    assert number_of("5") == number_of(b"5-0")
    for bad in ("", "-1", "1-2-3", "x-1", f"{2**42}-0", f"1-{2**20}"):
        with pytest.raises(ValueError, match="accepted"):
            number_of(bad)
