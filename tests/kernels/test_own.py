"""A regression's scale by key: the compiled fold against its reference where keys are far apart."""

from __future__ import annotations

import numpy as np
import pytest

from kernels.cpu.layout import OUTLIER, OWN_CHANGE, S_SPAN, T_APART, T_KEYS, U_SCALE
from tests.kernels.both_folds import both_folds

CHANGES = {
    "at once": {},
    "by id": {"pending": 3, "age_input": 1},
    "head": {"pending": 4, "head_credit": 1},
    "default": {"pending": 3, "defaults": 1, "horizon": 5.0, "default_label": 1.0},
    "short window": {"window": 20.0},
}


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("keys", [1, 2, 5])
def test_keys_of_other_scales_equal_the_reference(build, name, keys) -> None:
    """From the beginning on; then one key is a thousand times as large, another falls, one has a label of 1e30."""
    n = 1500
    config = build.config(2, "mingru", units=3, features=2, **{"window": 300.0, **CHANGES[name]})

    def apart(events, rng) -> None:
        late = np.arange(n) >= n // 2
        scale = 10.0 ** (2.0 * events.slot)
        scale[late & (events.slot == 0)] *= 1e3
        scale[late & (events.slot == 1)] *= 1e-2
        events.y[:] = rng.normal(size=n) * scale * np.where(np.isnan(events.y), np.nan, 1.0)
        events.y[(np.arange(n) % 200 == 150) & (events.kind != 0)] = 1e30

    (ours, a), (theirs, b) = both_folds(build, config, "mingru", keys, n, keys, apart)
    np.testing.assert_array_equal(a.outcome, b.outcome)
    np.testing.assert_allclose(a.value, b.value, rtol=1e-7)
    for group, other in ((ours.shared, theirs.shared), (ours.rows, theirs.rows)):
        for field, x, y in zip(group._fields, group, other):
            np.testing.assert_allclose(x, y, rtol=1e-7, atol=1e-10, err_msg=field)
    assert ours.shared.target[T_KEYS] == keys
    assert (ours.rows.unit[:, U_SCALE] > 0).all() == (keys > 1)
    assert (ours.rows.own[:, OWN_CHANGE, S_SPAN] > 0).all()
    if keys > 1:
        assert ours.shared.target[T_APART] > 1.0
    if keys == 2 and name != "short window":
        assert (a.outcome & OUTLIER).any()
