"""Mini-batch kernels against autograd in float64, and the bits of a row among other rows."""

from __future__ import annotations

import math

import numba as nb
import numpy as np
import pytest
import torch

from kernels.cpu import convolution
from kernels.cpu.draws import distinct
from kernels.cpu.numerics import JIT, magnitude, of_magnitude
from kernels.cpu.replay import layers, losses, students
from kernels.reference import replay as reference

CLOSE = {"rtol": 1e-10, "atol": 1e-13}


def draw(seed: int, *shape: int, zeros: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=shape) * (rng.random(shape) >= zeros)


def leaf(array: np.ndarray) -> torch.Tensor:
    return torch.tensor(array, requires_grad=True)


@nb.njit(**JIT)
def magnitudes(x, bits, back):
    """The bits of each magnitude, and what they are the bits of."""
    for i in range(len(x)):
        bits[i] = magnitude(x[i])
        back[i] = of_magnitude(magnitude(x[i]))


@pytest.mark.parametrize(("n", "inputs", "units"), [(1, 3, 5), (7, 33, 17), (20, 40, 64)])
def test_a_layer_forward_and_back(n, inputs, units) -> None:
    x, w, b = draw(1, n, inputs, zeros=0.6), draw(2, inputs, units), draw(3, units)
    out, d = np.empty((n, units)), draw(4, n, units, zeros=0.3)
    z, tw, tb = leaf(x), leaf(w), leaf(b)
    said = reference.perceptron(torch.relu(z), [(tw, tb)])
    layers.forward(np.maximum(x, 0), w, b, True, np.zeros(inputs, np.int64), out)
    np.testing.assert_allclose(out, said.detach(), **CLOSE)
    said.backward(torch.tensor(d))
    d = np.where(out > 0, d, 0.0)
    gw, gb, below = np.empty_like(w), np.empty_like(b), np.empty_like(x)
    layers.weight_gradient(np.maximum(x, 0), d, np.zeros(n, np.int64), np.zeros(n), gw, gb)
    turned, places = np.zeros((units, inputs)), np.zeros(units, np.int64)
    layers.input_gradient(d, w, turned, places, below)
    layers.rectifier_gradient(np.maximum(x, 0), below)
    for mine, theirs in ((gw, tw.grad), (gb, tb.grad), (below, z.grad)):
        np.testing.assert_allclose(mine, theirs, **CLOSE)


def test_a_row_has_the_same_bits_among_other_rows() -> None:
    x, w, b = (draw(k, *shape).astype(np.float32) for k, shape in enumerate([(20, 45), (45, 37), (37,)]))
    places, all_rows, one = np.zeros(45, np.int64), np.empty((20, 37), np.float32), np.empty((1, 37), np.float32)
    layers.forward(x, w, b, False, places, all_rows)
    for row in range(20):
        layers.forward(x[row : row + 1], w, b, False, places, one)
        assert one.tobytes() == all_rows[row : row + 1].tobytes()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [0, 1, 31, 32, 33, 100, 4095, 4096, 4097, 8225, 100_000])
