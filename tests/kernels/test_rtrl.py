"""The gradient that the compiled fold carries forward, against two oracles that know nothing of traces."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from kernels.cpu import fold as cpu
from kernels.cpu.layout import C_CLASSES, LEARNED, REGRESSION, T_CHANGE_SQ
from kernels.reference.mingru import Labelled, sequence_loss

TASKS = {"binary": 0, "multiclass": 1, "regression": 2}
WEIGHTS = ("cell", "out", "skip")


def frozen_gradient(model, events, out, build):
    """Sum of the gradients of every parameter over the events, with the weights put back after each.

    Adam with beta1 = 0 leaves the gradient of the last label, exactly, in its first moment.
    """
    config, shared = model.config, model.shared
    kept = {name: getattr(shared, name).copy() for name in WEIGHTS}
    total = {name: np.zeros_like(kept[name]) for name in WEIGHTS}
    inputs, labels = {}, {}
    observed: dict[int, int] = {}
    for t in range(len(events.kind)):
        for name in WEIGHTS:
            getattr(shared, "m_" + name)[:] = 0.0
        slot = int(events.slot[t])
        part = type(out)(*(column[t : t + 1] for column in out))
        cpu.fold(config, shared, model.rows, build.one(events, t), part, model.scratch)
        if events.kind[t] != 2:
            inputs.setdefault(slot, []).append(model.scratch.x.copy())
            observed[int(events.id[t, 0])] = len(inputs[slot]) - 1
        if out.outcome[t] & LEARNED:
            y = float(events.y[t])
            if config.task == REGRESSION:
                scale = math.sqrt(shared.target[T_CHANGE_SQ])
                y = (y - out.scored[t, 2]) / scale if scale > 0.0 else math.nan
            elif len(events.classes):
                y = float(events.classes[int(y)])
            if not math.isnan(y):
                at = observed[int(events.id[t, 0])]
                labels.setdefault(slot, []).append(Labelled(at, y, max(1, int(shared.counters[C_CLASSES]))))
        for name in WEIGHTS:
            total[name] += getattr(shared, "m_" + name)
            getattr(shared, name)[:] = kept[name]
    return total, inputs, labels


def autograd(model, inputs, labels):
    """The same by autograd through each key's whole sequence."""
    config, shared = model.config, model.shared
    leaves = {name: torch.tensor(getattr(shared, name), requires_grad=True) for name in WEIGHTS}
    cell = leaves["cell"].view(2, config.width, config.units)
    loss = sum(
        sequence_loss(
            config.task,
            cell,
            leaves["out"],
            leaves["skip"],
            torch.tensor(np.array(inputs[slot])),
            labels[slot],
            config.residual_clip,
        )
        for slot in labels
    )
    loss.backward()
    return {name: leaf.grad.numpy() for name, leaf in leaves.items()}


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("task", TASKS)
def test_rtrl_is_the_gradient_through_the_whole_sequence(build, task, seed) -> None:
    rng = np.random.default_rng([TASKS[task], seed])
    config = build.config(
        TASKS[task],
        units=int(rng.integers(1, 41)),
        features=int(rng.integers(1, 13)),
        beta1=0.0,
        pending=int(rng.integers(0, 4)),
        age_input=int(rng.integers(0, 2)),
        residual_clip=float(rng.choice([0.5, 3.0, 1e6])),
    )
    keys = int(rng.integers(1, 4))
    model = build.model(config, rng, keys)
    n = int(rng.integers(20, 201))
    events = build.events(config, rng, n, keys)
    got, inputs, labels = frozen_gradient(model, events, build.out(n), build)
    assert labels
    wanted = autograd(model, inputs, labels)
    for name in WEIGHTS:
        a, b = got[name], wanted[name]
        halves = [(a, b)] if name != "cell" else zip(a.reshape(2, -1), b.reshape(2, -1))
        for ours, oracle in halves:
            assert np.linalg.norm(oracle) > 0
            assert np.linalg.norm(ours - oracle) <= 1e-10 * (np.linalg.norm(oracle) + 1e-12), (name, config)


def test_traces_are_complex_step_derivatives(build) -> None:
    rng = np.random.default_rng(5)
    config = build.config(0, units=3, features=4)
    model = build.model(config, rng)
    n = 60
    events = build.events(config, rng, n, labelled=0.0)
    inputs = []
    for t in range(n):
        cpu.fold(config, model.shared, model.rows, build.one(events, t), build.out(1), model.scratch)
        inputs.append(model.scratch.x.copy())

    def hidden(cell):
        wz, wh = cell.reshape(2, config.width, config.units)
        h = np.zeros(config.units, complex)
        for x in inputs:
            z = 1 / (1 + np.exp(-(x @ wz)))
            h = (1 - z) * h + z * np.tanh(x @ wh)
        return h

    h, trace = np.split(model.rows.body[0], [config.units])
    np.testing.assert_allclose(hidden(model.shared.cell.astype(complex)).real, h, rtol=1e-13)
    for c in range(len(trace)):
        cell = model.shared.cell.astype(complex)
        cell[c] += 1e-30j
        derivative = hidden(cell).imag / 1e-30
        unit = c % config.units
        assert np.count_nonzero(np.delete(derivative, unit)) == 0, "a parameter of one unit moved another"
        assert trace[c] == pytest.approx(derivative[unit], rel=1e-11, abs=1e-15)
