"""What the bits of a fold depend on: recovery is bit for bit where two fingerprints are equal."""

from __future__ import annotations

import platform
from functools import cache

import numpy as np

from learners.spec import ModelSpec
from streams.batch import Batch


def fingerprint(spec: ModelSpec | None = None) -> dict[str, str]:
    """Backend, device kind, kernel version and the digest of a short canned fold, as plain values.

    The canned fold runs each kind of target in float32 on fixed events; its digest is what decides, the other
    entries say where a difference comes from. With a spec, what its learner computes by other means is added.
    """
    return _compiled() | (spec.learner.numerics() if spec is not None else {})


@cache
def _compiled() -> dict[str, str]:
    from kernels import KERNEL_VERSION  # here: a shard without models need not hold the compiler

    digests = [_canned(kind) for kind in ("binary", "multiclass", "regression")]
    return {
        "backend": "cpu",
        "device": platform.machine(),
        "kernels": KERNEL_VERSION,
        "fold": "".join(digest[:16] for digest in digests),
    }


def _canned(kind: str) -> str:
    spec = ModelSpec.model_validate(
        {
            "name": "canned",
            "features": ["a", "b", "c"],
            "target": {"kind": kind},
            "learner": {"kind": "recurrent", "cell": {"kind": "mingru", "units": 20}},
        }
    )
    events = np.arange(64)
    x = np.column_stack([(events * step) % 17 / 8.0 - 1.0 for step in (3, 5, 7)])
    y = {"binary": events % 3 == 0, "multiclass": events % 4, "regression": (events * events) % 11 / 7.0}[kind]
    classes = (0, 1, 2, 3) if kind == "multiclass" else ()
    learner = spec.learner.build(spec)
    keys = [b"%d" % (event % 5) for event in events]
    learner.fold(Batch.of(x, np.asarray(y, float), key=keys, classes=classes))
    return learner.digest()
