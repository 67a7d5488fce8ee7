"""The element-wise cells of a wave, in plain PyTorch: one step of B keys and its derivatives.

Sizes as in `kernels.reference.wave`. Cells of order 2 are written in complex numbers here, h = h1 + i h2, and in reals
in `kernels.cuda.cells`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kernels.cpu.cells.elstm import ELSTM
from kernels.cpu.cells.hgrn import HGRN
from kernels.cpu.cells.lru import LRU
from kernels.cpu.cells.mingru import MinGRU
from kernels.cpu.cells.minlstm import MinLSTM
from kernels.cpu.cells.rtu import RTU, NonlinearRTU
from kernels.cpu.cells.s5 import S5


class Cell(NamedTuple):
    """What an element-wise cell is made of."""

    name: str
    order: int
    """D, reals per unit of the state."""
    matrices: int
    tied: bool
    vectors: int
    contracts: bool
    """Whether traces are bounded by the inputs; where not they are kept within `LARGEST_TRACE`."""
    lower: float = 0.0
    """HGRN: the lower bound of the forget gate."""

    def products(self) -> int:
        """Matrices [J, N] of reals."""
        return self.matrices * (2 if self.tied else 1)

    def locals(self) -> int:
        """Vectors [N] that `forward` leaves for `learn`: jac, factor, vec."""
        return self.order**2 + (self.matrices + self.vectors) * self.order

    def weights(self, width: int, units: int) -> int:
        """Parameters of the recurrence, for J = `width` inputs."""
        return (self.products() * width + self.vectors) * units

    def body(self, width: int, units: int) -> int:
        """Numbers in a row of the pool."""
        return self.order * units * (1 + self.matrices * width + self.vectors)


def _of(name: str, kind: Any) -> Cell:
    """The cell that `kind` is, of `kernels.cpu.cells`: what it is made of is said there once."""
    return Cell(name, kind.ORDER, kind.MATRICES, kind.TIED, kind.VECTORS, kind.CONTRACTS)


CELLS = {
    name: _of(name, kind)
    for name, kind in {
        "mingru": MinGRU,
        "minlstm": MinLSTM,
        "elstm": ELSTM,
        "lru": LRU,
        "rtu": RTU,
        "rtu_tanh": NonlinearRTU,
        "hgrn": HGRN,
        "s5": S5,
    }.items()
}
"""The cells that a wave knows, by name. eLSTM is without its output gate, which lies outside of the recurrence."""


class Step(NamedTuple):
    """One step of a cell: the state and its derivatives, each [B, rows, N]."""

    h: Tensor
    """D rows."""
    jac: Tensor
    """D^2 rows: dh/dh_ (11, 12, 21, 22)."""
    factor: Tensor
    """M D rows: dh/d(pre-activation); tied: with respect to its real part."""
    vec: Tensor
    """V D rows: dh/d(vector), with h_ held fixed."""


def split_weights(cell: Cell, weights: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """The matrices [Q, J, N] and the vectors [V, N] of the flat weights; Q = 2 M where matrices are complex."""
    rows = cell.products() * width
    units = weights.numel() // (rows + cell.vectors)
    return weights[: rows * units].view(-1, width, units), weights[rows * units :].view(cell.vectors, units)


def one_step(cell: Cell, weights: Tensor, h: Tensor, x: Tensor, gap: Tensor | None = None) -> Step:
    """One step of the cell from the states `h` [B, D, N] with the inputs `x` [B, J]."""
    matrices, vectors = split_weights(cell, weights, x.shape[1])
    pre = torch.einsum("bj,qjn->qbn", x.to(weights.dtype), matrices)
    gap = torch.ones_like(h[:, 0, :1]) if gap is None else gap.to(h.dtype)[:, None]
    return _FORMS[cell.name](cell, h, pre, vectors, gap)


# The cells. `pre` [Q, B, N] are the pre-activations, `vectors` [V, N], `gap` [B, 1].


def _mingru(cell: Cell, h: Tensor, pre: Tensor, vectors: Tensor, gap: Tensor) -> Step:
    """The minGRU (Feng et al. 2024, arXiv 2410.01201) with a tanh candidate. Matrices: gate, candidate."""
    z, c, before = torch.sigmoid(pre[0]), torch.tanh(pre[1]), h[:, 0]
    factor = [(c - before) * z * (1 - z), z * (1 - c * c)]
    return _step([(1 - z) * before + z * c], [1 - z], factor, [])


def _minlstm(cell: Cell, h: Tensor, pre: Tensor, vectors: Tensor, gap: Tensor) -> Step:
    """The minLSTM (same paper). Matrices: forget gate, input gate, candidate. F = f / (f + i) by logarithms."""
    f, i, c, before = torch.sigmoid(pre[0]), torch.sigmoid(pre[1]), torch.tanh(pre[2]), h[:, 0]
    balance = torch.nn.functional.logsigmoid(pre[0]) - torch.nn.functional.logsigmoid(pre[1])
    keep, take = torch.sigmoid(balance), torch.sigmoid(-balance)
    slope = (before - c) * keep * take
    return _step([keep * before + take * c], [keep], [slope * (1 - f), -slope * (1 - i), take * (1 - c * c)], [])


def _elstm(cell: Cell, h: Tensor, pre: Tensor, vectors: Tensor, gap: Tensor) -> Step:
    """The eLSTM (Irie et al., ICLR 2024, arXiv 2305.19044). Matrices F (forget gate), Z; vectors wf, wz."""
    wf, wz = vectors
    before = h[:, 0]
    f, z = torch.sigmoid(pre[0] + wf * before), torch.tanh(pre[1] + wz * before)
    df, dz = (before - z) * f * (1 - f), (1 - f) * (1 - z * z)
    return _step([f * before + (1 - f) * z], [f + wf * df + wz * dz], [df, dz], [df * before, dz * before])


def _lru(cell: Cell, h: Tensor, pre: Tensor, vectors: Tensor, gap: Tensor) -> Step:
    """LRU (Orvieto et al. 2023; traces: Zucchet et al. 2023). Vectors: log nu, log theta, log gamma."""
    nu, theta, gamma = torch.exp(vectors)
    lam = torch.exp(torch.complex(-nu, theta))
    before, u = torch.complex(h[:, 0], h[:, 1]), torch.complex(pre[0], pre[1])
    kept = lam * before
    return _complex_step(kept + gamma * u, lam, [gamma + 0j], [-nu * kept, 1j * theta * kept, gamma * u])


def _rtu_parts(vectors: Tensor) -> tuple[Tensor, ...]:
    """lambda, nu, theta, the norm n = sqrt(1 - |lambda|^2), and dn/d(log nu)."""
    nu, theta = torch.exp(vectors)
    n = torch.sqrt(-torch.expm1(-2 * nu))
    return torch.exp(torch.complex(-nu, theta)), nu, theta, n, torch.where(n > 0, nu * torch.exp(-2 * nu) / n, 0.0)


def _rtu(cell: Cell, h: Tensor, pre: Tensor, vectors: Tensor, gap: Tensor) -> Step:
    """Linear RTU (Elelimy et al., NeurIPS 2024, arXiv 2409.01449). Vectors: log nu, log theta."""
    lam, nu, theta, n, dn = _rtu_parts(vectors)
    before, u = torch.complex(h[:, 0], h[:, 1]), torch.complex(pre[0], pre[1])
    kept = lam * before
    return _complex_step(kept + n * u, lam, [n + 0j], [-nu * kept + dn * u, 1j * theta * kept])


def _rtu_tanh(cell: Cell, h: Tensor, pre: Tensor, vectors: Tensor, gap: Tensor) -> Step:
    """Non-linear RTU: tanh of the real and of the imaginary part, inside of the recurrence. Matrices: W1, W2."""
    linear = _rtu(cell, h, pre, vectors, gap)
    n = linear.factor[:, 0]
    new = torch.tanh(linear.h)
    slope = 1 - new * new
    jac = linear.jac * slope[:, [0, 0, 1, 1]]
    zero = torch.zeros_like(n)
    factor = torch.stack([slope[:, 0] * n, zero, zero, slope[:, 1] * n], 1)
    return Step(new, jac, factor, linear.vec * slope[:, [0, 1, 0, 1]])


def _hgrn(cell: Cell, h: Tensor, pre: Tensor, vectors: Tensor, gap: Tensor) -> Step:
    """HGRN (Qin et al. 2023), lower bound constant. Matrices: forget gate, candidate's two parts; vector: theta."""
    mu, (a, b) = torch.sigmoid(pre[0]), pre[1:]
    share = cell.lower + (1 - cell.lower) * mu
    silu, slopes = torch.nn.functional.silu, []
    for part in (a, b):
        s = torch.sigmoid(part)
        slopes.append((1 - share) * s * (1 + part * (1 - s)) + 0j)
    c, before = torch.complex(silu(a), silu(b)), torch.complex(h[:, 0], h[:, 1])
    turned = torch.exp(1j * vectors[0]) * before
    kappa = (turned - c) * (1 - cell.lower) * mu * (1 - mu)
    lam = share * torch.exp(1j * vectors[0])
    new = share * turned + (1 - share) * c
    return _complex_step(new, lam, [kappa, slopes[0], 1j * slopes[1]], [1j * share * turned])


