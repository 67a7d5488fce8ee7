#!/usr/bin/env bash
# River 0.26.1: `clone()` of a used `model_selection.GreedyRegressor`, `BanditRegressor` or `SuccessiveHalvingRegressor`
# gives a copy whose candidates have already learned: its first prediction is that of a trained model. A clone of a
# single model, a bagging ensemble, a forest or a stack is untrained, and the docstring of `clone` promises a model that
# has not been updated with any data. Expected: untrained everywhere. Seen: a used
# GreedyRegressor says 2.708 and its clone 2.033, where the clone of a tree says 0. A comparison that clones a model for every run
# evaluates trained ones. Way out: build a new instance for every run.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet river==0.26.1
"$folder/venv/bin/python" - <<'PY'
import random

import river
from river import bandit, linear_model, metrics, model_selection, optim, tree

X = {"a": 0.9, "b": 0.1}


def used(model):
    draws = random.Random(0)
    for _ in range(300):
        x = {"a": draws.random(), "b": draws.random()}
        model.learn_one(x, 3.0 * x["a"])
    return model


def candidates():
    return [linear_model.LinearRegression(optimizer=optim.SGD(rate)) for rate in (0.01, 0.1)]


models = {
    "LinearRegression": (linear_model.LinearRegression(), False),
    "HoeffdingTreeRegressor": (tree.HoeffdingTreeRegressor(), False),
    "GreedyRegressor": (model_selection.GreedyRegressor(candidates()), True),
    "BanditRegressor": (
        model_selection.BanditRegressor(candidates(), metrics.MAE(), bandit.EpsilonGreedy(0.1, seed=1)),
        True,
    ),
    "SuccessiveHalvingRegressor": (
        model_selection.SuccessiveHalvingRegressor(candidates(), metrics.MAE(), budget=200),
        True,
    ),
}
print(f"River {river.__version__}")
for name, (model, keeps) in models.items():
    before = used(model).predict_one(X)
    cloned = model.clone().predict_one(X)
    print(f"{name}: the used model says {before:.3f}, its clone {cloned:.3f}")
    assert (cloned != 0.0) == keeps, name
PY
