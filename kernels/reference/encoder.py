"""The trained encoder of inputs: e = act(W x + sum of the rows of the categories), one event at a time."""

from __future__ import annotations

import numpy as np
import torch

from kernels.cpu.layout import Config


def rows_of(features: np.ndarray, tables: np.ndarray) -> np.ndarray:
    """float64 [D]: of each feature the encoder's row that its category names, -1 if it names none or is a number.

    Args:
        features: [D], as they came.
        tables: int64 [D, 2], the categories of each feature (0: a number) and the row of the first of them.
    """
    named = (features >= 0) & (features < tables[:, 0]) & (features == np.floor(features))
    return np.where(named, tables[:, 1] + np.where(named, features, 0), -1).astype(np.float64)


def encode(config: Config, weights: torch.Tensor, inputs: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """What the first layer sees [U], from `inputs` [J] (0 for a category) and `rows` [D]; the `weights` are flat."""
    total = _sum(config, weights, inputs, rows)
    return torch.tanh(total) if config.encoder_tanh else total


def gradient(
    config: Config,
    weights: torch.Tensor,
    inputs: torch.Tensor,
    rows: torch.Tensor,
    encoded: torch.Tensor,
    d_encoded: torch.Tensor,
) -> torch.Tensor:
    """dL/dw, shaped as `weights`, from dL/de [U] at the e [U] that was `encoded` when the event came."""
    d_sum = d_encoded * (1 - encoded**2) if config.encoder_tanh else d_encoded
    leaf = weights.detach().clone().requires_grad_()
    return torch.autograd.grad(_sum(config, leaf, inputs, rows), leaf, d_sum)[0]


def _sum(config: Config, weights: torch.Tensor, inputs: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    table = weights.view(-1, config.encoded)
    return inputs @ table[: config.width] + table[rows[rows >= 0].long()].sum(0)
