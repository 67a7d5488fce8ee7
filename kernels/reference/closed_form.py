"""Closed-form heads in plain float64 NumPy, one event at a time: nearest class mean, LDA, nearest neighbours.

Each has `predict(z, classes)` (probabilities [classes]; for a regression `predict_number(z)`, mean, variance and
epistemic variance of t) and `learn(z, y)`; see the modules of the same names in `kernels.cpu.heads` for the equations.
"""

from __future__ import annotations

import numpy as np


def share_out(log_odds: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Probabilities [K]: softmax over the classes with examples, 1 / (n + K) for each of the others."""
    seen = count > 0
    p = np.full(len(count), 1.0 / (count.sum() + len(count)))
    if seen.any():
        odds = np.exp(log_odds[seen] - log_odds[seen].max())
        p[seen] = odds / odds.sum() * (1.0 - p[~seen].sum())
    return p


class _Means:
    """Means [classes, m] and counts [classes] of what was learned."""

    def __init__(self, features: int):
        self.mean, self.count = np.zeros((0, features)), np.zeros(0)

    def know(self, classes: int) -> None:
        more = classes - len(self.count)
        if more > 0:
            self.mean = np.vstack([self.mean, np.zeros((more, self.mean.shape[1]))])
            self.count = np.append(self.count, np.zeros(more))

    def move(self, z: np.ndarray, y: int) -> tuple[np.ndarray, np.ndarray]:
        """Lets in one example; returns its deviation from the mean of its class before and after (0 for the first)."""
        self.know(y + 1)
        before = z - self.mean[y]
        self.count[y] += 1
        self.mean[y] += before / self.count[y]
        first = self.count[y] == 1
        return (0 * z, 0 * z) if first else (before, z - self.mean[y])


class NearestMean:
    """Nearest class mean, with the mean squared distance inside classes as temperature."""

    def __init__(self, features: int):
        self.means, self.sum = _Means(features), 0.0

    def predict(self, z: np.ndarray, classes: int) -> np.ndarray:
        """Probabilities [classes] of the features `z` [m]."""
        self.means.know(classes)
        temperature = (1.0 + self.sum / len(z)) / (1.0 + self.means.count.sum())
        distances = ((z - self.means.mean) ** 2).sum(1)
        return share_out(-distances / (2.0 * temperature), self.means.count)

    def learn(self, z: np.ndarray, y: int) -> None:
        """Learns one example."""
        before, after = self.means.move(z, y)
        self.sum += before @ after


class LDA:
    """Streaming linear discriminant analysis; `uniform` chooses equal priors."""

    def __init__(self, features: int, shrinkage: float, refresh: int, uniform: bool = False):
        self.means, self.scatter = _Means(features), np.zeros((features, features))
        self.shrinkage, self.refresh, self.uniform = shrinkage, refresh, uniform
        self.labels = 0
        self.weights, self.bias, self.centre = np.zeros((0, features)), np.zeros(0), np.zeros(features)

    def predict(self, z: np.ndarray, classes: int) -> np.ndarray:
        """Probabilities [classes] of the features `z` [m]."""
        self.means.know(classes)
        odds = np.zeros(classes)
        odds[: len(self.bias)] = self.weights @ (z - self.centre) + self.bias
        return share_out(odds, self.means.count)

    def learn(self, z: np.ndarray, y: int) -> None:
        """Learns one example and rebuilds the weights when it is time."""
        before, after = self.means.move(z, y)
        self.scatter += np.outer(before, after)
        self.labels += 1
        doubled = self.labels < self.refresh and self.labels.bit_count() == 1
        if self.labels % self.refresh == 0 or doubled or self.means.count[y] == 1:
            self.rebuild()

    def rebuild(self) -> None:
        """Weights of the means and the scatter as they are."""
        sigma, m, count = self.scatter / self.labels, len(self.scatter), self.means.count
        trace = np.trace(sigma)
        shrunk = (1 - self.shrinkage) * sigma + self.shrinkage * trace / m * np.eye(m) if trace > 0 else np.eye(m)
        self.centre = count @ self.means.mean / self.labels
        off = self.means.mean - self.centre
        self.weights = np.linalg.solve(shrunk, off.T).T
        self.bias = -0.5 * (off * self.weights).sum(1)
        if not self.uniform:
            self.bias = self.bias + np.log(np.maximum(count, 1.0) / self.labels)


class Neighbours:
    """The k nearest of the last `memory` examples, weighted by inverse distance."""

    def __init__(self, memory: int, neighbours: int, window: float = 1000.0):
        self.memory, self.neighbours, self.window = memory, neighbours, window
        self.examples: list[tuple[np.ndarray, float]] = []
        self.labels, self.error = 0, 1.0

    def nearest(self, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Weights and labels of the nearest examples."""
        z = z.astype(np.float32).astype(np.float64)
        newest_first = self.examples[::-1]
        squared = np.array([((z - kept) ** 2).sum() for kept, _ in newest_first])
        order = np.argsort(squared, kind="stable")[: self.neighbours]
        weights = np.array([np.sqrt(squared[order[0]] / squared[i]) if squared[i] > 0 else 1.0 for i in order])
        return weights, np.array([newest_first[i][1] for i in order])

    def predict(self, z: np.ndarray, classes: int) -> np.ndarray:
        """Probabilities [classes] of the features `z` [m]."""
        weights, labels = self.nearest(z)
        votes = np.array([weights[labels == k].sum() for k in range(classes)])
        return (votes + 1.0 / classes) / (weights.sum() + 1.0)

    def predict_number(self, z: np.ndarray) -> tuple[float, float, float]:
        """Mean, variance and epistemic variance of t."""
        if not self.examples:
            return 0.0, self.error, self.error
        weights, t = self.nearest(z)
        mean = weights @ t / weights.sum()
        variance = (weights @ (t - mean) ** 2 + self.error) / (weights.sum() + 1.0)
        return mean, variance, variance * (weights**2).sum() / weights.sum() ** 2

    def learn(self, z: np.ndarray, y: float) -> None:
        """Learns one example of a class."""
        self.examples = [*self.examples, (z.astype(np.float32).astype(np.float64), float(y))][-self.memory :]

    def learn_number(self, z: np.ndarray, t: float) -> None:
        """Learns one number, after the error of what is said of it."""
        self.labels += 1
        mean = self.predict_number(z)[0]
        self.error += ((t - mean) ** 2 - self.error) / min(self.labels + 1, self.window)
        self.learn(z, t)
