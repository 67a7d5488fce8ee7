"""The same events folded by the compiled fold and by its reference, from the same weights."""

from __future__ import annotations

import numpy as np

from kernels.reference import fold as reference


def both_folds(build, config, cell, seed, n, keys, change=lambda events, rng: None):
    """What the two make of them.

    Args:
        build: the fixture.
        config: of the model.
        cell: its name.
        seed: of weights and events.
        n: events.
        keys: how many they have.
        change: of the events before they are folded, with the generator.

    Returns:
        (model, out) of the compiled fold, and of the reference.
    """
    results = []
    for form in ("compiled", "reference"):
        rng = np.random.default_rng(seed)
        model, events, out = build.model(config, cell, rng, keys), build.events(config, rng, n, keys), build.out(n)
        change(events, rng)
        if form == "compiled":
            build.fold(model, events, out)
        else:
            reference.fold(model.cell, config, model.shared, model.rows, events, out, model.scratch.tables)
        results.append((model, out))
    return results
