"""Checks of the Triton wave against the PyTorch one in float64, run in the interpreter or on a card.

Not collected by itself: `test_interpreter.py` runs it without a card, `tests/gpu/test_wave_on_card.py` with one.
"""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
import triton
import triton.language as tl

from kernels.cuda import maths, wave
from kernels.reference import wave as reference
from kernels.reference.wave_cells import CELLS, Cell

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SHAPES = ((1, 1, 1), (3, 5, 63), (9, 63, 3), (5, 100, 100), (17, 3, 257), (100, 17, 5), (257, 3, 3), (2, 257, 63))
"""(keys, inputs, units): awkward in each of them."""


def make(cell: Cell, keys: int, width: int, units: int, seed: int = 0, **changes) -> SimpleNamespace:
    """A pool with more rows than keys, some of the wave padding, in float32 (on the device) for both sides."""
    rng = torch.Generator().manual_seed(seed)

    def normal(*shape: int, scale: float = 1.0) -> torch.Tensor:
        return scale * torch.randn(*shape, generator=rng)

    rows = torch.randperm(keys + 5, generator=rng)[:keys]
    if keys > 2:
        rows[torch.randperm(keys, generator=rng)[: 1 + keys // 5]] = -1
    weights = normal(cell.weights(width, units), scale=0.7 / width**0.5)
    # Decays, phases and steps where they are used: from hardly any decay to much.
    weights[cell.products() * width * units :] = 1.5 * normal(cell.vectors * units) - 1.0
    made = SimpleNamespace(
        cell=cell,
        weights=weights,
        pool=normal(keys + 5, cell.body(width, units)),
        rows=rows,
        x=normal(keys, width),
        gap=3 * torch.rand(keys, generator=rng),
        error=normal(keys, cell.order, units),
        labelled=torch.rand(keys, generator=rng) < 0.8,
        kind=reference.ADAM,
        reduction="mean",
    )
    vars(made).update(changes)
    return made


def wide(case: SimpleNamespace) -> SimpleNamespace:
    """The same in float64 on the CPU."""
    values = {k: v.double() if torch.is_tensor(v) and v.is_floating_point() else v for k, v in vars(case).items()}
    return copy.deepcopy(SimpleNamespace(**values))


def on_device(case: SimpleNamespace) -> SimpleNamespace:
    return SimpleNamespace(**{k: v.to(DEVICE, copy=True) if torch.is_tensor(v) else v for k, v in vars(case).items()})


def run(module, case: SimpleNamespace, steps: int = 1) -> SimpleNamespace:
    """A few waves of the same keys. The pool is changed in place."""
    optimizer = reference.optimizer(case.weights, case.kind, rate=0.01, vector_rate=0.003)
    for _ in range(steps):
        h, local = module.forward(case.cell, case.weights, case.pool, case.rows, case.x, case.gap)
        poison(h, case.rows)
        poison(local, case.rows)
        learned = module.learn(
            case.cell, case.weights, optimizer, case.pool, case.rows, case.x, h, local, case.error, case.labelled,
            case.reduction,
        )  # fmt: skip
    live = case.rows >= 0
    return SimpleNamespace(
        h=h[live], local=local[live], learned=learned, weights=case.weights, pool=case.pool, decay=optimizer.decay,
        m=optimizer.m, v=optimizer.v,
    )  # fmt: skip


def poison(result: torch.Tensor, rows: torch.Tensor) -> None:
    """What is said of padding is unspecified: it must not be looked at."""
    result[rows < 0] = float("nan")


def close(ours: torch.Tensor, theirs: torch.Tensor, what: str, tolerance: float = 2e-5) -> None:
    """Float32 against float64: the norm of the difference, and each entry against the largest."""
    ours = ours.detach().cpu().double()
    assert ours.isfinite().all(), what
    difference, size = (ours - theirs).abs(), theirs.abs()
    assert difference.norm() <= tolerance * (theirs.norm() + 1e-6), (what, difference.norm(), theirs.norm())
    if theirs.numel():
        assert difference.max() <= 10 * tolerance * (size.max() + 1e-6), (what, difference.max(), size.max())


def compare(case: SimpleNamespace, steps: int = 1) -> None:
    theirs = run(reference, wide(case), steps)
    before = case.pool.clone()
    ours = run(wave, on_device(case), steps)
    for name in ("h", "local", "weights", "m", "v", "decay"):
        close(getattr(ours, name), getattr(theirs, name), name)
    assert ours.learned.tolist() == theirs.learned.tolist()
    live = case.rows[case.rows >= 0].long()
    close(ours.pool[live.to(DEVICE)], theirs.pool[live], "pool")
    untouched = torch.ones(len(case.pool), dtype=torch.bool)
    untouched[live] = False
    assert torch.equal(ours.pool.cpu()[untouched], before[untouched])


FEW = {
    "mingru": (1, 4, 6),
    "minlstm": (0, 2),
    "elstm": (1, 5),
    "lru": (0, 3),
    "rtu": (2, 7),
    "rtu_tanh": (0, 4),
    "hgrn": (1, 3),
    "s5": (2, 4),
}
"""Which of `SHAPES` the interpreter, which is slow, goes through; a card goes through all."""


def cases() -> list:
    every = range(len(SHAPES))
    return [
        pytest.param(CELLS[name], SHAPES[place], id=f"{name}-{SHAPES[place]}")
        for name in CELLS
        for place in (FEW[name] if DEVICE == "cpu" else every)
    ]


@pytest.mark.parametrize(("cell", "shape"), cases())
def test_a_wave_is_that_of_the_reference(cell: Cell, shape: tuple[int, int, int]) -> None:
    compare(make(cell, *shape))


@pytest.mark.parametrize("kind", reference.KINDS)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize(("name", "shape"), [("elstm", (6, 17, 33)), ("rtu", (21, 5, 9))], ids=["whole", "segments"])
def test_optimizers_and_reductions(kind: str, reduction: str, name: str, shape: tuple[int, int, int]) -> None:
    segments = wave.plan(CELLS[name], *shape).grid[2]
    assert (segments > 1) == (name == "rtu")
    compare(make(CELLS[name], *shape, kind=kind, reduction=reduction), steps=3)


@triton.jit
def _apply(x, out, FUNCTION: tl.constexpr, SIZE: tl.constexpr):
    at = tl.arange(0, SIZE)
    tl.store(out + at, FUNCTION(tl.load(x + at)))


@pytest.mark.parametrize(
    ("name", "exact"),
    [("exp", torch.exp), ("sigmoid", torch.sigmoid), ("tanh", torch.tanh), ("softplus", torch.nn.functional.softplus)],
)
def test_functions_are_those_of_float64(name: str, exact) -> None:
    """From results below the least normal number to overflow; what is not a number stays none."""
    x = torch.cat([torch.linspace(-110, 95, 2000), torch.linspace(-1, 1, 2000), torch.logspace(-30, 1, 90)])
    special = torch.tensor([0.0, -0.0, float("inf"), -float("inf"), float("nan"), 3e38])
    x = torch.cat([x, special]).float()
    x = torch.cat([x, x.new_zeros(8192 - len(x))]).to(DEVICE)
    out = torch.empty_like(x)
    _apply[(1,)](x, out, getattr(maths, name), len(x))
    wanted, found = exact(x.double()).cpu(), out.double().cpu()
    assert torch.equal(found.isnan(), wanted.isnan())
    whole = wanted.float().isfinite() & ~wanted.isnan()
    assert torch.equal(found[~whole & ~wanted.isnan()], wanted.float().double()[~whole & ~wanted.isnan()])
    off = (found - wanted).abs()[whole]
    assert (off <= 4e-7 * wanted[whole].abs() + 1e-38).all(), off.max()


@pytest.mark.parametrize("name", ["mingru", "lru"])
def test_bfloat16_inputs_and_int32_rows(name: str) -> None:
    case = make(CELLS[name], 9, 19, 33)
    case.x, case.rows = case.x.bfloat16(), case.rows.int()
    compare(case)


def test_without_labels_given_and_with_a_lower_bound() -> None:
    compare(make(CELLS["hgrn"]._replace(lower=0.4), 5, 3, 7, labelled=None, gap=None))


@pytest.mark.parametrize("name", ["elstm", "rtu"])
def test_a_wave_of_padding_or_without_labels_changes_no_weight(name: str) -> None:
    for case in (make(CELLS[name], 9, 3, 5), make(CELLS[name], 19, 3, 5)):
        old, pool = case.weights.clone(), case.pool.clone()
        case.rows[:] = -1
        done = run(wave, on_device(case))
        assert torch.equal(done.weights.cpu(), old)
        assert torch.equal(done.pool.cpu(), pool)
        assert done.decay.tolist() == [1.0, 1.0]
        assert not done.learned.any()
    case = make(CELLS[name], 9, 3, 5)
    case.labelled[:] = False
    done = run(wave, on_device(case))
    assert torch.equal(done.weights.cpu(), case.weights)


def test_an_error_that_is_not_finite_or_too_large_is_passed_over() -> None:
    case = make(CELLS["elstm"], 7, 3, 5, labelled=None)
    case.rows[:] = torch.arange(7)
    case.error[1, 0, 2], case.error[4] = float("nan"), 1e15
    done = run(wave, on_device(case))
    assert done.learned.tolist() == [True, False, True, True, False, True, True]
    assert done.weights.isfinite().all()
    assert done.pool.isfinite().all()
    compare(case)


def test_a_trace_that_is_not_finite_spoils_no_more_than_its_parameters() -> None:
    case = make(CELLS["mingru"], 5, 3, 5, labelled=None)
    case.rows[:] = torch.arange(5)
    case.pool[2, 5] = float("nan")  # the trace of the gate's first input and first unit
    old = case.weights.clone()
    done = run(wave, on_device(case))
    assert done.weights.isfinite().all()
    assert done.v.isfinite().all()
    assert (done.weights.cpu() == old).nonzero().flatten().tolist() == [0]


@pytest.mark.parametrize("name", ["minlstm", "rtu"])
def test_where_rows_lie_does_not_matter(name: str) -> None:
    case = make(CELLS[name], 19, 5, 9)
    there = copy.deepcopy(case)
    places = torch.randperm(len(case.pool), generator=torch.Generator().manual_seed(9))
    there.pool[places] = case.pool
    live = case.rows >= 0
    there.rows[live] = places[case.rows[live]]
    ours, other = run(wave, on_device(case)), run(wave, on_device(there))
    assert torch.equal(ours.weights, other.weights)
    assert torch.equal(ours.pool.cpu(), other.pool.cpu()[places])


def test_the_same_bits_twice() -> None:
    for name in ("elstm", "lru"):
        case = make(CELLS[name], 19, 9, 17)
        ours, again = run(wave, on_device(case)), run(wave, on_device(case))
        assert torch.equal(ours.weights, again.weights)
        assert torch.equal(ours.pool, again.pool)


def test_decays_close_to_one_keep_their_distance_from_it() -> None:
    """At nu = 1e-5 the norm n of an RTU is 4.5e-3: a difference of rounded numbers would leave two digits of it."""
    cell, units = CELLS["rtu"], 4
    case = make(cell, 3, 1, units, labelled=None)
    case.weights[2 * units : 3 * units] = torch.log(torch.tensor([1e-5, 1e-4, 1e-3, 1e-2]))
    _, local = wave.forward(cell, *(on_device(case).__dict__[name] for name in ("weights", "pool", "rows", "x")))
    narrow = wide(case)
    _, theirs = reference.forward(cell, narrow.weights, narrow.pool, narrow.rows, narrow.x)
    live = case.rows >= 0
    factor, expected = local.cpu()[live, 4].double(), theirs[live, 4]
    assert ((factor - expected).abs() <= 1e-6 * expected).all()


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("rows", torch.zeros(3), "rows must be torch.int32 or torch.int64, got torch.float32"),
        ("x", torch.zeros(3, 0), "x must be"),
        ("weights", torch.zeros(13), "weights of mingru must be a multiple of 8"),
        ("pool", torch.zeros(4, 7), r"pool must have the shape \[4, 45\]"),
        ("gap", torch.zeros(2), r"gap must have the shape \[3\]"),
        ("pool", torch.zeros(45, 4).T, "pool must be contiguous"),
    ],
)
def test_what_does_not_fit_is_refused(field: str, value: torch.Tensor, message: str) -> None:
    case = make(CELLS["mingru"], 3, 4, 5)
    setattr(case, field, value)
    with pytest.raises(ValueError, match=message):
        run(wave, on_device(case))
