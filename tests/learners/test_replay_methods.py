"""Every method's step against autograd in float64, and what its paper promises."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from kernels.reference import replay as reference
from learners.replay.memory import Memory
from learners.replay.resnet import ResNet
from learners.spec import LearnerSpec

FEATURES, KNOWN, BATCH, HELD = 6, 4, 5, 12
BASE = {"dtype": "float64", "batch": BATCH, "network": {"hidden": [9, 7]}}
REPLAY = {"replay": 4, "buffer": {"size": 20}}


def draws(seed: int, rows: int, classes: tuple[int, ...] = tuple(range(KNOWN))) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(rows, FEATURES)), rng.choice(classes, rows)


def make(kind: str, held: int = HELD, **fields: Any) -> Any:
    """A method with so many events in its buffer, which has seen `KNOWN` classes."""
    learner = {"kind": kind, **BASE, **({} if kind in ("finetune", "ewc") else REPLAY), **fields}
    model = LearnerSpec.by_kind(learner, None).model(FEATURES)
    model.reserve(KNOWN)
    model.net.known = KNOWN
    if hasattr(model, "memory") and held:
        x, y = draws(100, held)
        notes = np.random.default_rng(101).normal(size=(held, KNOWN)) if model.NOTED else None
        model.memory.insert(x, y, notes)
    return model


class Oracle:
    """The weights of a method's classifier as leaves, and its logits."""

    def __init__(self, model: Any) -> None:
        net = model.net
        self.layers = [tuple(map(self._leaf, pair)) for pair in net.body._layers]
        self.w, self.b = self._leaf(net.w[:KNOWN]), self._leaf(net.b[:KNOWN])

    @staticmethod
    def _leaf(array: np.ndarray) -> torch.Tensor:
        return torch.tensor(array.copy(), requires_grad=True)

    def features(self, x: np.ndarray) -> torch.Tensor:
        return reference.perceptron(torch.tensor(x), self.layers)

    def dots(self, x: np.ndarray) -> torch.Tensor:
        return reference.dots(self.features(x), self.w, self.b)

    def angles(self, x: np.ndarray) -> torch.Tensor:
        return reference.cosines(self.features(x), self.w)

    def entropy(self, x: np.ndarray, y: np.ndarray, mass: torch.Tensor | None = None) -> torch.Tensor:
        return reference.cross_entropy(self.dots(x), torch.tensor(y), mass)

    def gradients(self, loss: torch.Tensor, bias: bool = True) -> list[np.ndarray]:
        """As `Classifier.gradients`."""
        flat = [leaf for pair in self.layers for leaf in pair]
        grads = torch.autograd.grad(loss, [*flat, self.w, self.b], allow_unused=True)
        plain = [np.zeros(tuple(w.shape)) if g is None else g.numpy() for g, w in zip(grads, [*flat, self.w, self.b])]
        body = np.concatenate([g.ravel() for g in plain[:-2]]) if flat else np.zeros(0)
        return [body, plain[-2].ravel(), plain[-1] * bias]


def assert_descends(model: Any, loss: Any, bias: bool = True) -> None:
    """The step is down the gradient of `loss` (of an `Oracle`, the stream, the replayed events), to the last weight."""
    x, y = draws(7, BATCH)
    oracle = Oracle(model)
    old = ()
    if hasattr(model, "memory"):
        places = model.memory.draw(model.spec.replay, 1)
        old = model.memory.x[places], model.memory.y[places]
    before = [w.copy() for w in model.net.weights]
    wanted = oracle.gradients(loss(oracle, x, y, *old), bias)
    assert model.step(x, y, KNOWN)
    for w, start, g, mine in zip(model.net.weights, before, wanted, model.net.gradients):
        np.testing.assert_allclose(mine, g, rtol=1e-10, atol=1e-13)
        np.testing.assert_allclose(w, start - model.spec.rate * g, rtol=1e-10, atol=1e-13)
    assert abs(wanted[1]).max() > 1e-6


def er(o: Oracle, x, y, old_x, old_y) -> torch.Tensor:
    return o.entropy(x, y) + o.entropy(old_x, old_y)


@pytest.mark.parametrize("hidden", [[], [8], [9, 7], [5, 6, 4]], ids=str)
def test_experience_replay(hidden) -> None:
    assert_descends(make("er", network={"hidden": hidden}), er)


