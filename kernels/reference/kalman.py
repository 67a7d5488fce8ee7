"""The Kalman head with full matrices, one event at a time, in float64: its documentation and what it is tested against.

Equations and sources: `kernels.cpu.heads.kalman`. Here the predictive loss is a function of the features, so that its
gradient comes from autograd.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

NORMAL_90 = 1.6448536269514722


@dataclass
class Filter:
    """N(M_k, A) over the weights of every output k; `mean` [K, m], `cov` [m, m]."""

    mean: torch.Tensor
    cov: torch.Tensor
    gamma: float
    prior: float

    @classmethod
    def fresh(cls, outputs: int, features: int, gamma: float, prior: float) -> Filter:
        """The prior N(0, prior I)."""
        eye = torch.eye(features, dtype=torch.float64)
        return cls(torch.zeros(outputs, features, dtype=torch.float64), prior * eye, gamma, prior)

    def carried(self, elapsed: float = 1.0) -> Filter:
        """After `elapsed` steps of the random walk: M- = a M and A- = a^2 A + (1 - a^2) sw I."""
        decay = self.gamma**elapsed
        eye = torch.eye(len(self.cov), dtype=torch.float64)
        cov = decay**2 * self.cov + (1 - decay**2) * self.prior * eye
        return Filter(decay * self.mean, cov, self.gamma, self.prior)

    def says(self, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(M z [K], z' A z)."""
        return self.mean @ z, z @ self.cov @ z

    def learned(self, z: torch.Tensor, target: torch.Tensor, noise: float) -> Filter:
        """The posterior after `target` [K] with observation noise `noise`; carry first."""
        u = self.cov @ z
        s = z @ u + noise
        mean = self.mean + torch.outer(target - self.mean @ z, u) / s
        return Filter(mean, self.cov - torch.outer(u, u) / s, self.gamma, self.prior)

    def learned_batch(self, z: torch.Tensor, targets: torch.Tensor, noise: float) -> Filter:
        """The posterior after rows `z` [b, m] and `targets` [b, K] at once: gain A z' (z A z' + noise I)^-1."""
        s = z @ self.cov @ z.T + noise * torch.eye(len(z), dtype=torch.float64)
        gain = torch.linalg.solve(s, z @ self.cov).T
        mean = self.mean + (targets - z @ self.mean.T).T @ gain.T
        return Filter(mean, self.cov - gain @ z @ self.cov, self.gamma, self.prior)

    def evidence(self, z: torch.Tensor, target: torch.Tensor, noise: float, level: float = 1.0) -> float:
        """Log N(target; M z, level (z' A z + noise) I); carry first."""
        mean, variance = self.says(z)
        total = level * (variance + noise)
        r = target - mean
        return float(-0.5 * (len(r) * torch.log(2 * math.pi * total) + r @ r / total))


def evidence_slope(before: Filter, z: torch.Tensor, target: torch.Tensor, noise: float, elapsed: float = 1.0) -> float:
    """D log N(target; M- z, S) / d delta with gamma = exp(-delta / 2), from M and A before the transition."""
    decay = before.gamma**elapsed
    carried = before.carried(elapsed)
    mean, variance = carried.says(z)
    s, r = variance + noise, target - mean
    along = r @ (before.mean @ z) / s
    spread = (r @ r / s - len(r)) / (2 * s) * 2 * decay * (z @ before.cov @ z - before.prior * (z @ z))
    return float(-0.5 * elapsed * decay * (along + spread))


def ridge(z: torch.Tensor, targets: torch.Tensor, penalty: float) -> torch.Tensor:
    """Weights [K, m] that minimise |targets - z W'|^2 + penalty |W|^2 over rows `z` [n, m], `targets` [n, K]."""
    eye = torch.eye(z.shape[1], dtype=torch.float64)
    return torch.linalg.solve(z.T @ z + penalty * eye, z.T @ targets).T


