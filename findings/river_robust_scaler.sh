#!/usr/bin/env bash
# River 0.26.1: `RobustScaler` divides by the distance of two estimated quantiles without looking whether it is
# anything. Of a column that is 0 but for a flag on 2 % of the events that distance is about 0, and the flag leaves the
# scaler as a number of millions and more. `StandardScaler` takes the same column well. Expected: a spread of nothing
# counts as constant, as `StandardScaler` has it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet river==0.26.1
"$folder/venv/bin/python" - <<'PY'
import random

import river
from river import preprocessing


def largest(scaler):
    """The largest magnitude that leaves the scaler, of a flag that is 1 on 2 % of 5,000 events."""
    draws = random.Random(0)
    most = 0.0
    for number in range(5_000):
        x = {"flag": 1.0 if draws.random() < 0.02 else 0.0}
        scaler.learn_one(x)
        if number >= 1_000:
            most = max(most, abs(scaler.transform_one(x)["flag"]))
    return most


said = {name: largest(getattr(preprocessing, name)()) for name in ("StandardScaler", "RobustScaler")}
print(f"River {river.__version__}: the largest scaled value by {said}")
assert said["StandardScaler"] < 20
assert said["RobustScaler"] > 1e6
PY