def test_fine_tuning_and_an_empty_buffer() -> None:
    for model in (make("finetune"), make("er", held=0), make("er_ace", held=0)):
        x, y = draws(7, BATCH)
        oracle = Oracle(model)
        mass = torch.tensor(np.isin(np.arange(KNOWN), y).astype(float)) if model.spec.kind == "er_ace" else None
        wanted = oracle.gradients(oracle.entropy(x, y, mass))
        assert model.step(x, y, KNOWN)
        for mine, g in zip(model.net.gradients, wanted):
            np.testing.assert_allclose(mine, g, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("stream", ["cosine", "dot"])
@pytest.mark.parametrize("replayed", ["cosine", "dot"])
def test_uer(stream, replayed) -> None:
    def loss(o: Oracle, x, y, old_x, old_y) -> torch.Tensor:
        logits = {"cosine": lambda x: o.angles(x) / 0.3, "dot": lambda x: reference.dots(o.features(x), o.w, o.b)}
        return reference.cross_entropy(logits[stream](x), torch.tensor(y)) + reference.cross_entropy(
            logits[replayed](old_x), torch.tensor(old_y)
        )

    assert_descends(make("uer", stream=stream, replayed=replayed, temperature=0.3), loss, bias=False)


def test_the_stream_of_uer_changes_no_norm_to_first_order() -> None:
    model = make("uer", held=0)
    x, y = draws(7, BATCH)
    model.net.known = KNOWN
    model.gradient(x, y)
    along = (model.net.gw[:KNOWN] * model.net.w[:KNOWN]).sum(axis=1)
    assert np.abs(along).max() < 1e-12
    assert np.abs(model.net.gw[:KNOWN]).max() > 1e-3


def test_er_ace_leaves_absent_classes_alone() -> None:
    def loss(o: Oracle, x, y, old_x, old_y) -> torch.Tensor:
        present = torch.tensor(np.isin(np.arange(KNOWN), y).astype(float))
        return o.entropy(x, y, present) + o.entropy(old_x, old_y)

    assert_descends(make("er_ace"), loss)
    model = make("er_ace", held=0)
    x, y = draws(7, BATCH, (1, 3))
    model.step(x, y, KNOWN)
    assert not model.net.gw[[0, 2]].any()
    assert model.net.gw[[1, 3]].any(axis=1).all()


@pytest.mark.parametrize("beta", [0.0, 0.5])
def test_der(beta) -> None:
    model = make("der", alpha=0.3, beta=beta)
    model.memory.noted_classes[:HELD] = np.arange(HELD) % KNOWN + 1
    first, second = model.memory.draw(4, 1), model.memory.draw(4, 2)
    assert first.tolist() != second.tolist()

    def loss(o: Oracle, x, y, *_) -> torch.Tensor:
        m = model.memory
        stored = torch.tensor(m.notes[first, :KNOWN]), torch.tensor(m.noted_classes[first])
        whole = o.entropy(x, y) + 0.3 * reference.squared_distance(o.dots(m.x[first]), *stored)
        return whole + beta * o.entropy(m.x[second], m.y[second])

    assert_descends(model, loss)


def test_der_keeps_the_logits_of_the_step_and_of_the_classes_of_then() -> None:
    model = make("der", held=0)
    x, y = draws(7, BATCH, (0, 1))
    said = Oracle(model).dots(x).detach().numpy()
    model.step(x, y, 2)
    np.testing.assert_allclose(model.memory.notes[:BATCH, :2], said[:, :2], rtol=1e-12)
    assert (model.memory.noted_classes[:BATCH] == 2).all()
    model.memory.notes[:BATCH, 2:] = 1e6
    before = model.net.w[2:].copy()
    model.gradient(*draws(8, BATCH, (0, 1)))
    model.net.known = KNOWN
    model.gradient(*draws(8, BATCH, (0, 1)))
    assert np.abs(model.net.gw).max() < 1e3, "columns that were never stored do not count"
    np.testing.assert_array_equal(model.net.w[2:], before)


def test_agem_projects_where_the_past_would_suffer() -> None:
    projected = 0
    for seed in range(20):
        model = make("agem")
        x, y = draws(seed, BATCH)
        y[:] = seed % KNOWN
        places = model.memory.draw(4, 1)
        oracle = Oracle(model)
        g = np.concatenate(oracle.gradients(oracle.entropy(x, y)))
        r = np.concatenate(oracle.gradients(oracle.entropy(model.memory.x[places], model.memory.y[places])))
        wanted = g - (g @ r) / (r @ r) * r if g @ r < 0 else g
        projected += g @ r < 0
        assert model.step(x, y, KNOWN)
        mine = np.concatenate(model.net.gradients)
        np.testing.assert_allclose(mine, wanted, rtol=1e-9, atol=1e-12)
        assert mine @ r > -1e-10
    assert 0 < projected < 20


@pytest.mark.parametrize(("reference", "stream"), [(1e-200, -1.0), (1e200, -1e150), (0.0, -1.0), (np.nan, -1.0)])
def test_agem_projects_nothing_where_a_square_is_zero_or_not_finite(reference, stream, monkeypatch) -> None:
    """Python raises at a division by a square that underflowed."""
    model = make("agem")
    values = iter((reference, stream))

    def gradient_of(x: np.ndarray, y: np.ndarray) -> None:
        value = next(values)
        for g in model.net.gradients:
            g[:] = value

    monkeypatch.setattr(model, "_of", gradient_of)
    model.gradient(*draws(0, BATCH))
    assert all((g == stream).all() for g in model.net.gradients)


def test_mir_replays_what_the_step_would_harm_most() -> None:
    model = make("mir", candidates=10)
    x, y = draws(7, BATCH, (2,))
    places = model.memory.draw(10, 1)
    drawn_x, drawn_y = model.memory.x[places], model.memory.y[places]
    before, after = Oracle(model), Oracle(model)
    step = iter(before.gradients(before.entropy(x, y)))
    moved = np.concatenate([w.copy() for w in model.net.weights]) - model.spec.rate * np.concatenate(list(step))
    flat = torch.tensor(moved)
    leaves = [leaf for pair in after.layers for leaf in pair] + [after.w, after.b]
    with torch.no_grad():
        for leaf, part in zip(leaves, torch.split(flat, [leaf.numel() for leaf in leaves])):
            leaf.copy_(part.view(leaf.shape))

    def each(o: Oracle) -> np.ndarray:
        loss = torch.nn.functional.cross_entropy(o.dots(drawn_x), torch.tensor(drawn_y), reduction="none")
        return loss.detach().numpy()

    wanted = places[np.argsort(-(each(after) - each(before)), kind="stable")[:4]]
    weights = [w.copy() for w in model.net.weights]
    assert model._most_interfered(x, y).tolist() == wanted.tolist()
    for w, old in zip(model.net.weights, weights):
        np.testing.assert_array_equal(w, old)
    old_x, old_y = model.memory.x[wanted], model.memory.y[wanted]
    gradients = before.gradients(er(before, x, y, old_x, old_y))
    assert model.step(x, y, KNOWN)
    for mine, g in zip(model.net.gradients, gradients):
        np.testing.assert_allclose(mine, g, rtol=1e-10, atol=1e-13)


def test_pcr() -> None:
    def loss(o: Oracle, x, y, old_x, old_y) -> torch.Tensor:
        labels = np.concatenate([y, old_y])
        logits = o.angles(np.concatenate([x, old_x])) / 0.09
        chosen = logits[:, labels]  # one proxy for every event of the step, repeated as its class is
        shares = torch.tensor(np.arange(len(labels)))
        return (torch.logsumexp(chosen, 1) - chosen[shares, shares]).mean()

    model = make("pcr")
    assert_descends(model, loss, bias=False)
    x, _ = draws(9, 3)
    said = np.empty((3, KNOWN))
    model.logits(x, KNOWN, said)
    np.testing.assert_allclose(said, Oracle(model).angles(x).detach() / 0.09, rtol=1e-10)


def test_ewc_holds_what_was_important() -> None:
    model = make("ewc", period=2 * BATCH, strength=3.0, decay=0.5)
    squares = 0.0
    for step in range(2):
        x, y = draws(step, BATCH)
        oracle = Oracle(model)
        for row in range(BATCH):
            loss = oracle.entropy(x[row : row + 1], y[row : row + 1])
            squares += np.concatenate(oracle.gradients(loss)) ** 2
        assert_descends_once(model, oracle, x, y)
    fisher = np.concatenate(model._known(model.fisher))
    np.testing.assert_allclose(fisher, squares / (2 * BATCH), rtol=1e-10)
    anchor = np.concatenate(model._known(model.anchor))
    np.testing.assert_array_equal(anchor, np.concatenate(model.net.weights))
    model.step(*draws(5, BATCH), KNOWN)
    x, y = draws(6, BATCH)
    oracle, start = Oracle(model), np.concatenate(model.net.weights)
    moved = start - model.spec.rate * np.concatenate(oracle.gradients(oracle.entropy(x, y)))
    pull = np.minimum(1.0, model.spec.rate * 3.0 * fisher)
    assert pull.max() > 1e-4
    assert model.step(x, y, KNOWN)
    consolidated = np.concatenate(model._known(model.anchor))
    np.testing.assert_allclose(consolidated, moved - pull * (moved - anchor), rtol=1e-10, atol=1e-13)
    assert (np.concatenate(model._known(model.fisher)) >= 0.5 * fisher).all()


@pytest.mark.parametrize("kind", ["er", "uer", "der", "ewc"])
def test_room_for_classes_to_come_is_no_state(kind) -> None:
    """However early there is room for a class, its state is the same when it comes."""
    states = []
    for room in ((2, 4, 9), (9, 9, 9)):
        model = make(kind, held=0, **({"period": BATCH} if kind == "ewc" else {}))
        model = model.spec.model(FEATURES)
        for step, (classes, least, known) in enumerate(zip(room, (2, 4, 9), (2, 3, 6))):
            model.reserve(classes)
            states.append({name: array.tobytes() for name, array in model.arrays(least).items()})
            assert model.step(*draws(step, BATCH, tuple(range(known))), known)
    assert states[:3] == states[3:]


def assert_descends_once(model: Any, oracle: Oracle, x: np.ndarray, y: np.ndarray) -> None:
    wanted = oracle.gradients(oracle.entropy(x, y))
    assert model.step(x, y, KNOWN)
    for mine, g in zip(model.net.gradients, wanted):
        np.testing.assert_allclose(mine, g, rtol=1e-10, atol=1e-13)


def students(**fields: Any) -> Any:
    spec = LearnerSpec.by_kind({"kind": "pec", "teacher": 40, "units": 5, "outputs": 6, **fields}, None)
    model = spec.model(FEATURES)
    model.reserve(KNOWN)
    return model


def test_classes_of_pec_do_not_meet() -> None:
    model = students()
    x, y = draws(3, 200)
    x = x.astype(np.float32)
    for row in range(100):
        model.step(x[row : row + 1], y[row : row + 1], KNOWN)
    before, after = np.empty((200, KNOWN), np.float32), np.empty((200, KNOWN), np.float32)
    model.logits(x, KNOWN, before)
    for row in range(100, 200):
        model.step(x[row : row + 1], np.array([2]), KNOWN)
    model.logits(x, KNOWN, after)
    others = [0, 1, 3]
    assert after[:, others].tobytes() == before[:, others].tobytes()
    assert (after[:, 2] != before[:, 2]).any()


@pytest.mark.parametrize("schedule", ["constant", "inverse_sqrt"])
def test_the_order_of_classes_is_of_no_consequence_to_pec(schedule) -> None:
    x, y = draws(3, 120)
    x = x.astype(np.float32)
    weights = []
    for order in (np.arange(120), np.argsort(y, kind="stable"), np.argsort(-y, kind="stable")):
        model = students(schedule=schedule)
        for row in order.tolist():
            model.step(x[row : row + 1], y[row : row + 1], KNOWN)
        weights.append(b"".join(array.tobytes() for array in model.arrays(KNOWN).values()))
    assert weights[0] == weights[1] == weights[2]


def test_a_buffer_may_not_be_drawn_from_twice_alike() -> None:
    """Two steps of one log do not replay the same events because their mini-batches are alike."""
    model = make("er")
    assert isinstance(model.memory, Memory)
    first = model.recall()[0].tolist()
    model.memory.insert(*draws(1, 1))
    assert model.recall()[0].tolist() != first


def test_a_prediction_of_the_resnet_is_its_forward_pass_with_the_running_moments() -> None:
    rng = np.random.default_rng(2)
    net = ResNet((3, 9, 8), 3, 5, np.dtype(np.float64))
    net.theta += rng.normal(0, 0.1, len(net.theta))
    for _ in range(5):
        net.forward(rng.normal(1, 2, (6, 216)), True)
    x = rng.normal(1, 2, (4, 216))
    said = net.infer(x)
    assert said.shape == (4, 24)
    assert np.ptp(said) > 0.1
    np.testing.assert_allclose(said, net.forward(x, False), rtol=1e-10, atol=1e-12)
    assert np.abs(said - net.forward(x, True)).max() > 1e-3
