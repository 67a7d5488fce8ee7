"""The quickstart of the README: needs a service, `continual serve`, on the default port."""

import numpy as np

from service.client import Client

rng = np.random.default_rng(0)
x = rng.normal(size=(20_000, 3)).astype(np.float32)
y = (x[:, 0] > np.roll(x[:, 1], 1)).astype(int)  # the answer needs the event before

with Client("127.0.0.1:50051") as client:
    client.models.create({"name": "quick", "features": ["a", "b", "c"], "target": {"kind": "binary"}})

    hits = [  # every batch is predicted before it is learned, and logged before it is answered
        (result.predictions.code == y[result.sequence : result.sequence + result.rows]).mean()
        for result in client.learn("quick", (dict(x=x[i : i + 1000], y=y[i : i + 1000]) for i in range(0, 20_000, 1000)))
    ]
    print(f"first 1,000 events: {hits[0]:.1%} right; last 1,000: {hits[-1]:.1%}")

    one = client.update("quick", {"a": 0.3, "b": 1.2, "c": 0.0}, label=1)  # one event; a retry counts once
    print("logged at position", one.position)
    print("probability of 1 for a=-1, 0, 1:", client.predict("quick", [[-1, 0, 0], [0, 0, 0], [1, 0, 0]]).value.round(2))
    print(dict(client.models.statistics("quick").metrics))
