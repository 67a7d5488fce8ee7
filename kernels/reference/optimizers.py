"""SGD, Adam (Kingma & Ba 2015), RMSprop (Tieleman & Hinton 2012), ObGD (Elsayed et al. 2024) as published, in place.

The compiled form keeps no denormal moments: it takes gradients and first moments below 1e-17 (float64: 1e-150) for 0.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

from kernels.cpu.layout import ADAM, OBGD, REGRESSION, RMSPROP, Config


def scale(config: Config, o_error: torch.Tensor, gradients: Iterable[torch.Tensor]) -> float:
    """By what the whole gradient is multiplied: clipped to its norm, then ObGD's bound on overshooting.

    ObGD (algorithm 3 without eligibility traces): the step is rate / max(1, rate kappa max(1, |delta|) ||z||_1) times
    delta z, with z the gradient of the prediction and delta the error; of a classification z is the gradient of the
    loss and delta 1.
    """
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    factor, norm = 1.0, flat.norm().item()
    if config.clip_norm > 0 and norm > config.clip_norm:
        factor = config.clip_norm / norm
    if config.optimizer == OBGD:
        delta = o_error.abs().max().item() if config.task == REGRESSION else 1.0
        z = factor * flat.abs().sum().item() / delta if delta > 0 else 0.0
        factor /= max(1.0, config.rate * config.kappa * max(1.0, factor * delta) * z)
    return factor


def step(
    config: Config,
    number: int,
    w: torch.Tensor,
    m: torch.Tensor,
    v: torch.Tensor,
    gradient: torch.Tensor,
    share: float = 1.0,
) -> None:
    """Step `number` (from 1) on the weights `w` at `share` of the rate; moments are empty where there are none."""
    rate = share * config.rate
    if config.optimizer == ADAM:
        m.copy_(config.beta1 * m + (1 - config.beta1) * gradient)
        v.copy_(config.beta2 * v + (1 - config.beta2) * gradient**2)
        m_hat = m / (1 - config.beta1**number)
        v_hat = v / (1 - config.beta2**number)
        w -= rate * m_hat / (v_hat.sqrt() + config.epsilon)
    elif config.optimizer == RMSPROP:
        v.copy_(config.beta2 * v + (1 - config.beta2) * gradient**2)
        w -= rate * gradient / (v.sqrt() + config.epsilon)
    else:
        w -= rate * gradient


def shrink(config: Config, w: torch.Tensor) -> None:
    """Weight decay, decoupled from the gradient (Loshchilov & Hutter 2019)."""
    w *= 1 - config.rate * config.decay