@dataclass
class Bank:
    """A bank of filters as a classifier of up to K classes, or (`classes` False) as a regression with K = 1."""

    filters: list[Filter]
    weights: list[float]
    classes: bool
    noise: float = 0.1
    alpha: float = 5.0
    alpha_rate: float = 0.01
    gamma_rate: float = 0.0
    window: float = 100.0
    switching: float = 1e-3
    interval_rate: float = 0.05
    robust: float = 0.0
    clip: float = math.inf
    factor: float = NORMAL_90
    labels: int = 0

    @classmethod
    def fresh(
        cls, outputs: int, features: int, gammas: Sequence[float], priors: Sequence[float], classes: bool, **settings
    ) -> Bank:
        """Equal weights over every pair of a gamma and a prior."""
        filters = [Filter.fresh(outputs, features, gamma, prior) for gamma in gammas for prior in priors]
        bank = cls(filters, [1.0 / len(filters)] * len(filters), classes, **settings)
        bank.levels = [1.0] * len(filters)
        return bank

    levels: list[float] | None = None
    """v of each member, for a regression."""

    def members(self, z: torch.Tensor, elapsed: float) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """(M- z, z' A- z) of every member."""
        return [member.carried(elapsed).says(z) for member in self.filters]

    def chances(self, z: torch.Tensor, elapsed: float, eps: torch.Tensor, known: int) -> list[torch.Tensor]:
        """Each member's probabilities [known]: the mean over the columns of `eps` [known, S] of a softmax."""
        said = []
        for mean, variance in self.members(z, elapsed):
            logits = self.alpha * (mean[:known, None] + torch.sqrt(variance) * eps)
            said.append(torch.softmax(logits, 0).mean(1))
        return said

    def probabilities(self, z: torch.Tensor, elapsed: float, eps: torch.Tensor, known: int) -> torch.Tensor:
        """Of the mixture, [known]."""
        return sum(w * p for w, p in zip(self.weights, self.chances(z, elapsed, eps, known)))  # type: ignore[return-value]

    def densities(self, z: torch.Tensor, elapsed: float, t: float) -> torch.Tensor:
        """Log density of the change `t` for every member, without the constant."""
        scores = []
        for (mean, variance), level in zip(self.members(z, elapsed), self.levels or []):
            total = level * (variance + 1.0)
            scores.append(-0.5 * (torch.log(total) + (t - mean[0]) ** 2 / total))
        return torch.stack(scores)

    def moments(self, z: torch.Tensor, elapsed: float) -> tuple[float, float, float]:
        """Mean, variance and epistemic variance of the mixture of a regression."""
        said, levels = self.members(z, elapsed), self.levels or []
        mean = sum(w * float(m[0]) for w, (m, _) in zip(self.weights, said))
        known = sum(w * (v * float(a) + (float(m[0]) - mean) ** 2) for w, v, (m, a) in zip(self.weights, levels, said))
        return mean, known + sum(w * v for w, v in zip(self.weights, levels)), known

    def weight(self, z: torch.Tensor, elapsed: float, t: float) -> float:
        """WoLF's squared weight of the change `t` by the mixture."""
        if self.robust <= 0.0 or self.labels < 32:
            return 1.0
        mean, variance, _ = self.moments(z, elapsed)
        return self.robust**2 / (self.robust**2 + (t - mean) ** 2 / variance)

    def is_rare(self, z: torch.Tensor, elapsed: float) -> bool:
        """Whether more than a tenth of the prior variance along `z` is left in every member."""
        said, length = self.members(z, elapsed), float(z @ z)
        return all(float(a) > 0.1 * f.prior * length for f, (_, a) in zip(self.filters, said))

    def told_weight(self, z: torch.Tensor, elapsed: float, t: float) -> float:
        """What the fold is told: `weight`, or that of a rare cause, which is never refused."""
        weight = self.weight(z, elapsed, t)
        return max(0.1, math.sqrt(weight)) if weight < 0.1 and self.is_rare(z, elapsed) else weight

    def loss(self, z: torch.Tensor, elapsed: float, y: float, eps: torch.Tensor | None, known: int) -> torch.Tensor:
        """-log of what the mixture gave to the class, or -log of its density at the change `y`."""
        if self.classes:
            assert eps is not None
            return -torch.log(self.probabilities(z, elapsed, eps, known)[int(y)])
        weights = torch.tensor(self.weights, dtype=torch.float64)
        return -torch.logsumexp(torch.log(weights) + self.densities(z, elapsed, y), 0)

    def learn(self, z: torch.Tensor, elapsed: float, y: float, eps: torch.Tensor | None = None, known: int = 1) -> None:
        """One label: the bank's weights, then calibration or noise and interval, then the filters."""
        trusted = self.classes or self.weight(z, elapsed, y) >= 0.1
        with torch.no_grad():
            said = self.members(z, elapsed)
            if trusted:
                posterior = np.array(self._posterior(z, elapsed, y, eps, known))
        if self.classes:
            assert eps is not None
            self._calibrate(z, elapsed, int(y), eps, known)
        elif trusted:
            self._widen(z, elapsed, y)
        if trusted:
            posterior /= posterior.sum()
            self.weights = list((1 - self.switching) * posterior + self.switching / len(posterior))
        target = torch.zeros(len(self.filters[0].mean), dtype=torch.float64)
        target[int(y) if self.classes else 0] = 1.0 if self.classes else y
        rare = not trusted and self.is_rare(z, elapsed)
        for at, (mean, variance) in enumerate(said):
            self._learn_member(at, z, elapsed, target, float(y - mean[0]), float(variance), known, trusted, rare)
        self.labels += 1

    def _learn_member(
        self,
        at: int,
        z: torch.Tensor,
        elapsed: float,
        target: torch.Tensor,
        r: float,
        a: float,
        known: int,
        on: bool,
        rare: bool,
    ) -> None:
        member, noise, level = self.filters[at], self.noise if self.classes else 1.0, 1.0
        carried = member.carried(elapsed)
        if not self.classes:
            assert self.levels is not None
            level = self.levels[at]
            squared = r**2 / (a + 1.0) / level
            if self.robust > 0.0 and self.labels >= 32:
                noise = (self.robust**2 + squared) / self.robust**2
                noise = math.sqrt(noise) if rare else noise
            else:
                noise = max(1.0, math.sqrt(squared) / 8.0)
            if on or not rare:
                share = 1.0 / min(self.labels + 2.0, self.window)
                most = 16.0 if self.robust <= 0.0 and self.labels >= 32 else 225.0
                self.levels[at] = max(level + share * level * (min(squared, most) - 1.0), 1e-12)
        self.filters[at] = carried.learned(z, target, noise)
        if self.gamma_rate > 0.0 and on:
            shown = Filter(member.mean[:known] / math.sqrt(level), member.cov, member.gamma, member.prior)
            own = self.noise if self.classes else 1.0
            slope = evidence_slope(shown, z, target[:known] / math.sqrt(level), own, elapsed)
            delta = -2 * math.log(member.gamma) + self.gamma_rate * min(max(slope, -1.0), 1.0)
            self.filters[at].gamma = math.exp(-max(delta, 0.0) / 2)

    def _posterior(
        self, z: torch.Tensor, elapsed: float, y: float, eps: torch.Tensor | None, known: int
    ) -> list[float]:
        if self.classes:
            assert eps is not None
            scores = [max(float(p[int(y)]), 1e-6) for p in self.chances(z, elapsed, eps, known)]
        else:
            densities = self.densities(z, elapsed, y)
            scores = [max(float(score), 1e-6) for score in torch.exp(densities - densities.max())]
        return [w * score for w, score in zip(self.weights, scores)]

    def _calibrate(self, z: torch.Tensor, elapsed: float, y: int, eps: torch.Tensor, known: int) -> None:
        """A step of gradient descent on log(alpha), clipped at 14."""
        log_alpha = torch.tensor(math.log(self.alpha), dtype=torch.float64, requires_grad=True)
        alpha, self.alpha = self.alpha, torch.exp(log_alpha)  # type: ignore[assignment]
        self.loss(z, elapsed, y, eps, known).backward()
        assert log_alpha.grad is not None
        slope = min(max(float(log_alpha.grad), -14.0), 14.0)
        self.alpha = min(max(alpha * math.exp(-self.alpha_rate * slope), 0.1), 100.0)

    def _widen(self, z: torch.Tensor, elapsed: float, t: float) -> None:
        """The interval's factor: up by 0.9 of the rate on a miss, down by 0.1 of it on a hit."""
        mean, variance, _ = self.moments(z, elapsed)
        missed = abs(t - mean) > self.factor * math.sqrt(variance)
        self.factor = max(self.factor + self.interval_rate * (0.9 if missed else -0.1), self.interval_rate)


def normals(seed: int, draw: int, classes: int, samples: int) -> np.ndarray:
    """Normal numbers float64 [classes, 4 ceil(samples / 4)]: SplitMix64 of a counter, Box and Muller, both signs."""
    golden = 0x9E3779B97F4A7C15
    base = _mix(_mix(seed + golden) + draw * golden)
    q = (samples + 3) // 4
    words = np.array([[_mix(base + (k * q + p + 1) * golden) for p in range(q)] for k in range(classes)], object)
    high, low = (np.array(part, np.float64).reshape(classes, q) for part in (words >> 32, words & (2**32 - 1)))
    radius, angle = np.sqrt(-2 * np.log((high + 0.5) / 2**32)), 2 * np.pi * low / 2**32
    once = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)], 1)
    return np.concatenate([once, -once], 1)


def _mix(x: int) -> int:
    """SplitMix64's finaliser, on 64 bits."""
    x %= 2**64
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
    return x ^ (x >> 31)
