"""What a step of experience replay costs: the served learner, a plain PyTorch loop, Avalanche; the same network."""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

from continual.bench._helpers import Row, alternate, check, cuts, fold, median, mnist, ratio_row, value_row
from continual.bench.report import out_option, publish
from learners.replay.memory import Buffer, Memory
from learners.spec import ModelSpec
from streams.batch import Batch

BATCH, REPLAY, HELD, RATE, CLASSES, FIRST = 10, 10, 200, 0.05, 10, 1000
"""Events and replayed events of a step, room of the buffer, rate, classes, events before Avalanche's clock."""

SCRIPT = Path(__file__).with_name("_replay_avalanche.py")


@dataclass(frozen=True)
class Digits:
    """MNIST: pixels in [0, 1] and labels, the training events shuffled, the first ten one of each class."""

    x: np.ndarray
    y: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray

    @classmethod
    def load(cls, events: int) -> Digits:
        """The first `events` of them.

        Raises:
            click.ClickException: the files are not there.
        """
        held = mnist()
        y = held.train.y
        first = [int(np.flatnonzero(y == label)[0]) for label in range(CLASSES)]
        rest = np.random.default_rng(0).permutation(np.setdiff1d(np.arange(len(y)), first))
        rows = np.concatenate([first, rest])[:events]
        x, test_x = (part.astype(np.float32) / 255 for part in (held.train.x[rows], held.test.x))
        return cls(x, y[rows], test_x, held.test.y)


def spec(dtype: str = "float32") -> ModelSpec:
    """The learner: ER, 784-256-256-10."""
    buffer = {"kind": "reservoir", "size": HELD}
    learner = {"kind": "er", "batch": BATCH, "replay": REPLAY, "rate": RATE, "buffer": buffer, "dtype": dtype}
    return ModelSpec.model_validate(
        {
            "name": "bench",
            "features": [f"p{k}" for k in range(784)],
            "target": {"kind": "multiclass", "max_classes": CLASSES},
            "learner": learner | {"network": {"kind": "mlp", "hidden": [256, 256]}},
        }
    )


def draws(digits: Digits) -> list[tuple[np.ndarray, list[tuple[int, int]]]]:
    """Of every step the rows of the buffer that the learner replays, and then where it puts which event."""
    memory = Memory(Buffer(kind="reservoir", size=HELD), 1, spec().learner.seed, np.dtype(np.float64))
    steps = []
    for at in range(0, len(digits.y), BATCH):
        chosen = memory.draw(REPLAY, 1)
        before = memory.x[:, 0].copy()
        numbers = np.arange(at, at + BATCH) + 1.0
        memory.insert(numbers[:, None], digits.y[at : at + BATCH])
        changed = np.flatnonzero(memory.x[:, 0] != before)
        steps.append((chosen, [(int(place), int(memory.x[place, 0]) - 1) for place in changed]))
    return steps


def initial(dtype: str = "float32") -> list[tuple[np.ndarray, np.ndarray]]:
    """The initial weights [units, inputs] and biases of each layer, the head last."""
    learner: Any = spec(dtype).learner
    return _layers(learner.model(784), reserve=True)


def _layers(model: Any, reserve: bool = False) -> list[tuple[np.ndarray, np.ndarray]]:
    if reserve:
        model.reserve(CLASSES)
    body = [(w.T.copy(), b.copy()) for w, b in model.net.body._layers]
    return [*body, (model.net.w[:CLASSES].copy(), model.net.b[:CLASSES].copy())]


