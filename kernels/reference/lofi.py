"""LoFi in plain float64 NumPy, one event at a time, with every matrix formed; see `kernels.cpu.heads.lofi`.

The weights are one vector theta: the rows of A [N, m], then those of B [outputs, N + 1].
"""

from __future__ import annotations

import numpy as np


class Network:
    """o = B [tanh(A z), 1], with no output yet."""

    def __init__(self, hidden: np.ndarray):
        self.shape = hidden.shape
        self.origin = self.theta = hidden.ravel().copy()

    def grow(self, outputs: int) -> int:
        """Appends rows of zeros to B until it has `outputs`; returns how many numbers that added."""
        more = self.shape[0] * self.shape[1] + outputs * (self.shape[0] + 1) - len(self.theta)
        self.theta, self.origin = np.append(self.theta, np.zeros(more)), np.append(self.origin, np.zeros(more))
        return more

    def run(self, theta: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Outputs o [outputs] and their Jacobian [outputs, P] at `theta`."""
        n, m = self.shape
        h = np.tanh(theta[: n * m].reshape(n, m) @ z)
        out = theta[n * m :].reshape(-1, n + 1)
        one = np.append(h, 1.0)
        hidden = (out[:, :n] * (1 - h * h))[:, :, None] * z
        return out @ one, np.hstack([hidden.reshape(len(out), n * m), np.kron(np.eye(len(out)), one)])


def softmax(o: np.ndarray) -> np.ndarray:
    """Probabilities [outputs + 1]: of the first class, whose logit is 0, and of the others."""
    odds = np.exp(np.append(0.0, o) - max(0.0, *o, 0.0))
    return odds / odds.sum()


class LoFi:
    """`hidden` [N, m] is A before the first label, `precision` eta; `clip` in deviations bounds a residual."""

    def __init__(
        self,
        hidden: np.ndarray,
        rank: int,
        precision: float,
        gamma: float = 1.0,
        drift: float = 0.0,
        window: float = 1000.0,
        clip: float = np.inf,
    ):
        self.network, self.rank, self.window, self.clip = Network(hidden), rank, window, clip
        self.eta, self.gamma, self.drift = precision, gamma, drift
        self.basis, self.strength = np.zeros((hidden.size, 0)), np.zeros(0)
        self.labels, self.noise = 0, 1.0

    def know(self, outputs: int) -> None:
        """Makes room for `outputs` outputs."""
        more = self.network.grow(outputs)
        self.basis = np.vstack([self.basis, np.zeros((more, self.basis.shape[1]))])

    def transition(self, elapsed: float) -> tuple[np.ndarray, float, np.ndarray]:
        """theta, eta and L^2 after `elapsed` steps of forgetting."""
        network, squared = self.network, self.gamma ** (2 * elapsed)
        steps = elapsed if self.gamma == 1.0 else (1 - squared) / (1 - self.gamma**2)
        q = self.drift * steps
        shrunk = squared + q * self.eta
        theta = network.origin + self.gamma**elapsed * (network.theta - network.origin)
        return theta, self.eta / shrunk, squared * self.strength / (shrunk * (shrunk + q * self.strength))

    def covariance(self, elapsed: float = 0.0) -> np.ndarray:
        """The covariance [P, P] of theta."""
        _, eta, strength = self.transition(elapsed)
        return np.linalg.inv(eta * np.eye(len(self.basis)) + self.basis * strength @ self.basis.T)

    def predict(self, z: np.ndarray, outputs: int, elapsed: float = 1.0) -> tuple[np.ndarray, float]:
        """Outputs o [outputs] and the mean of their variances."""
        self.know(outputs)
        o, jacobian = self.network.run(self.transition(elapsed)[0], z)
        return o, np.trace(jacobian @ self.covariance(elapsed) @ jacobian.T) / max(1, outputs)

    def predict_number(self, z: np.ndarray, elapsed: float = 1.0) -> tuple[float, float, float]:
        """Mean, variance and epistemic variance of t."""
        o, variance = self.predict(z, 1, elapsed)
        return o[0], self.noise * (1 + variance), self.noise * variance

    def learn(self, z: np.ndarray, y: int, outputs: int, elapsed: float = 1.0) -> None:
        """Learns the class `y`, one of `outputs` + 1."""
        self.know(outputs)
        p = softmax(self.network.run(self.transition(elapsed)[0], z)[0])
        residual = (np.arange(1, outputs + 1) == y) - p[1:]
        self.update(z, residual, np.diag(p[1:]) - np.outer(p[1:], p[1:]), elapsed)

    def learn_number(self, z: np.ndarray, t: float, elapsed: float = 1.0) -> None:
        """Learns the number `t`."""
        o, variance = self.predict(z, 1, elapsed)
        bound = self.clip * np.sqrt(self.noise * (1 + variance))
        residual = np.clip(t - o, -bound, bound)
        self.labels += 1
        surprise = residual[0] ** 2 / (1 + variance)
        self.noise = max(self.noise + (surprise - self.noise) / min(self.labels + 1, self.window), 1e-6)
        self.update(z, residual, np.eye(1), elapsed)

    def update(self, z: np.ndarray, residual: np.ndarray, r: np.ndarray, elapsed: float) -> None:
        """Lets in `residual` [outputs] of covariance `r`."""
        theta, self.eta, strength = self.transition(elapsed)
        jacobian = self.network.run(theta, z)[1]
        factor = np.linalg.cholesky(r) if len(r) else r
        both = np.hstack([self.basis * np.sqrt(strength), jacobian.T @ factor])
        u, length, _ = np.linalg.svd(both, full_matrices=False)
        pulled, squared = jacobian.T @ residual, length**2
        gain = squared / (self.eta * (self.eta + squared))
        self.network.theta = theta + pulled / self.eta - u @ (gain * (u.T @ pulled))
        keep = np.flatnonzero(squared > 1e-12 * squared.max(initial=0.0))[: self.rank]
        self.basis, self.strength = u[:, keep], squared[keep]
