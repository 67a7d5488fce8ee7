"""Recursive ridge on digits that come one class at a time: the joint solution, in any order of the classes."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import numpy as np
import pytest

from kernels.cpu.layout import MULTICLASS
from kernels.reference import kalman as reference
from tests.kernels.kalman_stream import TOLERANCE, Stream, far, onehot, with_constant


def read_digits(part: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The first `count` MNIST digits float64 [count, 784] in [0, 1] and their classes; skips where there are none."""
    named = os.environ.get("CONTINUAL_DATA")
    folder = (Path(named) if named else Path(__file__).resolve().parents[3] / "shared" / "data") / "mnist"
    if not folder.is_dir():
        pytest.skip(f"no MNIST at {folder}: set CONTINUAL_DATA to a folder that holds it")
    with gzip.open(folder / f"{part}-images-idx3-ubyte.gz") as file:
        pixels = np.frombuffer(file.read(16 + 784 * count), np.uint8, offset=16).reshape(-1, 784) / 255.0
    with gzip.open(folder / f"{part}-labels-idx1-ubyte.gz") as file:
        return pixels, np.frombuffer(file.read(8 + count), np.uint8, offset=8).astype(np.int64)


def ridge_on_digits(hidden: int, count: int, order: np.ndarray) -> tuple[float, float, float]:
    """Random ReLU features and recursive ridge, one class at a time in the `order` given.

    Returns its relative error against the joint solution, and the accuracies of both on the test digits.
    """
    (train, y), (test, held) = read_digits("train", count), read_digits("t10k", 10_000)
    rng, mean = np.random.default_rng(0), train.mean(0)
    w, b = rng.normal(0, 0.2, (784, hidden)), rng.normal(0, 0.5, hidden)
    phi, z = (np.maximum((pixels - mean) @ w + b, 0.0) for pixels in (train, test))
    joint = reference.ridge(with_constant(phi), onehot(y, 10), 1.0).numpy()
    settings = {"gammas": (1.0,), "priors": (1.0,), "noise": 1.0, "samples": 0, "alpha_rate": 0.0, "teaches": 0}
    stream = Stream(MULTICLASS, hidden, 10, **settings)
    # Classes are numbered as they appear: `order` says which digit that is.
    number = np.argsort(order)
    turn = np.argsort(number[y], kind="stable")
    for part in np.array_split(turn, max(1, count // 5000)):
        assert not stream.run(phi[part], number[y[part]]).d_phi.any()
    learned = stream.mean()[number]
    right = [float(((z @ m[:, :-1].T + m[:, -1]).argmax(1) == held).mean()) for m in (learned, joint)]
    return far(learned, joint), right[0], right[1]


@pytest.mark.parametrize("order", [np.arange(10), np.random.default_rng(1).permutation(10)], ids=["sorted", "shuffled"])
def test_digits_one_class_at_a_time_are_learned_as_if_at_once(order: np.ndarray) -> None:
    """5,000 digits, 400 features: nothing is forgotten, whatever the order of the classes."""
    error, accuracy, at_once = ridge_on_digits(400, 5000, order)
    assert error < TOLERANCE
    assert accuracy == at_once > 0.88


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_all_digits_one_class_at_a_time_are_learned_as_if_at_once() -> None:
    """60,000 digits, 2,000 features, a minute or more: 95.8 %, and nothing is forgotten."""
    error, accuracy, at_once = ridge_on_digits(2000, 60_000, np.random.default_rng(1).permutation(10))
    assert error < TOLERANCE
    assert accuracy == at_once
    assert accuracy == pytest.approx(0.958, abs=0.002)
