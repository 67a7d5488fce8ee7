"""The gradient that the compiled fold carries forward, against two oracles that know nothing of traces."""

from __future__ import annotations

import math
from collections import defaultdict
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from kernels.cpu.layout import (
    C_CLASSES,
    H_TIME,
    LEARNED,
    MULTICLASS,
    REGRESSION,
    T_CHANGE_SQ,
    U_SCALE,
    Rows,
    Shared,
)
from kernels.reference.cells import forward, split, tensors
from kernels.reference.clock import time_of_key, told_time
from kernels.reference.fold import gap_of
from kernels.reference.sequence import Labelled, sequence_loss
from kernels.reference.stack import places
from tests.kernels.cell_cases import CASES, draw

WEIGHTS = ("cell", "out", "skip")


def gap_to(config, model, slot, time):
    """Units between the key's last event and one at `time`, by the partition's clock."""
    target = model.shared.target
    latest = time_of_key(target, model.rows.head[slot, H_TIME])
    return gap_of(config, latest, told_time(target, time))


def frozen_gradient(model, events, out, build):
    """Sum of the gradients of every parameter over the events, with the weights put back after each, and the sequences.

    Adam with beta1 = 0 leaves the gradient of the last label, exactly, in its first moment.
    """
    config, shared = model.config, model.shared
    kept = {name: getattr(shared, name).copy() for name in WEIGHTS}
    total = {name: np.zeros_like(kept[name]) for name in WEIGHTS}
    sequences = defaultdict(lambda: SimpleNamespace(inputs=[], gaps=[], labels=[]))
    observed: dict[int, int] = {}
    for t in range(len(events.kind)):
        for name in WEIGHTS:
            getattr(shared, "m_" + name)[:] = 0.0
        slot = int(events.slot[t])
        sequence = sequences[slot]
        gap = gap_to(config, model, slot, int(events.time[t]))
        part = type(out)(*(column[t : t + 1] for column in out))
        build.fold(model, build.one(events, t), part)
        if events.kind[t] != 2:
            observed[int(events.id[t, 0])] = len(sequence.inputs)
            sequence.inputs.append(model.scratch.x[0, : config.width].copy())
            sequence.gaps.append(gap)
        if out.outcome[t] & LEARNED:
            y = float(events.y[t])
            if config.task == REGRESSION:
                own = model.rows.unit[slot, U_SCALE]
                scale = own if own > 0.0 else math.sqrt(shared.target[T_CHANGE_SQ])
                y = (y - out.scored[t, 2]) / scale if scale > 0.0 else math.nan
            elif config.task == MULTICLASS:
                y = float(events.classes[int(y)])
            if not math.isnan(y):
                at = observed[int(events.id[t, 0])]
                sequence.labels.append(Labelled(at, y, max(1, int(shared.counters[C_CLASSES]))))
        for name in WEIGHTS:
            total[name] += getattr(shared, "m_" + name)
            getattr(shared, name)[:] = kept[name]
    return total, [sequence for sequence in sequences.values() if sequence.labels]


def autograd(model, sequences, through):
    """The same by autograd through each key's whole sequence; see `sequence_loss` for `through`."""
    leaves = {name: torch.tensor(getattr(model.shared, name), requires_grad=True) for name in WEIGHTS}
    for one in sequences:
        inputs = torch.tensor(np.array(one.inputs))
        loss = sequence_loss(
            model.cell, model.config, *leaves.values(), inputs, one.gaps, one.labels, through=through
        )
        loss.backward()
    return {name: leaf.grad.numpy() for name, leaf in leaves.items()}


def assert_same(ours, oracle, what):
    assert np.linalg.norm(oracle) > 0, what
    assert np.linalg.norm(ours - oracle) <= 1e-10 * (np.linalg.norm(oracle) + 1e-12), what


def assert_gradients(build, cell, config, rng, keys, n):
    """Of every layer: exact in its own past and through the layers above it at the same event."""
    model = build.model(config, cell, rng, keys)
    events = build.events(config, rng, n, keys)
    got, sequences = frozen_gradient(model, events, build.out(n), build)
    assert sequences
    for layer, place in enumerate(places(model.cell, config)):
        wanted = autograd(model, sequences, through=layer)
        ours, oracle = (
            tensors(model.cell, torch.from_numpy(whole["cell"][place.weights]), place.width) for whole in (got, wanted)
        )
        for k, (a, b) in enumerate(zip(ours, oracle)):
            assert_same(a.numpy(), b.numpy(), ("tensor", k, "of layer", layer, config))
    for name in ("out", "skip"):
        assert_same(got[name], wanted[name], (name, config))


