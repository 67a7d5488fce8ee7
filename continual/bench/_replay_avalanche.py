"""Experience replay by Avalanche, run by an interpreter that has it; imports nothing of this project.

    PYTHON _replay_avalanche.py STREAM.npz

The file holds `x` float32 [n, d], `y` int64 [n], `first` (events before the timed ones, which fill the buffer: its
replay plugin stores at the ends of experiences), `test_x`, `test_y`, and w0, b0, w1, ... the initial weights. Prints
JSON: seconds and updates of the timed experience, accuracy on the test events.
"""

from __future__ import annotations

import json
import sys
import time

import numpy as np


def main(path: str) -> None:
    """Trains and prints."""
    import torch
    from avalanche.benchmarks import benchmark_from_datasets
    from avalanche.benchmarks.utils import AvalancheDataset, as_classification_dataset
    from avalanche.training.plugins import EvaluationPlugin, ReplayPlugin
    from avalanche.training.supervised import Naive

    torch.set_num_threads(1)
    torch.manual_seed(0)
    given = np.load(path)
    layers: list[torch.nn.Module] = []
    for k in range(sum(name.startswith("w") for name in given.files)):
        w, b = torch.from_numpy(given[f"w{k}"]), torch.from_numpy(given[f"b{k}"])
        linear = torch.nn.Linear(w.shape[1], w.shape[0])
        linear.load_state_dict({"weight": w, "bias": b})
        layers += [linear, torch.nn.ReLU()]
    net = torch.nn.Sequential(*layers[:-1])
    x, y, first = torch.from_numpy(given["x"]), torch.from_numpy(given["y"]), int(given["first"])

    def experience(rows: slice) -> AvalancheDataset:
        data = torch.utils.data.TensorDataset(x[rows], y[rows])
        data.targets = y[rows].tolist()  # type: ignore[attr-defined]
        return as_classification_dataset(data)

    train = [experience(slice(0, first)), experience(slice(first, len(x)))]
    stream = benchmark_from_datasets(train=train).train_stream
    replay = ReplayPlugin(mem_size=200, batch_size=10, batch_size_mem=10)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    strategy = Naive(
        model=net,
        optimizer=optimizer,
        criterion=torch.nn.CrossEntropyLoss(),
        train_mb_size=10,
        train_epochs=1,
        plugins=[replay],
        evaluator=EvaluationPlugin(),
    )
    strategy.train(stream[0])
    updates, step = 0, optimizer.step

    def counted(*args: object, **more: object) -> object:
        nonlocal updates
        updates += 1
        return step(*args, **more)

    optimizer.step = counted  # type: ignore[method-assign, assignment]
    start = time.perf_counter()
    strategy.train(stream[1])
    seconds = time.perf_counter() - start
    with torch.no_grad():
        said = net(torch.from_numpy(given["test_x"])).argmax(1).numpy()
    accuracy = float((said == given["test_y"]).mean())
    print(json.dumps({"seconds": seconds, "updates": updates, "accuracy": accuracy}))


if __name__ == "__main__":
    main(sys.argv[1])
