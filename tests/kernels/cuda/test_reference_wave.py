"""The PyTorch wave in float64: gradients against autograd through time, the optimizers against torch's."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from kernels.cpu.cells.elstm import ELSTM
from kernels.cpu.cells.hgrn import HGRN
from kernels.cpu.cells.lru import LRU
from kernels.cpu.cells.mingru import MinGRU
from kernels.cpu.cells.minlstm import MinLSTM
from kernels.cpu.cells.rtu import RTU, NonlinearRTU
from kernels.cpu.cells.s5 import EXP, S5
from kernels.reference import cells as folded
from kernels.reference import wave
from kernels.reference.wave_cells import CELLS, Cell, one_step

KEYS, WIDTH, UNITS, STEPS = 3, 4, 5, 12


def random_weights(cell: Cell, rng: torch.Generator, width: int = WIDTH, units: int = UNITS) -> torch.Tensor:
    return 0.7 * torch.randn(cell.weights(width, units), generator=rng, dtype=torch.float64)


def cells() -> list[Cell]:
    return [*CELLS.values(), CELLS["hgrn"]._replace(lower=0.3)]


def names(cell: Cell) -> str:
    return f"{cell.name}-{cell.lower}" if cell.lower else cell.name


@pytest.mark.parametrize("cell", cells(), ids=names)
def test_the_summed_gradient_is_that_of_autograd_through_time(cell: Cell) -> None:
    rng = torch.Generator().manual_seed(1)
    weights = random_weights(cell, rng).requires_grad_()
    xs = torch.randn(STEPS, KEYS, WIDTH, generator=rng, dtype=torch.float64)
    gaps = 3 * torch.rand(STEPS, KEYS, generator=rng, dtype=torch.float64)
    gaps[3] = 0.0
    errors = torch.randn(STEPS, KEYS, cell.order, UNITS, generator=rng, dtype=torch.float64)

    loss, h = torch.zeros((), dtype=torch.float64), torch.zeros(KEYS, cell.order, UNITS, dtype=torch.float64)
    for t in range(STEPS):
        h = one_step(cell, weights, h, xs[t], gaps[t]).h
        loss = loss + (errors[t] * h).sum()
    (expected,) = torch.autograd.grad(loss, weights)

    frozen, pool, rows = weights.detach(), torch.zeros(KEYS, cell.body(WIDTH, UNITS), dtype=torch.float64), [2, 0, 1]
    total = torch.zeros_like(frozen)
    for t in range(STEPS):
        moved = frozen.clone()
        sgd = wave.optimizer(moved, wave.SGD, rate=1.0)
        new, local = wave.forward(cell, moved, pool, torch.tensor(rows), xs[t], gaps[t])
        done = wave.learn(cell, moved, sgd, pool, torch.tensor(rows), xs[t], new, local, errors[t], reduction="sum")
        assert done.all()
        total += frozen - moved
    assert torch.equal(pool[rows, : cell.order * UNITS].view_as(h), new)
    assert (new - h).norm() <= 1e-12 * h.norm()
    for part, wanted in zip(wave.split_weights(cell, total, WIDTH), wave.split_weights(cell, expected, WIDTH)):
        for ours, theirs in zip(part, wanted):
            assert (ours - theirs).norm() <= 1e-10 * (theirs.norm() + 1e-12)


FOLDED = {
    "mingru": MinGRU(UNITS),
    "minlstm": MinLSTM(UNITS),
    "lru": LRU(UNITS),
    "rtu": RTU(UNITS),
    "rtu_tanh": NonlinearRTU(UNITS),
    "hgrn": HGRN(UNITS, 0.3),
    "s5": S5(UNITS, EXP),
}
"""The same cells as the compiled fold has them; of eLSTM the wave has no output gate, which changes no state."""


@pytest.mark.parametrize("name", [*FOLDED, "elstm"])
def test_the_cells_are_those_of_the_fold(name: str) -> None:
    rng = torch.Generator().manual_seed(4)
    cell = CELLS[name]._replace(lower=0.3)
    theirs = FOLDED.get(name, ELSTM(UNITS))
    weights = random_weights(cell, rng)
    x = torch.randn(2, WIDTH, generator=rng, dtype=torch.float64)
    h = torch.randn(2, cell.order, UNITS, generator=rng, dtype=torch.float64)
    gap = torch.tensor([0.3, 2.0], dtype=torch.float64)
    ours = one_step(cell, weights, h, x, gap).h
    stage = weights.new_zeros(math.prod(theirs.output_stage(WIDTH)) if hasattr(theirs, "output_stage") else 0)
    parts = folded.split(theirs, torch.cat([weights, stage]), WIDTH)
    for key in range(2):
        expected = folded.forward(theirs, parts, x[key], h[key], float(gap[key]))
        assert (ours[key] - expected.view_as(ours[key])).abs().max() < 1e-12


def test_s5_is_smooth_where_the_series_ends() -> None:
    cell = CELLS["s5"]
    weights = torch.zeros(cell.weights(1, 1), dtype=torch.float64)
    h, x = torch.ones(2, 2, 1, dtype=torch.float64), torch.ones(2, 1, dtype=torch.float64)
    weights[0], edge = 1.0, torch.tensor([0.5 - 1e-9, 0.5 + 1e-9], dtype=torch.float64)
    step = one_step(cell, weights, h, x, edge)
    for part in step:
        assert (part[0] - part[1]).abs().max() < 1e-8


@pytest.mark.parametrize("kind", wave.KINDS)
def test_the_optimizers_are_those_of_torch(kind: str) -> None:
    rng = torch.Generator().manual_seed(2)
    weights = torch.randn(7, generator=rng, dtype=torch.float64)
    theirs = weights.clone().requires_grad_()
    ours = wave.optimizer(weights, kind, rate=0.02, betas=(0.8, 0.95), epsilon=1e-3)
    torchs = {
        wave.SGD: lambda: torch.optim.SGD([theirs], lr=0.02),
        wave.ADAM: lambda: torch.optim.Adam([theirs], lr=0.02, betas=(0.8, 0.95), eps=1e-3),
        wave.RMSPROP: lambda: torch.optim.RMSprop([theirs], lr=0.02, alpha=0.95, eps=1e-3),
    }[kind]()
    for _ in range(5):
        g = torch.randn(7, generator=rng, dtype=torch.float64)
        wave.step(ours, weights, g, torch.tensor(1), cell_size=7)
        theirs.grad = g
        torchs.step()
        assert (weights - theirs.detach()).abs().max() < 1e-14


def test_vectors_have_their_own_rate() -> None:
    weights = torch.zeros(5, dtype=torch.float64)
    sgd = wave.optimizer(weights, wave.SGD, rate=1.0, vector_rate=0.5)
    wave.step(sgd, weights, torch.ones(5, dtype=torch.float64), torch.tensor(1), cell_size=3)
    assert weights.tolist() == [-1.0, -1.0, -1.0, -0.5, -0.5]


def test_what_cannot_be_learned_from_is_carried_on() -> None:
    """Padding, no label, an error that is not finite: no gradient; nobody learned from: no step at all."""
    cell, rng = CELLS["elstm"], torch.Generator().manual_seed(3)
    weights = random_weights(cell, rng)
    pool = torch.randn(6, cell.body(WIDTH, UNITS), generator=rng, dtype=torch.float64)
    rows, x = torch.tensor([4, -1, 0, 2]), torch.randn(4, WIDTH, generator=rng, dtype=torch.float64)
    error = torch.randn(4, 1, UNITS, generator=rng, dtype=torch.float64)
    error[2, 0, 1], error[3, 0, 0] = float("nan"), 1e16
    adam, old, untouched = wave.optimizer(weights), weights.clone(), pool.clone()
    h, local = wave.forward(cell, weights, pool, rows, x)
    state = copy.deepcopy(adam)
    nobody = torch.zeros(4, dtype=torch.bool)
    assert not wave.learn(cell, weights, adam, pool, rows, x, h, local, error, labelled=nobody).any()
    assert torch.equal(weights, old)
    assert torch.equal(adam.decay, state.decay)
    assert torch.equal(pool[[1, 3, 5]], untouched[[1, 3, 5]])
    assert (pool[[0, 2, 4]] != untouched[[0, 2, 4]]).all()

    h, local = wave.forward(cell, weights, pool, rows, x)
    done = wave.learn(cell, weights, adam, pool, rows, x, h, local, error)
    assert done.tolist() == [True, False, False, False]
    assert weights.isfinite().all()
    assert (weights != old).all()


def test_an_unknown_optimizer_is_refused() -> None:
    with pytest.raises(ValueError, match="sgd, adam, rmsprop, got 'adagrad'"):
        wave.optimizer(torch.zeros(1), "adagrad")
