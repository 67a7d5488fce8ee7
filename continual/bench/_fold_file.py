"""A file to metrics in one process: `python -m continual.bench._fold_file FILE SPEC`, JSON on standard output."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from learners.spec import ModelSpec
from streams.files import read_file
from streams.mapping import Mapping
from streams.metrics import Classification
from streams.prefetch import prefetch


def fold_file(path: Path, model: ModelSpec, label: str) -> dict[str, float | str]:
    """Folds the events of a CSV file with a binary label; returns the metrics and the digest."""
    mapping = Mapping(tuple(feature.name for feature in model.features), label=label, labels=model.target.labels)  # type: ignore[union-attr]
    learner = model.learner.build(model)
    metrics = Classification()
    for _, batch in prefetch(read_file(path, mapping)):
        folded = learner.fold(batch)
        metrics.update_binary(folded.value, batch.y, key=np.zeros(len(batch), np.int64))
    return {**metrics.values(), "digest": learner.digest()}


if __name__ == "__main__":
    print(json.dumps(fold_file(Path(sys.argv[1]), ModelSpec.load(sys.argv[2]), sys.argv[3])))
