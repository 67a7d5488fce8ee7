from __future__ import annotations

import numpy as np
import pytest
from river import datasets

from streams.mapping import BadRow, Mapping
from streams.river_source import LABEL, read_river, river_mapping


@pytest.mark.parametrize("dataset", [datasets.Phishing(), datasets.ImageSegments(), datasets.TrumpApproval()])
def test_reads_what_river_yields(dataset: datasets.base.Dataset) -> None:
    mapping = river_mapping(dataset)
    pairs = list(dataset)
    batches = list(read_river(dataset, mapping, rows=400))
    assert batches[-1][0] == len(pairs)
    at = 0
    for offset, batch in batches:
        assert offset == at + len(batch)
        for row, (x, y) in enumerate(pairs[at:offset]):
            np.testing.assert_array_equal(
                batch.x[row], np.array([x[n] for n in mapping.features], np.float32)
            )
            assert (batch.classes[int(batch.y[row])] if batch.classes else batch.y[row]) == y
        at = offset


def test_resumes() -> None:
    mapping = river_mapping(datasets.Phishing())
    whole = np.concatenate([batch.x for _, batch in read_river(datasets.Phishing(), mapping)])
    offset, batch = next(read_river(datasets.Phishing(), mapping, rows=10, start=1200))
    assert offset == 1210
    np.testing.assert_array_equal(batch.x, whole[1200:1210])
    with pytest.raises(ValueError, match="offset 1251 lies beyond the end of the stream, at 1250"):
        next(read_river(datasets.Phishing(), mapping, start=1251))


def test_bad_events_are_told_apart() -> None:
    pairs = [
        ({"a": 1.0}, 0),
        ({"a": "red"}, 1),
        ({}, 1),
        ({"a": 2.0}, None),
        ({"a": 3.0}, 5),
        ({"a": 4}, True),
    ]
    mapping = Mapping(("a",), LABEL)
    dead: list[BadRow] = []
    batches = [batch for _, batch in read_river(pairs, mapping, on_bad=dead.append)]
    assert [(bad.row, bad.column, bad.value) for bad in dead] == [
        (1, "a", "red"),
        (2, "a", None),
        (4, LABEL, 5),
    ]
    assert np.concatenate([batch.x for batch in batches]).ravel().tolist() == [1.0, 2.0, 4.0]
    np.testing.assert_array_equal(np.concatenate([batch.y for batch in batches]), [0, np.nan, 1])
    with pytest.raises(BadRow, match="row 1, column 'a': 'red'"):
        list(read_river(pairs, mapping))


def test_a_stream_without_numbers_is_refused() -> None:
    with pytest.raises(ValueError, match="no numeric features"):
        river_mapping(datasets.AirlinePassengers())
    with pytest.raises(ValueError, match="several targets"):
        river_mapping(datasets.Yeast())
