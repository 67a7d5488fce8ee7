"""The checks of the wave on a card: every shape with every cell, and the same bits twice at a size that fills it."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton")
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

from kernels.cuda import wave  # noqa: E402
from kernels.reference import wave as reference  # noqa: E402
from kernels.reference.wave_cells import CELLS  # noqa: E402
from tests.kernels.cuda.wave_checks import *  # noqa: E402, F403
from tests.kernels.cuda.wave_checks import close, make, on_device, run, wide  # noqa: E402


@pytest.mark.parametrize("name", CELLS)
def test_the_same_bits_twice_when_the_card_is_full(name: str) -> None:
    shape = (4096, 17, 64)
    assert wave.plan(CELLS[name], *shape).grid[2] > 1
    case = make(CELLS[name], *shape)
    ours, again = run(wave, on_device(case), 3), run(wave, on_device(case), 3)
    for part in ("weights", "pool", "m", "v", "decay"):
        assert torch.equal(getattr(ours, part), getattr(again, part)), part
    theirs = run(reference, wide(case), 3)
    for part in ("weights", "pool", "decay"):
        close(getattr(ours, part), getattr(theirs, part), part)


def test_a_row_beyond_32_bits_of_the_pool() -> None:
    """Rows whose place in the pool needs 64 bits (9 GB of it)."""
    cell, width, units = CELLS["mingru"], 256, 1024
    body = cell.body(width, units)
    pool = torch.zeros(2**32 // body // 2 + 2, body, device="cuda")
    assert (len(pool) - 1) * body > 2**31
    rows = torch.tensor([len(pool) - 1, 0], device="cuda")
    x, error = torch.ones(2, width, device="cuda"), torch.ones(2, 1, units, device="cuda")
    weights = torch.zeros(cell.weights(width, units), device="cuda")
    h, local = wave.forward(cell, weights, pool, rows, x)
    wave.learn(cell, weights, reference.optimizer(weights), pool, rows, x, h, local, error)
    assert torch.equal(pool[0], pool[-1])
    assert pool[0].any()
    assert not pool[1:-1].any()
