"""A client that learns as fast as the service lets it, in a process of its own, until it is ended.

    python -m continual.bench._load ADDRESS MODEL STREAM ROWS

prints a line when the first batch is answered, then the events answered so far and the seconds since then, ten times a
second.
"""

from __future__ import annotations

import itertools
import sys
import time

from continual.bench._helpers import cuts, load
from service.client import Client


def main(address: str, model: str, stream: str, rows: str) -> None:
    """Sends the stream over and over."""
    with Client(address) as client:
        batches = itertools.cycle(cuts(load(stream).batch, int(rows)))
        replies = client.learn(model, batches, in_flight=16)
        next(replies)
        start = said = time.perf_counter()
        print("learning", flush=True)
        events = 0
        for reply in replies:
            events += reply.rows
            now = time.perf_counter()
            if now - said >= 0.1:
                said = now
                print(events, now - start, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