@pytest.mark.parametrize("seed", range(9))
@pytest.mark.parametrize("cell", CASES)
def test_rtrl_is_the_gradient_through_the_whole_sequence(build, cell, seed) -> None:
    rng = np.random.default_rng([list(CASES).index(cell), seed])
    config = build.config(
        seed % 3,
        cell,
        units=int(rng.integers(1, 41)),
        features=int(rng.integers(1, 13)),
        beta1=0.0,
        pending=int(rng.integers(0, 4)),
        age_input=int(rng.integers(0, 2)),
        residual_clip=float(rng.choice([0.5, 3.0, 1e6])),
        gradient_clip=0.0,
        gap_unit=CASES[cell].unit * float(rng.choice([0.0, 0.1, 2.0])),
    )
    assert_gradients(build, cell, config, rng, keys=int(rng.integers(1, 4)), n=int(rng.integers(20, 201)))


@pytest.mark.parametrize("cell", CASES)
def test_below_the_top_layer_it_is_spatial_backpropagation(build, cell) -> None:
    rng = np.random.default_rng(1)
    layers = 2 if cell == "ssm" else 3  # its features are cubic in its inputs: three layers exceed the bound on a state
    config = build.config(
        2,
        cell,
        units=7,
        features=3,
        layers=layers,
        beta1=0.0,
        pending=3,
        gap_unit=CASES[cell].unit,
        gradient_clip=0.0,
    )
    assert_gradients(build, cell, config, rng, keys=2, n=100)


@pytest.mark.parametrize("cell", CASES)
def test_lower_layers_are_not_exact(build, cell) -> None:
    """What the test above holds lower layers to is not the gradient of the loss, as `kernels.cpu.layers` says."""
    rng = np.random.default_rng(2)
    config = build.config(0, cell, units=5, features=3, layers=2, beta1=0.0)
    model = build.model(config, cell, rng)
    got, sequences = frozen_gradient(model, build.events(config, rng, 60), build.out(60), build)
    whole = autograd(model, sequences, through=1)["cell"]
    lower, upper = (place.recurrence for place in places(model.cell, config))
    assert np.linalg.norm(got["cell"][upper] - whole[upper]) <= 1e-10 * np.linalg.norm(whole[upper])
    assert np.linalg.norm(got["cell"][lower] - whole[lower]) > 1e-4 * np.linalg.norm(whole[lower])


@pytest.mark.parametrize("cell", CASES)
def test_units_do_not_mix(cell) -> None:
    """What makes a trace as long as its parameter: unit i sees one column of each, and of the past only itself."""
    rng = np.random.default_rng(3)
    made, width = CASES[cell].make(4), 3
    w = split(made, torch.tensor(draw(CASES[cell], rng, width, 4)), width)
    x, before = torch.tensor(rng.normal(size=width)), torch.tensor(rng.normal(size=(made.ORDER, 4)))

    def h(real, imaginary, vectors, past):
        matrices = torch.complex(real, imaginary) if made.TIED else real
        return forward(made, w._replace(matrices=matrices, vectors=vectors), x, past, 1.5)

    parts = (w.matrices.real, w.matrices.imag) if made.TIED else (w.matrices, w.matrices)
    for jacobian in torch.func.jacrev(h, argnums=(0, 1, 2, 3))(*parts, w.vectors, before):
        for unit in range(4):
            assert not jacobian[:, unit, ..., [i for i in range(4) if i != unit]].any()


