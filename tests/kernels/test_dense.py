"""SnAp-1, UORO and truncated backpropagation of dense recurrences against their definitions and autograd."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from kernels.cpu.dense import bptt, cells, snap1, uoro
from kernels.cpu.dense.cells import GRU, RNN, Dense, weights_of
from kernels.reference import dense as reference

GATES = pytest.mark.parametrize("gates", [RNN, GRU])


def problem(gates, units, steps, batch=3, width=4, seed=0):
    """A cell, weights of use, inputs, and the error of the last state."""
    rng = np.random.default_rng(seed)
    cell = Dense(units, gates, width)
    w = rng.normal(0, 1 / np.sqrt(units), weights_of(cell))
    x = rng.normal(0, 1, (batch, steps, width))
    x[:, :, -1] = 1.0
    return cell, w, x, rng.normal(0, 1, (batch, units)), cells.work(cell, np.dtype(np.float64))


def exact(cell, w, x, d_phi, start=0):
    """States and gradient by autograd through the steps from `start` on."""
    weights = torch.tensor(w, requires_grad=True)
    phi = torch.stack([reference.run(cell, weights, one, start) for one in torch.tensor(x)])
    (phi * torch.tensor(d_phi)).sum().backward()
    return phi.detach().numpy(), weights.grad.numpy()


def by_snap1(cell, w, x, d_phi, s):
    body, phi = np.full((len(x), snap1.body_size(cell)), np.nan), np.full(d_phi.shape, np.nan)
    snap1.run(cell, w, x, body, phi, s)
    g = np.zeros_like(w)
    snap1.gradient(cell, body, d_phi, g)
    return phi, g


def by_uoro(cell, w, x, d_phi, signs, s):
    body, phi = np.full((len(x), uoro.body_size(cell)), np.nan), np.full(d_phi.shape, np.nan)
    uoro.run(cell, w, x, signs, body, phi, s)
    g = np.zeros_like(w)
    uoro.gradient(cell, body, d_phi, g)
    return phi, g


def by_bptt(cell, w, x, d_phi, window, s):
    body, phi = np.full((len(x), bptt.body_size(cell, window)), np.nan), np.full(d_phi.shape, np.nan)
    bptt.run(cell, w, x, window, body, phi, s)
    g = np.zeros_like(w)
    bptt.gradient(cell, w, x.shape[1], window, body, d_phi, g, s)
    return phi, g


def close(a, b, tolerance=1e-12):
    return np.linalg.norm(a - b) <= tolerance * (np.linalg.norm(b) + 1e-12)


@GATES
@pytest.mark.parametrize("window", [1, 7, 20, 31])
def test_truncated_backpropagation_is_autograd_with_the_state_detached(gates, window):
    cell, w, x, d_phi, s = problem(gates, 5, 20)
    phi, g = by_bptt(cell, w, x, d_phi, window, s)
    expected_phi, expected = exact(cell, w, x, d_phi, max(0, 20 - window))
    assert close(phi, expected_phi)
    assert close(g, expected)
    assert (window >= 20) == close(g, exact(cell, w, x, d_phi)[1])


@GATES
def test_reference_rtrl_is_autograd(gates):
    cell, w, x, d_phi, _ = problem(gates, 3, 6, batch=1)
    full = reference.influence(cell, torch.tensor(w), torch.tensor(x[0])).numpy()
    assert close(d_phi[0] @ full, exact(cell, w, x, d_phi)[1])


@GATES
def test_snap1_keeps_what_is_not_zero_after_one_step(gates):
    cell, w, x, d_phi, s = problem(gates, 4, 9)
    after_one = reference.step(cell, torch.tensor(w), torch.tensor(x[0, 0]), torch.tensor(d_phi[0]))[2] != 0
    assert (after_one == torch.eye(4, dtype=torch.bool).repeat(1, len(w) // 4)).all()
    masked = [reference.influence(cell, torch.tensor(w), torch.tensor(one), snap1=True).numpy() for one in x]
    phi, g = by_snap1(cell, w, x, d_phi, s)
    expected_phi, truth = exact(cell, w, x, d_phi)
    assert close(phi, expected_phi)
    assert close(g, sum(error @ one for error, one in zip(d_phi, masked)))
    assert not close(g, truth, 1e-2)


@GATES
def test_snap1_is_exact_where_the_recurrence_is_element_wise(gates):
    cell, w, x, d_phi, s = problem(gates, 6, 30)
    rows = w.reshape(gates, -1, 6)[:, cell.width :]
    rows *= np.eye(6)
    assert close(by_snap1(cell, w, x, d_phi, s)[1], exact(cell, w, x, d_phi)[1])


@GATES
def test_uoro_is_its_definition(gates):
    cell, w, x, d_phi, s = problem(gates, 5, 12)
    signs = np.empty((3, 12, 5))
    uoro.draw_signs(3, 1, signs)
    phi, g = by_uoro(cell, w, x, d_phi, signs, s)
    expected = 0
    for one, nu, error in zip(x, signs, d_phi):
        p, q = reference.uoro(cell, torch.tensor(w), torch.tensor(one), torch.tensor(nu), uoro.EPSILON)
        expected = expected + float(torch.tensor(error) @ p) * q.numpy()
    assert close(phi, exact(cell, w, x, d_phi)[0])
    assert close(g, expected)


@GATES
def test_uoro_is_unbiased_over_all_signs(gates):
    cell, w, x, d_phi, s = problem(gates, 2, 3, batch=1)
    every = [np.array(signs, float).reshape(1, 3, 2) for signs in itertools.product((-1, 1), repeat=6)]
    estimates = [by_uoro(cell, w, x, d_phi, signs, s)[1] for signs in every]
    truth = exact(cell, w, x, d_phi)[1]
    assert close(np.mean(estimates, axis=0), truth)
    assert not close(estimates[0], truth, 0.1)


def test_signs_are_balanced_and_named_by_seed_and_place():
    drawn = {}
    for seed, at in [(0, 0), (0, 1), (1, 0), (2**63, 5)]:
        drawn[seed, at] = np.empty((4, 50, 32))
        uoro.draw_signs(np.uint64(seed), np.uint64(at), drawn[seed, at])
    for signs in drawn.values():
        assert set(np.unique(signs)) == {-1.0, 1.0}
        assert abs(signs.mean()) < 4 / np.sqrt(signs.size)
        assert abs((signs[:, 1:] * signs[:, :-1]).mean()) < 4 / np.sqrt(signs.size)
    for one, other in itertools.combinations(drawn.values(), 2):
        assert abs((one * other).mean()) < 4 / np.sqrt(one.size)
    again = np.empty((4, 50, 32))
    uoro.draw_signs(np.uint64(0), np.uint64(1), again)
    np.testing.assert_array_equal(again, drawn[0, 1])


@GATES
def test_a_run_without_learning_gives_the_same_states(gates):
    cell, w, x, d_phi, s = problem(gates, 5, 12)
    phi = np.full(d_phi.shape, np.nan)
    cells.run(cell, w, x, phi, s)
    np.testing.assert_array_equal(phi, by_snap1(cell, w, x, d_phi, s)[0])
