"""One build under measurement: `python _build.py STREAM`, with the build's checkout in PYTHONPATH.

Prints `ready`, then for every name that comes on standard input the seconds which that work takes.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from itertools import count

FOLDED = 45_000
LEARNED = 150_000
CALLS = 300


def works(client, stream) -> dict[str, Callable[[], float]]:
    """Seconds of every kind of work, by name: of processor time for folds, else of wall time, of calls the median."""
    import numpy as np

    from continual.bench import _helpers as helpers

    fresh = count()
    batch = helpers.repeated(stream.batch, FOLDED)
    long = helpers.repeated(stream.batch, LEARNED)
    features = dict(zip(stream.mapping.features, stream.batch.x[0].tolist()))
    label = stream.mapping.labels[int(stream.batch.y[0])]

    def folded(units: int) -> float:
        model = helpers.spec(stream, units)
        learner = model.learner.build(model)
        start = time.process_time()
        _, said = helpers.fold(learner, helpers.cuts(batch, 1024))
        seconds = time.process_time() - start
        values = np.concatenate([part.value for part in said])
        hits = float(((values > 0.5) == (batch.y > 0.5)).mean())
        helpers.check(learner.position == len(batch) and hits > 0.5, "a fold of every event, better than a coin")
        return seconds

    def learned(size: int) -> float:
        name = f"learn-{next(fresh)}"
        client.models.create(helpers.spec(stream, name=name))
        start = time.perf_counter()
        rows = sum(reply.rows for reply in client.learn(name, helpers.cuts(long, size), in_flight=64))
        seconds = time.perf_counter() - start
        helpers.check(rows == client.models.get(name).position == len(long), "every event learned")
        client.models.snapshot(name)
        client.models.delete(name)
        return seconds

    def called(call: Callable[[], object]) -> float:
        seconds = []
        for _ in range(CALLS):
            start = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - start)
        return float(np.median(seconds))

    client.models.create(helpers.spec(stream, name="calls"))
    for _ in client.learn("calls", helpers.cuts(stream.batch.slice(0, 1024), 256)):
        pass
    return {
        "fold, 64 units": lambda: folded(64),
        "fold, 16 units": lambda: folded(16),
        "Learn by 256": lambda: learned(256),
        "Learn by 1,024": lambda: learned(1024),
        "Predict p50": lambda: called(lambda: client.predict("calls", event=features)),
        "Update p50": lambda: called(lambda: client.update("calls", features, label)),
    }


def main() -> None:
    """See the module's docstring."""
    from continual.bench import _helpers, _served
    from service.client import Client

    stream = _helpers.load(sys.argv[1])
    with _served.deployed() as deployment, Client(deployment.address) as client:
        work = works(client, stream)
        print("ready", flush=True)
        for line in sys.stdin:
            print(work[line.strip()](), flush=True)


if __name__ == "__main__":
    main()
