"""Elementary functions against correctly rounded decimals, and NaN through every one of them."""

from __future__ import annotations

import math
from decimal import Decimal, localcontext
from fractions import Fraction

import numba as nb
import numpy as np
import pytest

from kernels.cpu import numerics, products


def over(function):
    """The inlined function applied to an array by compiled code, so that it is tested as the fold uses it."""

    @nb.njit(error_model="numpy", fastmath=False)
    def apply(x):
        y = np.empty_like(x)
        for i in range(len(x)):
            y[i] = function(x[i])
        return y

    return apply


exp, sigmoid, tanh = over(numerics.exp), over(numerics.sigmoid), over(numerics.tanh)
sin, cos, expm1, softplus = over(numerics.sin), over(numerics.cos), over(numerics.expm1), over(numerics.softplus)


@nb.njit(error_model="numpy", fastmath=False)
def dot(a, b, n):
    return numerics.dot(a, b, n, a.dtype.type(0))


def decimal_exp(x: float) -> Decimal:
    with localcontext() as context:
        context.prec = 40
        return Decimal(x).exp()


def points(bound: float, n: int = 3000) -> np.ndarray:
    rng = np.random.default_rng(0)
    spread = rng.uniform(-bound, bound, n)
    small = rng.normal(0, 1, n) * 10.0 ** rng.uniform(-12, 0, n)
    edges = np.array([0.0, -0.0, 1.0, -1.0, bound, -bound, 0.5 * math.log(2), -0.5 * math.log(2), 5e-324])
    return np.concatenate([spread, small, edges])


def test_exp_is_within_two_ulp() -> None:
    x = points(708.0)
    for value, got in zip(x, exp(x)):
        exact = decimal_exp(value)
        assert abs(Decimal(float(got)) - exact) <= 2 * Decimal(math.ulp(float(exact))), value


def test_float32_stays_float32_and_is_within_four_ulp() -> None:
    x = points(87.0).astype(np.float32)
    for function, oracle in ((exp, np.exp), (sigmoid, lambda v: 1.0 / (1.0 + np.exp(-v)))):
        got, exact = function(x), oracle(x.astype(np.float64))
        assert got.dtype == np.float32
        assert (np.abs(got - exact) <= 4 * np.spacing(np.maximum(exact, 1e-37).astype(np.float32))).all()
    assert (np.abs(tanh(x) - np.tanh(x.astype(np.float64))) <= 3e-7).all()
    assert np.isnan([function(np.array([np.nan], np.float32))[0] for function in (exp, sigmoid, tanh)]).all()


def test_exp_is_clamped() -> None:
    low, high = exp(np.array([-1e300, 1e300]))
    assert low == exp(np.array([-708.0]))[0] > 0.0
    assert high == exp(np.array([708.0]))[0] < math.inf
    np.testing.assert_array_equal(exp(np.array([-math.inf, math.inf])), [low, high])


def test_sigmoid_and_tanh() -> None:
    x = points(40.0)
    with localcontext() as context:
        context.prec = 40
        for value, s, t in zip(x, sigmoid(x), tanh(x)):
            e = decimal_exp(value)
            exact = e / (1 + e)
            assert abs(Decimal(float(s)) - exact) <= Decimal("1e-15") * exact, value
            exact = (e * e - 1) / (e * e + 1)
            assert abs(Decimal(float(t)) - exact) <= Decimal("4e-16"), value
    assert tanh(np.zeros(1))[0] == 0.0
    np.testing.assert_array_equal(sigmoid(np.array([-1e308, 1e308])) > 0.5, [False, True])
    np.testing.assert_array_equal(tanh(np.array([-1e308, 1e308])), [-1.0, 1.0])


@pytest.mark.parametrize(("dtype", "bound"), [(np.float64, 1e-15), (np.float32, 2e-7)])
def test_sin_and_cos(dtype, bound) -> None:
    x = points(1e4).astype(dtype)
    for function, oracle in ((sin, np.sin), (cos, np.cos)):
        got = function(x)
        assert got.dtype == dtype
        assert (np.abs(got - oracle(x.astype(np.float64))) <= bound).all()
        far = np.concatenate([10.0 ** np.linspace(4, 38, 5000), [np.inf]]).astype(dtype)
        assert (np.abs(function(np.concatenate([far, -far]))) <= 1 + bound).all()


