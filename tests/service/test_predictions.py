"""Predictions on the wire, and as columns."""


import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.api import continual_v1_pb2 as pb
from service.wire import (
    UNCERTAIN,
    predictions_from_proto,
    predictions_to_proto,
)


@settings(deadline=None)
@given(st.integers(0, 5), st.integers(0, 4), st.booleans(), st.booleans())
def test_predictions_round_trip(rows, classes, with_probabilities, with_outcome):
    generator = np.random.default_rng(rows)
    labels = tuple([7, "seven", -1, ""][:classes])
    probabilities = generator.random((rows, classes), np.float32) if with_probabilities else None
    outcome = generator.integers(0, 4, rows).astype(np.uint8) if with_outcome else None
    value, code = generator.random(rows), generator.integers(-1, max(classes, 1), rows).astype(np.int32)
    code = np.minimum(code, classes - 1).astype(np.int32)
    message = predictions_to_proto(5, value, code, labels, probabilities, outcome)
    back = predictions_from_proto(pb.Predictions.FromString(message.SerializeToString()))
    assert (back.position, back.labels, len(back)) == (5, labels, rows)
    np.testing.assert_array_equal(back.value, value)
    np.testing.assert_array_equal(back.code, code)
    assert len(back.outcome) == (rows if with_outcome else 0)
    if with_probabilities and rows and classes:
        np.testing.assert_array_equal(back.probabilities, probabilities)
    assert back.predicted() == ([labels[c] if c >= 0 else None for c in code] if classes or rows else [])


@settings(deadline=None)
@given(st.integers(1, 5), st.sets(st.sampled_from(UNCERTAIN)))
def test_what_is_known_of_the_uncertainty_round_trips(rows, known):
    generator = np.random.default_rng(rows)
    sure = {name: generator.random(rows) if name in known else None for name in UNCERTAIN}
    for array in sure.values():
        if array is not None:
            array[0] = np.nan
    message = predictions_to_proto(5, generator.random(rows), **sure)
    back = predictions_from_proto(pb.Predictions.FromString(message.SerializeToString()))
    for name, array in sure.items():
        np.testing.assert_array_equal(getattr(back, name), array)
    assert len(message.SerializeToString()) < (1 + len(known)) * (8 * rows + 2) + 8  # what is not known takes no bytes
    frame = pd.DataFrame(back.columns())
    assert list(frame) == ["predicted", "value", *(name for name in UNCERTAIN if name in known)]
    assert frame["predicted"].tolist() == back.value.tolist()


def test_probabilities_are_columns_by_label():
    table = np.array([[0.25, 0.75], [0.5, 0.5]], np.float32)
    message = predictions_to_proto(0, np.array([0.75, 0.5]), np.array([1, -1], np.int32), (7, "7"), table)
    frame = pd.DataFrame(predictions_from_proto(message).columns())
    assert frame["predicted"].isna().tolist() == [False, True]
    assert frame["probability", 7].tolist() == [0.25, 0.5]
    assert frame["probability", "7"].tolist() == [0.75, 0.5]


def test_uncertainty_of_the_wrong_length_is_an_error():
    with pytest.raises(ValueError, match=r"interval: got shape \(3,\); accepted: \(2,\)"):
        predictions_to_proto(0, np.zeros(2), interval=np.zeros(3))
    message = predictions_to_proto(0, np.zeros(2), variance=np.zeros(2))
    message.variance = np.zeros(1).tobytes()
    with pytest.raises(ValueError, match=r"predictions.variance: got 1 rows; accepted: 2"):
        predictions_from_proto(message)


def test_predictions_of_the_wrong_shape_are_an_error():
    with pytest.raises(ValueError, match=r"probabilities: got shape \(2, 3\); accepted: \(2, 1\)"):
        predictions_to_proto(0, np.zeros(2), np.zeros(2, np.int32), ("a",), np.zeros((2, 3)))
