"""Digits one class at a time, in one pass: recursive ridge on random features against the joint solution."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from continual.bench import _helpers as helpers
from continual.bench.heads.cost import Bare
from continual.bench.report import publish

FEATURES, PENALTY, DIGITS = 2000, 100.0, 10
PIECE = 2000
"""Events whose features are made at a time."""

ORDERS = {"0 to 9": tuple(range(DIGITS)), "9 to 0": tuple(range(DIGITS))[::-1]}
LEAST = 0.958
"""Accuracy that is asked for."""


class Digits:
    """MNIST through random features.

    phi = relu(W' pixels), W standard normal [784, H] from counters of `seed`, pixels in [0, 1]; then the constant 1.

    Attributes:
        pixels, labels: uint8 [n, 784] and int64 [n], of training.
        test_pixels, test_labels: the same, of the test.
    """

    def __init__(self, features: int = FEATURES, events: int | None = None, seed: int = 0) -> None:
        held = helpers.mnist()
        self.pixels, self.labels = held.train.x[:events], held.train.y[:events]
        self.test_pixels, self.test_labels = held.test.x, held.test.y
        self._weights = np.random.Generator(np.random.Philox(key=[seed, FEATURES])).normal(size=(784, features))

    def phi(self, pixels: np.ndarray) -> np.ndarray:
        """float64 [n, H]."""
        return np.maximum((pixels / 255.0) @ self._weights, 0.0)

    def sorted(self, order: Sequence[int]) -> np.ndarray:
        """Places of the training events, class by class, within a class as they come."""
        rank = np.argsort(order)
        return np.argsort(rank[self.labels], kind="stable")


def with_constant(phi: np.ndarray) -> np.ndarray:
    """float64 [n, H + 1]."""
    return np.column_stack([phi, np.ones(len(phi))])


def joint(digits: Digits, penalty: float = PENALTY) -> tuple[np.ndarray, float]:
    """The ridge solution over all training events at once.

    Returns:
        float64 [H + 1, 10] with (Z'Z + penalty I) W = Z'Y, and the condition number of that matrix.
    """
    size = digits.phi(digits.pixels[:1]).shape[1] + 1
    gram, moment = penalty * np.eye(size), np.zeros((size, DIGITS))
    for at in range(0, len(digits.labels), PIECE):
        z = with_constant(digits.phi(digits.pixels[at : at + PIECE]))
        gram += z.T @ z
        moment += z.T @ np.eye(DIGITS)[digits.labels[at : at + PIECE]]
    ends = np.linalg.eigvalsh(gram)[[0, -1]]
    return np.linalg.solve(gram, moment), float(ends[1] / ends[0])


def recursive(
    digits: Digits, order: Sequence[int], penalty: float = PENALTY, say: Callable[[str], None] = lambda _: None
) -> np.ndarray:
    """The head of `{kind: ridge}` on the same features, one event after the other, one class after the other.

    Returns:
        float64 [H + 1, 10].
    """
    places = digits.sorted(order)
    hidden = digits.phi(digits.pixels[:1]).shape[1]
    bare = Bare.of({"kind": "ridge", "penalties": (penalty,), "inputs": False}, hidden, DIGITS)
    for at in range(0, len(places), PIECE):
        say(f"classes {', '.join(map(str, order))}: {at:,} of {len(places):,} events")
        some = places[at : at + PIECE]
        bare.learn(digits.phi(digits.pixels[some]), digits.labels[some])
    return np.array(bare.head.state.mean[0, :, : hidden + 1].T)


def accuracy(digits: Digits, weights: np.ndarray) -> tuple[float, np.ndarray]:
    """Share of the test that is right, and the class that each event of it was given."""
    said = (with_constant(digits.phi(digits.test_pixels)) @ weights).argmax(axis=1)
    return float((said == digits.test_labels).mean()), said


def measure(
    *,
    events: int | None = None,
    features: int = FEATURES,
    out: Path | None = None,
    as_json: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> None:
    """Learns the digits in two orders of the classes, compares with the joint solution, and publishes one table.

    Args:
        events: only the first so many of the training set; None: all.
        features: random ones.
        out: folder for the files; nothing is written without.
        as_json: JSON in place of the table.
        say: is told what begins.
    """
    digits = Digits(features, events)
    say("joint solution")
    solved, condition = joint(digits)
    least, given = accuracy(digits, solved)
    tolerance = 1e-9 if condition <= 1e4 else 100 * np.finfo(float).eps * condition
    table: list[helpers.Row] = [_row("joint, all at once", least, 0.0, 0.0, 1.0)]
    for name, order in ORDERS.items():
        weights = recursive(digits, order, say=say)
        share, said = accuracy(digits, weights)
        off = float(np.linalg.norm(weights - solved) / np.linalg.norm(solved))
        most = float(np.abs(weights - solved).max() / np.abs(solved).max())
        table.append(_row(f"recursive, classes {name}", share, off, most, float((said == given).mean())))
        helpers.check(off <= tolerance, f"classes {name}: weights off by {off:.1e}, at most {tolerance:.1e}")
    publish(
        "heads-mnist",
        f"MNIST one class at a time, one pass over {len(digits.labels):,} events: {features:,} random features, ridge",
        table,
        notes=_notes(condition, tolerance, least),
        details={"condition": condition, "tolerance": tolerance, "penalty": PENALTY},
        out=out,
        as_json=as_json,
    )


def _row(name: str, share: float, off: float, most: float, same: float) -> helpers.Row:
    return {
        "solution": name,
        "test accuracy, %": f"{100 * share:.2f}",
        "weights, relative error": f"{off:.1e}",
        "largest difference": f"{most:.1e}",
        "same answers, %": f"{100 * same:.2f}",
    }


def _notes(condition: float, tolerance: float, share: float) -> list[str]:
    return [
        f"Rectified random projections of the pixels and a constant, ridge penalty {PENALTY:g} on one-hot targets. "
        "joint: the normal equations over the whole training set. recursive: the head of `{kind: ridge}`, one event "
        "after the other, no event twice, none kept.",
        f"Relative error: norm of the difference over the norm; at most {tolerance:.1e} is accepted (condition number "
        f"{condition:.1e}). Largest difference: of a weight, over the largest weight.",
        f"Asked: the joint accuracy, {100 * LEAST:.1f} %: {'met' if share >= LEAST else 'NOT met'}.",
    ]