class Plain:
    """The loop that one writes in PyTorch: predict, then cross-entropy of both halves, backward, step; one thread."""

    def __init__(self, digits: Digits, dtype: str = "float32", predicts: bool = True) -> None:
        import torch

        self._torch, self._predicts = torch, predicts
        layers: list[Any] = []
        for w, b in initial(dtype):
            linear = torch.nn.Linear(w.shape[1], w.shape[0], dtype=getattr(torch, dtype))
            linear.load_state_dict({"weight": torch.from_numpy(w), "bias": torch.from_numpy(b)})
            layers += [linear, torch.nn.ReLU()]
        self.net = torch.nn.Sequential(*layers[:-1])
        self._x = torch.from_numpy(digits.x.astype(dtype))
        self._y = torch.from_numpy(digits.y)
        self._steps = [(torch.from_numpy(chosen), put) for chosen, put in draws(digits)]

    def run(self) -> float:
        """Seconds of the whole stream."""
        torch = self._torch
        entropy = torch.nn.functional.cross_entropy
        held_x, held_y = torch.zeros(HELD, 784, dtype=self._x.dtype), torch.zeros(HELD, dtype=torch.int64)
        optimizer = torch.optim.SGD(self.net.parameters(), lr=RATE)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        start = time.perf_counter()
        for step, (chosen, put) in enumerate(self._steps):
            x, y = self._x[step * BATCH : (step + 1) * BATCH], self._y[step * BATCH : (step + 1) * BATCH]
            if self._predicts:
                with torch.no_grad():
                    self.net(x).softmax(1).max(1)
            logits = self.net(torch.cat([x, held_x[chosen]]))
            loss = entropy(logits[:BATCH], y)
            if len(chosen):
                loss = loss + entropy(logits[BATCH:], held_y[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            for place, event in put:
                held_x[place], held_y[place] = self._x[event], self._y[event]
        seconds = time.perf_counter() - start
        torch.set_num_threads(threads)
        return seconds

    def weights(self) -> np.ndarray:
        """All of them, flat."""
        return np.concatenate([p.detach().numpy().ravel() for p in self.net.parameters()])


def _ours(digits: Digits, dtype: str = "float32") -> tuple[float, np.ndarray, float]:
    """Seconds of the whole stream, the weights at its end, and the accuracy on the test."""
    model = spec(dtype)
    learner = model.learner.build(model)
    batch = Batch.of(digits.x, digits.y.astype(float), classes=tuple(range(CLASSES)))
    seconds, folded = fold(learner, cuts(batch, 500))
    check(sum(len(part.value) for part in folded) == len(digits.y), "a prediction for every event")
    weights = np.concatenate([part.ravel() for pair in _layers(learner._model) for part in pair])
    said = learner.predict(Batch.of(digits.test_x)).code
    return seconds, weights, float((said == digits.test_y).mean())


def _avalanche(python: str, digits: Digits) -> dict[str, float]:
    """What Avalanche's script prints.

    Raises:
        click.ClickException: it failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "stream.npz"
        arrays: dict[str, Any] = {"x": digits.x, "y": digits.y, "test_x": digits.test_x, "test_y": digits.test_y}
        arrays |= {f"{n}{k}": a for k, pair in enumerate(initial()) for n, a in zip("wb", pair)}
        np.savez(path, **arrays, first=np.array(FIRST))
        done = subprocess.run([python, str(SCRIPT), str(path)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise click.ClickException(f"{python} {SCRIPT.name} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def _far(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


@click.command()
@click.option("--events", type=click.IntRange(2 * FIRST), default=6000, show_default=True, help="Of MNIST.")
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True, help="Of every measurement, in turn.")
@click.option("--avalanche", help="A Python interpreter that has avalanche-lib; its row is left out without.")
@out_option
def replay(events: int, rounds: int, avalanche: str | None, out: Path | None, as_json: bool) -> None:
    """Cost of a step of experience replay: 10 events and 10 replayed, 784-256-256-10, against PyTorch and Avalanche."""
    digits = Digits.load(events - events % BATCH)
    exact = Plain(digits, "float64")
    exact.run()
    apart = _far(_ours(digits, "float64")[1], exact.weights())
    check(apart < 1e-9, f"in float64 the weights of the plain loop, relative distance {apart:.1e}")
    steps = len(digits.y) // BATCH
    rates: dict[str, Any] = {}

    def ours() -> float:
        seconds, weights, rates["accuracy"] = _ours(digits)
        rates["weights"] = weights
        return steps / seconds

    def plain(predicts: bool) -> float:
        loop = Plain(digits, predicts=predicts)
        seconds = loop.run()
        rates["apart"] = _far(rates["weights"], loop.weights())
        check(rates["apart"] < 1e-2, f"in float32 about the weights of the plain loop, {rates['apart']:.1e}")
        return steps / seconds

    def theirs() -> float:
        assert avalanche is not None
        said = _avalanche(avalanche, digits)
        wanted = steps - FIRST // BATCH
        check(said["updates"] == wanted, f"{wanted} updates of Avalanche, it took {said['updates']}")
        check(abs(said["accuracy"] - rates["accuracy"]) < 0.1, f"Avalanche's accuracy {said['accuracy']:.3f} near ours")
        return said["updates"] / said["seconds"]

    work: dict[str, Any] = {"ours": ours, "plain": lambda: plain(True), "plain, no predictions": lambda: plain(False)}
    if avalanche:
        work["Avalanche"] = theirs
    figures = {name: median(values) for name, values in alternate(rounds, work).items()}
    what = "updates per second, predictions included"
    rows: list[Row] = [
        ratio_row(what, figures["ours"], "plain PyTorch loop", figures["plain"], 1.0, at_least=True),
        ratio_row(
            what, figures["ours"], "the same without predictions", figures["plain, no predictions"], float("nan")
        ),
    ]
    if avalanche:
        rows.append(ratio_row(what, figures["ours"], "Avalanche, ER", figures["Avalanche"], 2.0, at_least=True))
    rows.append(value_row(f"accuracy on the test after {len(digits.y):,} events", rates["accuracy"]))
    publish(
        "replay",
        f"Experience replay on MNIST, {BATCH} events and {REPLAY} replayed at a step, 784-256-256-{CLASSES}",
        rows,
        notes=_notes(rounds, avalanche, apart, rates["apart"]),
        details={"updates_per_second": figures, "spec": spec().model_dump(mode="json", exclude={"features"})},
        out=out,
        as_json=as_json,
    )


def _notes(rounds: int, avalanche: str | None, exact: float, close: float) -> list[str]:
    peer = (
        f"Avalanche: its evaluation plugin without metrics and loggers, no predictions; timed after {FIRST} events, "
        "because its replay plugin stores at the end of an experience."
        if avalanche
        else "Avalanche is not compared: `--avalanche PYTHON` names an interpreter that has it."
    )
    return [
        f"Medians of {rounds} rounds, everything in turn; one thread each; the same initial weights.",
        f"The plain loop is given the learner's draws; its final weights are the learner's, relative distance "
        f"{exact:.0e} in float64, {close:.0e} in float32.",
        "Pixels are mostly zero, and the learner's compiled layers leave out zeros; the peers' do not.",
        peer,
    ]
