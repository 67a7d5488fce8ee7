"""Optimizer steps on a tile of parameters, shared by the kernels that have the whole gradient of it in registers."""

from __future__ import annotations

import triton
import triton.language as tl

from kernels.reference import wave

# A jit function sees globals only as constexpr.
SGD, ADAM, RMSPROP = (tl.constexpr(code) for code in range(len(wave.KINDS)))
LARGEST_GRADIENT = tl.constexpr(wave.LARGEST_GRADIENT)


@triton.jit
def scalars(hyper, decay, KIND: tl.constexpr):
    """Float32 (rate, rate of vectors, beta1, 1 - beta1, beta2, 1 - beta2, epsilon) with Adam's corrections in them.

    `hyper` float64 [5] and `decay` float64 [2] as in `kernels.reference.wave.Optimizer`; the decay is that of before.
    """
    rate, vector_rate = tl.load(hyper), tl.load(hyper + 1)
    beta1, beta2, epsilon = tl.load(hyper + 2), tl.load(hyper + 3), tl.load(hyper + 4)
    if KIND == ADAM:
        root = tl.sqrt(1.0 - tl.load(decay + 1) * beta2)
        correction = root / (1.0 - tl.load(decay) * beta1)
        rate, vector_rate, epsilon = rate * correction, vector_rate * correction, epsilon * root
    f = tl.float32
    first = beta1.to(f), (1.0 - beta1).to(f)
    return rate.to(f), vector_rate.to(f), first[0], first[1], beta2.to(f), (1.0 - beta2).to(f), epsilon.to(f)


@triton.jit
def advance_decay(hyper, decay, decay_after, count, KIND: tl.constexpr):
    """Writes beta^t after a step of Adam; without one, the decay as it was. One program of a launch does it."""
    for i in tl.static_range(2):
        before = tl.load(decay + i)
        after = before
        if KIND == ADAM:
            after = tl.where(count > 0, before * tl.load(hyper + 2 + i), before)
        tl.store(decay_after + i, after)


@triton.jit
def step(weights, m, v, at, inside, g, rate, beta1, rest1, beta2, rest2, epsilon, KIND: tl.constexpr):
    """One step of the weights `at` (where `inside`) with the gradient `g`; `rate` is a scalar or a tile.

    A gradient beyond `LARGEST_GRADIENT`, or NaN, leaves its weight and moments as they are.
    """
    apply = inside & (tl.abs(g) <= LARGEST_GRADIENT)
    w = tl.load(weights + at, mask=apply, other=0.0)
    if KIND == SGD:
        w -= rate * g
    else:
        top = g
        if KIND == ADAM:
            top = beta1 * tl.load(m + at, mask=apply, other=0.0) + rest1 * g
            tl.store(m + at, top, mask=apply)
        second = beta2 * tl.load(v + at, mask=apply, other=0.0) + rest2 * (g * g)
        tl.store(v + at, second, mask=apply)
        w -= tl.div_rn(rate * top, tl.sqrt_rn(second) + epsilon)
    tl.store(weights + at, w, mask=apply)