def _s5(cell: Cell, h: Tensor, pre: Tensor, vectors: Tensor, gap: Tensor) -> Step:
    """Diagonal SSM, zero-order hold (S5). Vectors: log(-Re Lambda), Im Lambda, log Delta; step Delta gap.

    S_Lambda and S_Delta are per step (irregular gaps): with z = Lambda De, c = De (e^z - 1) / z,
        dh/dLambda = De e^z h_ + De^2 (z e^z - e^z + 1) / z^2 u,   dh/dlog De = z e^z h_ + De e^z u.
    """
    rate = torch.complex(-torch.exp(vectors[0]), vectors[1])
    span = torch.exp(vectors[2]) * gap
    z = rate * span
    lam = torch.exp(z)
    small = z.abs() < SERIES_BELOW
    away = torch.where(small, torch.ones_like(z), z)
    weight = span * torch.where(small, _series(z, lambda j: 1.0 / math.factorial(j + 1)), torch.expm1(away) / away)
    bend = torch.where(
        small,
        _series(z, lambda j: (j + 1.0) / math.factorial(j + 2)),
        (away * torch.exp(away) - torch.expm1(away)) / (away * away),
    )
    before, u = torch.complex(h[:, 0], h[:, 1]), torch.complex(pre[0], pre[1])
    by_rate = span * lam * before + span * span * bend * u
    by_step = z * lam * before + span * lam * u
    return _complex_step(lam * before + weight * u, lam, [weight], [rate.real * by_rate, 1j * by_rate, by_step])