@pytest.mark.parametrize("cell", CASES)
def test_traces_are_complex_step_derivatives(build, cell) -> None:
    rng = np.random.default_rng(5)
    config = build.config(0, cell, units=4, features=4, gap_unit=0.4 * CASES[cell].unit)
    model = build.model(config, cell, rng)
    n = 60
    events = build.events(config, rng, n, labelled=0.0)
    inputs, gaps = [], []
    for t in range(n):
        gaps.append(gap_to(config, model, 0, int(events.time[t])))
        build.fold(model, build.one(events, t), build.out(1))
        inputs.append(model.scratch.x[0].copy())
    made, (place,) = model.cell, places(model.cell, config)
    h = model.rows.body[0, place.state].reshape(made.ORDER, 4)
    traces = model.rows.body[0, place.traces].reshape(-1, made.ORDER, 4)
    w = [part.numpy() for part in split(made, torch.tensor(model.shared.cell), config.width)[:2]]
    parts = np.stack([w[0].real, w[0].imag], 1) if made.TIED else w[0][:, None]

    def state(matrices, vectors):
        past = np.zeros((made.ORDER, 4))
        for x, gap in zip(inputs, gaps):
            past = np.asarray(CASES[cell].step(x @ matrices.reshape(-1, config.width, 4), vectors, past, gap))
        return past

    np.testing.assert_allclose(state(parts, w[1]), h, rtol=1e-11, atol=1e-13)
    rows = [(0, (m, 0, j)) for m in range(made.MATRICES) for j in range(config.width)]
    rows += [(1, (v,)) for v in range(made.VECTORS)]
    assert len(rows) == len(traces)
    for trace, (which, row) in zip(traces, rows):
        shifted = [parts.astype(complex), w[1].astype(complex)]
        shifted[which][row] += 1e-30j  # every unit at once: they do not mix
        derivative = state(*shifted).imag / 1e-30
        np.testing.assert_allclose(trace, derivative, rtol=1e-9, atol=1e-12, err_msg=f"{which} {row}")


@pytest.mark.parametrize("cell", CASES)
def test_a_restored_checkpoint_goes_on_with_the_same_bits(build, cell) -> None:
    rng = np.random.default_rng(6)
    config = build.config(2, cell, units=9, features=3, layers=2, pending=2, gap_unit=CASES[cell].unit)
    model, events = build.model(config, cell, rng, keys=3), build.events(config, rng, 120, keys=3)
    parts = (slice(60), slice(60, 120))
    halves = [type(events)(*(column[part] for column in events[:-1]), events.classes) for part in parts]
    build.fold(model, halves[0], build.out(60))
    written = [array.tobytes() for array in (*model.shared, *model.rows)]

    def read(group, contents):
        return type(group)(*(np.frombuffer(c, a.dtype).reshape(a.shape).copy() for a, c in zip(group, contents)))

    restored = SimpleNamespace(
        cell=model.cell,
        config=config,
        shared=read(model.shared, written),
        rows=read(model.rows, written[len(Shared._fields) :]),
        scratch=build.scratch(model.cell, config, fill=np.nan),
    )
    finals = []
    for learner in (model, restored):
        out = build.out(60)
        build.fold(learner, halves[1], out)
        finals.append([array.tobytes() for array in (*learner.shared, *learner.rows, *out)])
    assert finals[0] == finals[1]
    assert finals[0][: len(written)] != written


@pytest.mark.parametrize("cell", CASES)
def test_interleaved_keys_are_separate_keys(build, cell) -> None:
    """With all shared state frozen (weights, moments, scalers, scales) a key's numbers do not depend on the others."""
    rng = np.random.default_rng(7)
    config = build.config(2, cell, units=9, features=3, pending=2, gap_unit=CASES[cell].unit)
    keys, n = 4, 120
    model = build.model(config, cell, rng, keys)
    build.fold(model, build.events(config, rng, 50, keys), build.out(50))
    frozen = [array.copy() for array in model.shared]
    start = [array.copy() for array in model.rows]
    events = build.events(config, rng, n, keys)

    def run(which):
        learner = SimpleNamespace(
            cell=model.cell,
            config=config,
            shared=Shared(*(array.copy() for array in frozen)),
            rows=Rows(*(array.copy() for array in start)),
            scratch=build.scratch(model.cell, config, fill=np.nan),
        )
        out = build.out(n)
        for t in which:
            build.fold(learner, build.one(events, t), type(out)(*(column[t : t + 1] for column in out)))
            for array, kept in zip(learner.shared, frozen):
                array[:] = kept
        return learner.rows, out

    together, said = run(range(n))
    for key in range(keys):
        which = np.flatnonzero(events.slot == key)
        alone, alone_said = run(which)
        assert [array[key].tobytes() for array in together] == [array[key].tobytes() for array in alone]
        assert [column[which].tobytes() for column in said] == [column[which].tobytes() for column in alone_said]
        assert (said.outcome[which] & LEARNED).any()
