"""RTRL over a batch of sequences, whole and from a later step on, against autograd through the same steps."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kernels.cpu import sequence
from kernels.cpu.layout import ADAM
from kernels.reference.cells import features, forward, split
from tests.kernels.cell_cases import CASES, draw

BATCH, STEPS, UNITS, WIDTH = 3, 25, 5, 4


def autograd(cell, flat, x, d_phi, start):
    """Features after the last step, and the gradient of sum(d_phi phi) with the state before step `start` detached."""
    weights = torch.tensor(flat, requires_grad=True)
    w = split(cell, weights, x.shape[2])
    phi = []
    for inputs in torch.tensor(x):
        h = torch.zeros(cell.ORDER, cell.units, dtype=torch.float64)
        for t, step in enumerate(inputs):
            h = forward(cell, w, step, h.detach() if t == start else h, 0.5)
        phi.append(features(cell, w, inputs[-1], h))
    loss = (torch.stack(phi) * torch.tensor(d_phi)).sum()
    loss.backward()
    return torch.stack(phi).detach().numpy(), weights.grad.numpy()


def problem(name):
    """A cell with weights of use, working memory full of NaN, inputs, and the error of the last features."""
    rng = np.random.default_rng(7)
    cell = CASES[name].make(UNITS)
    hidden = cell.ORDER * UNITS
    s = sequence.work(cell, WIDTH, hidden, np.dtype(np.float64))
    for array in s[1:]:
        array[:] = np.nan
    w = draw(CASES[name], rng, WIDTH, UNITS)
    assert len(w) == s.sizes.weights
    x = rng.normal(0, 1, (BATCH, STEPS, WIDTH))
    x[:, :, -1] = 1.0
    body, phi = np.full((BATCH, s.sizes.body), np.nan), np.full((BATCH, hidden), np.nan)
    return cell, w, x, rng.normal(0, 1, (BATCH, hidden)), body, phi, s


# Without and with an output stage, and complex with features of their own.
@pytest.mark.parametrize("name", ["mingru", "elstm", "rtu"])
def test_gradient_from_any_step_on_is_that_of_autograd(name):
    cell, w, x, d_phi, body, phi, s = problem(name)
    whole = None
    for start in (0, STEPS - 10, STEPS - 1):
        sequence.run(cell, w, x, 0.5, start, body, phi, s)
        g = np.full(len(w), 2.0)
        sequence.gradient(cell, w, x, body, d_phi, g, s)
        expected_phi, expected = autograd(cell, w, x, d_phi, start)
        np.testing.assert_allclose(phi, expected_phi, rtol=0, atol=1e-13)
        assert np.linalg.norm(g - 2.0 - expected) <= 1e-10 * np.linalg.norm(expected)
        whole = expected if start == 0 else whole
        # The cut is felt.
        assert start == 0 or np.linalg.norm(expected - whole) > 1e-3 * np.linalg.norm(whole)


def test_without_traces_there_is_no_gradient_of_the_recurrence():
    cell, w, x, d_phi, body, phi, s = problem("mingru")
    sequence.run(cell, w, x, 0.5, STEPS, body, phi, s)
    g = np.zeros_like(w)
    sequence.gradient(cell, w, x, body, d_phi, g, s)
    assert not g.any()
    assert phi.all()


def test_the_powers_of_adam_fade_to_no_denormal_number():
    adam = sequence.Optimizer(ADAM, 1e-2, 0.5, 0.6, 1e-8)
    w, m, v, decay = np.ones(1), np.zeros(1), np.zeros(1), np.ones(2)
    for _ in range(1500):  # 0.5^1500 and 0.6^1500 are 0 in float64
        sequence.descend(adam, decay, w, m, v, np.ones(1))
    assert (decay >= np.finfo(float).tiny).all()
    assert w[0] == pytest.approx(1.0 - 1500 * adam.rate)


def test_descend_is_adam():
    rng = np.random.default_rng(9)
    adam = sequence.Optimizer(ADAM, 1e-2, 0.9, 0.999, 1e-8)
    w, m, v, decay = rng.normal(0, 1, 11), np.zeros(11), np.zeros(11), np.ones(2)
    weights = torch.tensor(w.copy(), requires_grad=True)
    optimizer = torch.optim.Adam([weights], adam.rate, (adam.beta1, adam.beta2), adam.epsilon)
    for _ in range(5):
        g = rng.normal(0, 1, 11)
        sequence.descend(adam, decay, w, m, v, g)
        weights.grad = torch.tensor(g)
        optimizer.step()
    np.testing.assert_allclose(w, weights.detach().numpy(), rtol=1e-12)
