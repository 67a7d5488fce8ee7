"""The place of S5: diagonal SSM, zero-order hold. Tied matrix B; vectors log(-Re Lambda), Im Lambda, log Delta."""

from __future__ import annotations

import triton
import triton.language as tl  # noqa: F401 (Triton's interpreter asks for it in the module of every function)

from kernels.cuda.maths import exp, exp_complex, hold


@triton.jit
def place(h1, h2, p0, p1, p2, v0, v1, v2, gap, lower):
    """State h = e^z h_ + De (e^z - 1) / z B x, z = Lambda De, De = Delta gap; derivatives as in the reference."""
    rate, span = -exp(v0), exp(v2) * gap
    z1, z2 = rate * span, v1 * span
    a, b, m1, m2 = exp_complex(z1, z2)
    w1, w2, c1, c2 = hold(z1, z2, a, b, m1, m2)
    w1, w2 = span * w1, span * w2
    k1, k2 = a * h1 - b * h2, b * h1 + a * h2
    # by Lambda: De e^z h_ + De^2 c u;  by log De: z e^z h_ + De e^z u
    r1 = span * k1 + span * span * (c1 * p0 - c2 * p1)
    r2 = span * k2 + span * span * (c1 * p1 + c2 * p0)
    d1 = z1 * k1 - z2 * k2 + span * (a * p0 - b * p1)
    d2 = z1 * k2 + z2 * k1 + span * (a * p1 + b * p0)
    n1, n2 = k1 + w1 * p0 - w2 * p1, k2 + w1 * p1 + w2 * p0
    return n1, n2, a, -b, b, a, w1, w2, rate * r1, rate * r2, -r2, r1, d1, d2