SERIES_BELOW = 0.5
"""(e^z - 1) / z and its like are summed as a series below this |z|: the quotients cancel there."""


def _series(z: Tensor, coefficient: Callable[[int], float], terms: int = 16) -> Tensor:
    total = torch.zeros_like(z)
    for j in range(terms - 1, -1, -1):
        total = total * z + coefficient(j)
    return total


def _step(h: list[Tensor], jac: list[Tensor], factor: list[Tensor], vec: list[Tensor]) -> Step:
    """Rows of [B, N] as a step; vectors are broadcast over the keys."""
    new = torch.stack(h, 1)
    rows = [
        torch.stack([row.expand_as(h[0]) for row in part], 1) if part else new[:, :0] for part in (jac, factor, vec)
    ]
    return Step(new, *rows)


def _complex_step(new: Tensor, lam: Tensor, factor: list[Tensor], vec: list[Tensor]) -> Step:
    """The step of a cell whose state turns by the complex `lam`: dh/dh_ = [[re, -im], [im, re]]."""
    jac = [lam.real, -lam.imag, lam.imag, lam.real]
    pairs = [[half for value in part for half in (value.real, value.imag)] for part in (factor, vec)]
    return _step([new.real, new.imag], jac, *pairs)


_FORMS: dict[str, Callable[[Cell, Tensor, Tensor, Tensor, Tensor], Step]] = {
    "mingru": _mingru,
    "minlstm": _minlstm,
    "elstm": _elstm,
    "lru": _lru,
    "rtu": _rtu,
    "rtu_tanh": _rtu_tanh,
    "hgrn": _hgrn,
    "s5": _s5,
}