@pytest.mark.parametrize(("dtype", "most"), [(np.float64, 700.0), (np.float32, 80.0)])
def test_expm1_and_softplus(dtype, most) -> None:
    x = points(most).astype(dtype)
    x = x[np.abs(x) >= np.finfo(dtype).tiny]
    with localcontext() as context:
        context.prec = 60
        for value, e, s in zip(x, expm1(x), softplus(x)):
            u = Decimal(float(value)).exp()
            assert abs(Decimal(float(e)) - (u - 1)) <= 4 * Decimal(float(np.spacing(abs(e)))), value
            exact = (1 + u).ln() if value > -40 else u - u * u / 2
            assert abs(Decimal(float(s)) - exact) <= 4 * Decimal(float(np.spacing(s))), value


@pytest.mark.parametrize("function", [exp, sigmoid, tanh, sin, cos, expm1, softplus])
def test_nan_stays_nan(function) -> None:
    x = np.zeros(17)
    x[::2] = math.nan
    np.testing.assert_array_equal(np.isnan(function(x)), np.isnan(x))


@pytest.mark.parametrize("n", [0, 1, 7, 8, 9, 16, 31, 64, 65])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dot(n, dtype) -> None:
    rng = np.random.default_rng(n)
    a, b = rng.normal(size=n).astype(dtype), rng.normal(size=n).astype(dtype)
    exact = math.fsum(float(x) * float(y) for x, y in zip(a, b))
    size = math.fsum(abs(float(x) * float(y)) for x, y in zip(a, b))
    assert abs(float(dot(a, b, n)) - exact) <= (n + 1) * np.finfo(dtype).eps * size
    if n:
        a[n // 2] = math.nan
        assert math.isnan(dot(a, b, n))


def test_dot_adds_in_the_order_it_declares() -> None:
    """The order is part of the bits: eight interleaved sums, added as a tree, then the rest."""
    rng = np.random.default_rng(7)
    a, b = (rng.normal(size=43).astype(np.float32) for _ in range(2))
    sums = [np.float32(0)] * 8
    for i in range(40):
        sums[i % 8] += a[i] * b[i]
    total = ((sums[0] + sums[4]) + (sums[2] + sums[6])) + ((sums[1] + sums[5]) + (sums[3] + sums[7]))
    for i in range(40, 43):
        total += a[i] * b[i]
    assert dot(a, b, 43) == total


def test_fma_rounds_once() -> None:
    @nb.njit(error_model="numpy", fastmath=False)
    def fused(a, b, c, out):
        for i in range(len(a)):
            out[i] = numerics.fma(a[i], b[i], c[i])

    rng = np.random.default_rng(3)
    for dtype in (np.float32, np.float64):
        a, b = rng.normal(0, 1, (2, 1000)).astype(dtype)
        c, out = -a * b, np.empty_like(a)  # leaves what a product loses to rounding
        fused(a, b, c, out)
        exact = [Fraction(float(x)) * Fraction(float(y)) + Fraction(float(z)) for x, y, z in zip(a, b, c)]
        np.testing.assert_array_equal(out, np.array([float(value) for value in exact]).astype(dtype))
        assert out.any()


@pytest.mark.parametrize("n", [0, 5, 8, 29])
def test_the_sum_of_sizes_is_that_and_keeps_nan(n) -> None:
    @nb.njit(error_model="numpy", fastmath=False)
    def total(a):
        return numerics.sum_of_sizes(a, 0.0)

    a = np.random.default_rng(n).normal(0, 1, n)
    assert total(a) == pytest.approx(np.abs(a).sum(), rel=1e-14)
    for place in range(n):
        spoilt = a.copy()
        spoilt[place] = np.nan
        assert math.isnan(total(spoilt))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_product_does_not_depend_on_how_its_units_are_taken(dtype) -> None:
    """Whole strips, narrow ones, what is left of both, rows too long for strips: each unit as if it were alone."""

    @nb.njit(error_model="numpy", fastmath=False)
    def product(w, at, x, units, width, out):
        products.product(w, at, x, units, width, out)

    rng = np.random.default_rng(4)
    for units, width in ((1, 3), (8, 1), (13, 11), (64, 11), (77, 6), (512, 5), (515, 9), (600, 2)):
        w, x = rng.normal(0, 1, 3 + units * width).astype(dtype), rng.normal(0, 1, width).astype(dtype)
        rows, whole = w[3:].reshape(width, units), np.full(units, np.nan, dtype)
        product(w, 3, x, units, width, whole)
        np.testing.assert_allclose(whole, x.astype(float) @ rows, rtol=0, atol=50 * np.finfo(dtype).eps)
        for unit in (slice(0, 1), slice(units // 2, None)):
            part = np.ascontiguousarray(rows[:, unit])
            out = np.full(part.shape[1], np.nan, dtype)
            product(part.reshape(-1), 0, x, part.shape[1], width, out)
            np.testing.assert_array_equal(out, whole[unit])
