"""Selective diagonal state-space model (Mamba: Gu & Dao 2023, arXiv 2312.00752), in a form that RTRL can afford.

    a_e = (Wd x)_e,  d_e = softplus(a_e) gap,  u_e = (Wu x)_e,  B_m = (Wb x)_m,  C_m = (Wc x)_m,  A = -exp(A_log)
    h_em = k h_em + q u_e B_m with k = exp(d_e A_em), q = (k - 1) / A_em           E channels of M states, N = E M units
    phi_e = sum_m C_m h_em
    dh/dh_ = k,   dh/dA_log = d A k h_ + (d k - q) u B,   dh/da = k (A h_ + u B) gap sigmoid(a)
    dh/du = q B,   dh/dB = q u
The input is held over the step as in S5 (zero-order hold), where Mamba multiplies it by d (Euler): a long gap between
two events then leaves a state of the size of the input.
Every channel has a full row of its own for its time step, where Mamba has a low-rank projection whose traces would
need its rank times as much memory (`x_proj`). A row of Wd and Wu reaches the M states of its channel and a row of Wb
all channels, so their traces are [J, N] and their gradient is the sum over the units reached. Exact: A_log, Wd, Wu,
Wb, and Wc, which is instantaneous. There is no convolution and no gate; the skip connection of the read-out takes the
place of D.
"""

from __future__ import annotations

from typing import NamedTuple

from kernels.cpu.cells import backward, columns, features, forward, gather, made
from kernels.cpu.dispatch import implements
from kernels.cpu.numerics import dot, exp, expm1, sigmoid, softplus
from kernels.cpu.products import product


@made(order=1, matrices=3, vectors=1, shared=True)
class SSM(NamedTuple):
    """Matrices: Wd [J, E], Wb [J, M], Wu [J, E]; vector: A_log [E M], channels first; output stage: Wc [J, M]."""

    units: int
    channels: int
    states: int

    def output_stage(self, width: int) -> tuple[int, int]:
        """Rows and columns of the output stage's weights, for `width` inputs."""
        return width, self.states

    def weights_per_input(self) -> int:
        """Weights of all matrices for one input."""
        return 2 * self.channels + self.states


@implements(columns, SSM)
def _columns(cell, k, units):
    return cell.states if k == 1 else cell.channels


@implements(gather, SSM)
def _gather(cell, k, g, units):
    if k == 1:
        for i in range(cell.states, units):
            g[i % cell.states] += g[i]
    else:
        for e in range(cell.channels):
            total = g[e * cell.states]
            for m in range(1, cell.states):
                total += g[e * cell.states + m]
            g[e] = total


@implements(forward, SSM)
def _forward(cell, w, x, before, gap, units, width, s):
    span, one = w.dtype.type(gap), w.dtype.type(1)
    channels, states = cell.channels, cell.states
    step, slope, let_in, drive = s.work[0], s.work[1], s.work[2], s.work[3]
    product(w, 0, x, channels, width, step)
    product(w, width * channels, x, states, width, let_in)
    product(w, width * (channels + states), x, channels, width, drive)
    for e in range(channels):
        slope[e] = span * sigmoid(step[e])
        step[e] = span * softplus(step[e])
    at = width * (2 * channels + states)
    for i in range(units):
        s.work[4, i] = -exp(w[at + i])
    for e in range(channels):
        d, u = step[e], drive[e]
        for m in range(states):
            i = e * states + m
            a = s.work[4, i]
            less = expm1(d * a)
            keep = one + less
            held = less / a
            kept = keep * before[i]
            s.h[i] = kept + held * u * let_in[m]
            s.jac[0, i] = keep
            s.factor[0, i] = keep * (a * before[i] + u * let_in[m]) * slope[e]
            s.factor[1, i] = held * u
            s.factor[2, i] = held * let_in[m]
            s.vec[0, i] = d * a * kept + (d * keep - held) * u * let_in[m]


@implements(features, SSM)
def _features(cell, w, x, h, units, width, s):
    for j in range(width):
        s.out_inputs[j] = x[j]
    product(w, 0, x, cell.states, width, s.out_gate)
    for e in range(cell.channels):
        total = s.out_gate[0] * h[e * cell.states]
        for m in range(1, cell.states):
            total += s.out_gate[m] * h[e * cell.states + m]
        s.phi[e] = total


@implements(backward, SSM)
def _backward(cell, w, h, units, width, s, d_x):
    zero = w.dtype.type(0)
    for m in range(cell.states):
        s.d_out[m] = zero
    for e in range(cell.channels):
        g = s.d_phi[e]
        for m in range(cell.states):
            s.error[e * cell.states + m] = g * s.out_gate[m]
            s.d_out[m] += g * h[e * cell.states + m]
    for j in range(len(d_x)):
        d_x[j] += dot(w[j * cell.states : (j + 1) * cell.states], s.d_out, cell.states, zero)
