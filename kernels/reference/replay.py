"""Networks, logits and losses of learners from mini-batches, in plain PyTorch; gradients are autograd's."""

from __future__ import annotations

import torch
from torch.nn import functional


def perceptron(x: torch.Tensor, layers: list[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
    """Features [n, H] of inputs [n, J]; each layer is (W [inputs, units], b [units])."""
    for w, b in layers:
        x = torch.relu(x @ w + b)
    return x


def dots(f: torch.Tensor, w: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Logits [n, classes] by products."""
    return f @ w.T + b


def cosines(f: torch.Tensor, w: torch.Tensor, least: float = 1e-6) -> torch.Tensor:
    """Cosines [n, classes] of features and rows of classes."""
    return (f / f.norm(dim=1, keepdim=True).clamp_min(least)) @ (w / w.norm(dim=1, keepdim=True).clamp_min(least)).T


def cross_entropy(logits: torch.Tensor, y: torch.Tensor, mass: torch.Tensor | None = None) -> torch.Tensor:
    """The mean of -log(m_y exp(l_y) / sum_c m_c exp(l_c)); without masses all are 1."""
    return functional.cross_entropy(logits if mass is None else logits + mass.log(), y)


def squared_distance(logits: torch.Tensor, stored: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """The mean of (l - stored)^2 over the first `known` [n] columns of every row."""
    counts = torch.arange(logits.shape[1]) < known[:, None]
    return ((logits - stored)[counts] ** 2).mean()


def imitator(x: torch.Tensor, w: torch.Tensor, units: int, outputs: int) -> torch.Tensor:
    """[n, Q]: the network of `kernels.cpu.replay.students` with the flat weights `w`."""
    inputs = x.shape[1]
    sizes = [inputs * units, units, units, units, units * outputs, outputs]
    w1, b1, gamma, beta, w2, b2 = torch.split(w, sizes)
    n = functional.layer_norm(x @ w1.view(inputs, units) + b1, (units,), gamma, beta, 1e-5)
    return functional.gelu(n, approximate="tanh") @ w2.view(units, outputs) + b2


def random_filters(
    x: torch.Tensor, w: torch.Tensor, b: torch.Tensor, image: tuple[int, int, int], patch: int, stride: int, cells: int
) -> torch.Tensor:
    """[n, cells cells filters]: the features of `kernels.cpu.convolution` with filters `w` [C p p, filters]."""
    p = functional.unfold(x.view(len(x), *image), patch, stride=stride).transpose(1, 2)
    p = (p - p.mean(2, keepdim=True)) / (p.var(2, unbiased=False, keepdim=True) + 1e-3).sqrt()
    down, across = ((side - patch) // stride + 1 for side in image[1:])
    maps = torch.relu(p @ w + b).view(len(x), down, across, -1)
    edges = [[k * side // cells for k in range(cells + 1)] for side in (down, across)]
    means = [
        maps[:, edges[0][i] : edges[0][i + 1], edges[1][j] : edges[1][j + 1]].mean((1, 2))
        for i in range(cells)
        for j in range(cells)
    ]
    normal = torch.distributions.Normal(torch.zeros((), dtype=b.dtype), 1.0)
    noise = b * normal.cdf(b) + normal.log_prob(b).exp()
    return torch.cat(means, 1) - noise.repeat(cells * cells)
