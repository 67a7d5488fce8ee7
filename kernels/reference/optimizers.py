"""SGD and Adam (Kingma & Ba 2015, algorithm 1) as published, in place."""

from __future__ import annotations

import torch

from kernels.cpu.layout import ADAM, Config


def step(
    config: Config, number: int, w: torch.Tensor, m: torch.Tensor, v: torch.Tensor, gradient: torch.Tensor
) -> None:
    """Step `number` (from 1) on the weights `w` with moments `m` and `v`, all of the same shape."""
    if config.optimizer != ADAM:
        w -= config.rate * gradient
        return
    m.copy_(config.beta1 * m + (1 - config.beta1) * gradient)
    v.copy_(config.beta2 * v + (1 - config.beta2) * gradient**2)
    m_hat = m / (1 - config.beta1**number)
    v_hat = v / (1 - config.beta2**number)
    w -= config.rate * m_hat / (v_hat.sqrt() + config.epsilon)
