"""eLSTM (Irie, Gopalakrishnan & Schmidhuber, ICLR 2024, arXiv 2305.19044): gates that see their own unit's state.

    f = sigmoid(F x + wf c_),  z = tanh(Z x + wz c_),  c = f c_ + (1 - f) z            (element-wise; biases are in x)
    dc/d(F x) = (c_ - z) f (1 - f) =: df,   dc/d(Z x) = (1 - f)(1 - z^2) =: dz
    dc/dc_ = f + wf df + wz dz,   dc/dwf = df c_,   dc/dwz = dz c_
    o = sigmoid(O x + Wo c),  phi = o c                                                 (instantaneous)

|c| <= 1, yet dc/dc_ may exceed 1 where wf or wz are large: traces are bounded from outside.
"""

from __future__ import annotations

from typing import NamedTuple

from kernels.cpu.cells import backward, features, forward, made
from kernels.cpu.dispatch import implements
from kernels.cpu.numerics import dot, sigmoid, tanh
from kernels.cpu.products import product


@made(order=1, matrices=2, vectors=2)
class ELSTM(NamedTuple):
    """Matrices: forget gate F, candidate Z; vectors wf, wz; output stage: O [J, N], then Wo [N, N]."""

    units: int

    def output_stage(self, width: int) -> tuple[int, int]:
        """Rows and columns of the output stage's weights, for `width` inputs."""
        return width + self.units, self.units


@implements(forward, ELSTM)
def _forward(cell, w, x, before, gap, units, width, s):
    one = w.dtype.type(1)
    forget, candidate = s.work[0], s.work[1]
    product(w, 0, x, units, width, forget)
    product(w, width * units, x, units, width, candidate)
    at = 2 * width * units
    wf = w[at : at + units]
    wz = w[at + units : at + 2 * units]
    for i in range(units):
        forget[i] = sigmoid(forget[i] + wf[i] * before[i])
    for i in range(units):
        candidate[i] = tanh(candidate[i] + wz[i] * before[i])
    for i in range(units):
        f = forget[i]
        z = candidate[i]
        b = before[i]
        df = (b - z) * f * (one - f)
        dz = (one - f) * (one - z * z)
        s.h[i] = f * b + (one - f) * z
        s.jac[0, i] = f + wf[i] * df + wz[i] * dz
        s.factor[0, i] = df
        s.factor[1, i] = dz
        s.vec[0, i] = df * b
        s.vec[1, i] = dz * b


@implements(features, ELSTM)
def _features(cell, w, x, h, units, width, s):
    for j in range(width):
        s.out_inputs[j] = x[j]
    for i in range(units):
        s.out_inputs[width + i] = h[i]
    product(w, 0, s.out_inputs, units, width + units, s.out_gate)
    for i in range(units):
        s.out_gate[i] = sigmoid(s.out_gate[i])
    for i in range(units):
        s.phi[i] = s.out_gate[i] * h[i]


@implements(backward, ELSTM)
def _backward(cell, w, h, units, width, s, d_x):
    one = w.dtype.type(1)
    zero = w.dtype.type(0)
    for i in range(units):
        o = s.out_gate[i]
        s.d_out[i] = s.d_phi[i] * h[i] * o * (one - o)
    for i in range(units):
        row = w[(width + i) * units : (width + i + 1) * units]
        s.error[i] = s.d_phi[i] * s.out_gate[i] + dot(row, s.d_out, units, zero)
    for j in range(len(d_x)):
        d_x[j] += dot(w[j * units : (j + 1) * units], s.d_out, units, zero)
