"""The quickstart of the README: needs a service on the default port, `continual serve`."""

import numpy as np

from service.client import Client

rng = np.random.default_rng(0)
x = rng.normal(size=(20_000, 3)).astype(np.float32)
y = (x[:, 0] > np.roll(x[:, 1], 1)).astype(int)  # is a above the b of the event before?

with Client("127.0.0.1:50051") as client:
    client.models.create({"name": "quick", "features": ["a", "b", "c"], "target": {"kind": "binary"}})
    batches = ({"x": x[i : i + 1000], "y": y[i : i + 1000]} for i in range(0, len(x), 1000))
    hits = [  # every event is predicted before it is learned, and in the log before it is answered
        (done.predictions.code == y[done.sequence : done.sequence + done.rows]).mean()
        for done in client.learn("quick", batches)
    ]
    print(f"right among the first 1,000: {hits[0]:.1%}, among the last: {hits[-1]:.1%}")
    one = client.update("quick", {"a": 0.3, "b": 1.2, "c": 0.0}, label=1)  # a retry would count once
    print(f"logged at {one.position:,}; now b was 1.2, so for a = 0, 1, 2 the probability of 1 is")
    print(client.predict("quick", [[0, 0, 0], [1, 0, 0], [2, 0, 0]]).value.round(2))