def test_the_sum_of_products(size, dtype) -> None:
    a, b = np.random.default_rng(size).normal(size=(2, size)).astype(dtype)
    exact = math.fsum(a.astype(float) * b.astype(float))
    sizes = math.fsum(np.abs(a.astype(float) * b.astype(float)))
    assert abs(losses.product(a, b) - exact) <= 80 * np.finfo(dtype).eps * sizes
    if size > 0:
        for at in (0, size // 2, size - 1):
            for bad in (np.nan, np.inf):
                wrong = a.copy()
                wrong[at] = bad
                assert not math.isfinite(losses.product(wrong, wrong))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_magnitudes_are_ordered_as_their_bits(dtype) -> None:
    info = np.finfo(dtype)
    x = np.array([0.0, info.smallest_subnormal, info.tiny, 1.0, 1e30, info.max, np.inf, np.nan], dtype)
    for sign in (1, -1):
        bits, back = np.zeros(len(x), np.int64), np.zeros(len(x), dtype)
        magnitudes(sign * x, bits, back)
        assert (np.diff(bits) > 0).all()
        np.testing.assert_array_equal(back, x)


def test_nan_and_infinity_are_seen() -> None:
    for bad in (np.nan, np.inf, -np.inf):
        values = np.ones(100, np.float32)
        values[63] = bad
        out, places = np.empty((1, 2), np.float32), np.zeros(4, np.int64)
        layers.forward(values[None, 60:64], np.ones((4, 2), np.float32), np.zeros(2, np.float32), True, places, out)
        assert np.isfinite(out).all() == (bad == -np.inf), "a unit that is not a number is not made zero"


@pytest.mark.parametrize("by", ["dots", "cosines"])
@pytest.mark.parametrize("mass", [None, (0.0, 1.0, 1.0, 0.0), (3.0, 1.0, 2.0, 0.0)], ids=["all", "masked", "counted"])
def test_cross_entropy_by_products_and_angles(by, mass) -> None:
    f, w, b, y = np.abs(draw(1, 6, 9)), draw(2, 4, 9), draw(3, 4), np.array([1, 2, 1, 2, 2, 1])
    mass = None if mass is None else np.array(mass)
    tf, tw, tb = leaf(f), leaf(w), leaf(b)
    logits = reference.dots(tf, tw, tb) if by == "dots" else reference.cosines(tf, tw) / 0.1
    wanted = reference.cross_entropy(logits, torch.tensor(y), None if mass is None else torch.tensor(mass))
    wanted.backward()
    said, d, loss = np.empty((6, 4)), np.empty((6, 4)), np.empty(6)
    gw, gb, df, norms = np.zeros_like(w), np.zeros_like(b), np.zeros_like(f), np.zeros(4)
    masses = np.ones(4) if mass is None else mass
    if by == "dots":
        losses.dots(f, w, b, said)
        losses.cross_entropy(said, y, masses, 1 / 6, d, loss)
        losses.dots_back(f, w, d, gw, gb, df)
        np.testing.assert_allclose(gb, tb.grad, **CLOSE)
    else:
        losses.cosines(f, w, norms, said)
        losses.cross_entropy(said / 0.1, y, masses, 1 / 6, d, loss)
        losses.cosines_back(f, w, norms, said, d / 0.1, gw, df)
        assert np.abs((gw * w).sum(axis=1)).max() < 1e-12, "the gradient of an angle does not change a norm"
    np.testing.assert_allclose(loss.mean(), wanted.detach(), rtol=1e-12)
    np.testing.assert_allclose(gw, tw.grad, **CLOSE)
    np.testing.assert_allclose(df, tf.grad, **CLOSE)


def test_angles_and_products_agree_where_the_temperature_is_the_product_of_the_norms() -> None:
    f, w, b = draw(1, 5, 9), draw(2, 4, 9), np.zeros(4)
    f /= np.linalg.norm(f, axis=1, keepdims=True) / 1.7
    w /= np.linalg.norm(w, axis=1, keepdims=True) / 2.9
    dots, cosines, norms = np.empty((5, 4)), np.empty((5, 4)), np.zeros(4)
    losses.dots(f, w, b, dots)
    losses.cosines(f, w, norms, cosines)
    np.testing.assert_allclose(cosines * (1.7 * 2.9), dots, **CLOSE)


def test_angles_of_nothing_are_zero() -> None:
    f, w = np.zeros((1, 3)), draw(2, 2, 3)
    said, norms, gw, df = np.empty((1, 2)), np.zeros(2), np.zeros((2, 3)), np.zeros((1, 3))
    losses.cosines(f, w, norms, said)
    losses.cosines_back(f, w, norms, said, np.ones((1, 2)), gw, df)
    assert not said.any()
    assert np.isfinite(df).all()
    assert not gw.any()


def test_stored_logits_count_up_to_the_classes_of_then() -> None:
    logits, stored, known = draw(1, 5, 4), draw(2, 5, 4), np.array([1, 2, 4, 3, 2])
    d = np.empty_like(logits)
    said = losses.squared_distance(logits, stored, known, 0.7, d)
    t = leaf(logits)
    wanted = 0.7 * reference.squared_distance(t, torch.tensor(stored), torch.tensor(known))
    wanted.backward()
    np.testing.assert_allclose(0.7 * said, wanted.detach(), rtol=1e-12)
    np.testing.assert_allclose(d, t.grad, **CLOSE)
    assert not d[np.arange(4) >= known[:, None]].any()


@pytest.mark.parametrize("units", [2, 10, 33])
def test_a_student(units) -> None:
    inputs, outputs = 12, 7
    w = draw(5, students.numbers(inputs, units, outputs))
    x, wanted = draw(6, 3, inputs), draw(7, 3, outputs)
    s = students.Work.make(units, outputs, len(w), np.dtype(np.float64))
    scores = np.empty((3, 1))
    students.scores(w[None], x, wanted, units, s, scores)
    for row in range(3):
        t = leaf(w)
        apart = reference.imitator(torch.tensor(x[row : row + 1]), t, units, outputs) - torch.tensor(wanted[row])
        loss = (apart**2).mean()
        loss.backward()
        assert students.gradient(w, x[row], wanted[row], units, s)
        np.testing.assert_allclose(s.gradient, t.grad, rtol=1e-9, atol=1e-13)
        np.testing.assert_allclose(-scores[row, 0] * (wanted[row] ** 2).mean(), loss.detach(), rtol=1e-10)


def test_adam_of_a_student_is_pytorchs() -> None:
    inputs, units, outputs = 5, 4, 3
    w = draw(1, students.numbers(inputs, units, outputs))
    t = leaf(w)
    adam = torch.optim.Adam([t], lr=0.01)
    m, v = np.zeros_like(w), np.zeros_like(w)
    s = students.Work.make(units, outputs, len(w), np.dtype(np.float64))
    for step in range(1, 6):
        x, wanted = draw(10 + step, inputs), draw(20 + step, outputs)
        adam.zero_grad()
        ((reference.imitator(torch.tensor(x[None]), t, units, outputs) - torch.tensor(wanted)) ** 2).mean().backward()
        adam.step()
        assert students.learn(w, m, v, x, wanted, units, step, 0.01, s)
        np.testing.assert_allclose(w, t.detach(), rtol=1e-9, atol=1e-12)


def test_random_filters() -> None:
    image, patch, stride, cells = (2, 9, 7), 3, 2, 2
    x, w, b = draw(1, 4, 126), draw(2, 18, 5), draw(3, 5)
    filters, out = convolution.Filters.make(w, b, image, patch, stride, cells), np.empty((4, 20))
    convolution.respond_all(filters, x, np.empty((2, filters.room)), out)
    wanted = reference.random_filters(*map(torch.tensor, (x, w, b)), image, patch, stride, cells)
    np.testing.assert_allclose(out, wanted, **CLOSE)


def test_features_of_white_noise_are_zero_on_average() -> None:
    """Six standard errors of 40,000 images of one patch each."""
    b = np.linspace(-1, 1, 5)
    w = draw(1, 48, 5)
    w -= w.mean(0)  # as a patch is, of whose 48 numbers 47 are free
    w /= np.sqrt((w**2).sum(0) * 48 / 47)
    filters, out = convolution.Filters.make(w, b, (3, 4, 4), 4, 1, 1), np.empty((40_000, 5))
    convolution.respond_all(filters, draw(2, 40_000, 48), np.empty((2, filters.room)), out)
    assert (np.abs(out.mean(0)) < 6 * out.std(0) / 200).all()


def test_distinct_draws() -> None:
    """Different, the same for the same key, and every value as often: 20,000 draws of 5 of 12."""
    counts, out = np.zeros(12), np.empty(5, np.int64)
    for number in range(20_000):
        distinct(3, number, 12, out)
        assert len(set(out.tolist())) == 5
        counts[out] += 1
    variance = 20_000 * (5 / 12) * (7 / 12)
    statistic = ((counts - counts.mean()) ** 2).sum() / variance * 11 / 12
    assert statistic < 40, "the 0.9999 quantile of chi-square with 11 degrees of freedom is 37.4"
    again = np.empty(5, np.int64)
    distinct(3, 19_999, 12, again)
    assert out.tolist() == again.tolist()
    every = np.empty(12, np.int64)
    distinct(3, 0, 12, every)
    assert sorted(every.tolist()) == list(range(12))
