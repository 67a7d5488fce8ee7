"""The memory part of `continual bench recurrent`: its task, its training, its table, at sizes of a second."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from continual.bench import bench
from continual.bench.recurrent import memory
from continual.bench.recurrent.dense import DenseNetwork
from continual.bench.recurrent.recall import BATCH, BITS, TEST, TRAIN, Diagonal, Outcome, Task, Trained, train

MINGRU = {"kind": "mingru", "units": 16, "gate_bias": (-6, 1)}


def test_distractors_hide_the_bits_behind_others_on_the_same_channels() -> None:
    x, bits = Task("distractors", 6).draw(3, TRAIN, 0, 5)
    assert x.shape == (5, 8, 7)
    np.testing.assert_array_equal(x[:, 0, :BITS] > 0, bits)
    assert set(np.unique(x[:, :-1, :BITS])) == {-1.0, 1.0}
    assert not x[:, -1, :BITS].any()
    np.testing.assert_array_equal(x[:, :, 4], np.broadcast_to([1.0, *[0.0] * 7], (5, 8)))
    np.testing.assert_array_equal(x[:, :, 5], np.broadcast_to([*[0.0] * 7, 1.0], (5, 8)))
    assert (x[:, :, 6] == 1.0).all()


def test_serial_shows_one_bit_after_the_other_and_then_nothing() -> None:
    x, bits = Task("serial", 3).draw(3, TRAIN, 0, 5)
    assert x.shape == (5, BITS + 3 + 1, 4)
    np.testing.assert_array_equal(x[:, :BITS, 0] > 0, bits)
    assert not x[:, BITS:, 0].any()
    np.testing.assert_array_equal(x[0, :, 1], [1, 1, 1, 1, 0, 0, 0, 0])
    np.testing.assert_array_equal(x[0, :, 2], [0, 0, 0, 0, 0, 0, 0, 1])


def test_sequences_depend_on_all_that_names_them_and_on_nothing_else() -> None:
    task = Task("distractors", 20)
    drawn = {at: task.draw(*at, 4)[0].tobytes() for at in [(0, TRAIN, 0), (1, TRAIN, 0), (0, TEST, 0), (0, TRAIN, 1)]}
    assert len(set(drawn.values())) == 4
    assert all(task.draw(*at, 4)[0].tobytes() == x for at, x in drawn.items())
    bits = np.concatenate([task.draw(0, TRAIN, index, 100)[1] for index in range(20)])
    assert np.abs(bits.mean(axis=0) - 0.5).max() < 0.05
    assert np.abs(np.corrcoef(bits.T) - np.eye(BITS)).max() < 0.1


def test_a_step_descends_the_log_loss_by_all_weights() -> None:
    task = Task("distractors", 12)
    x, bits = task.draw(0, TRAIN, 0, BATCH)
    trained = Trained(Diagonal(MINGRU, task.width, 0, 0))
    trained.out[:] = np.random.default_rng(0).normal(0, 0.3, trained.out.shape)

    def loss() -> float:
        logits = trained.network.features(x).astype(np.float64) @ trained.out[:, :-1].T + trained.out[:, -1]
        return float((np.logaddexp(0, logits) - bits * logits).sum() / len(x))

    phi = trained.network.run(x)
    error = (1 / (1 + np.exp(-(phi @ trained.out[:, :-1].T + trained.out[:, -1]))) - bits) / len(x)
    g = trained.network.gradient(x, (error @ trained.out[:, :-1]).astype(np.float32))
    weights = trained.network.weights
    at = int(np.argmax(np.abs(g)))
    kept, around = weights[at], []
    for change in (1e-2, -1e-2):
        weights[at] = kept + np.float32(change)
        around.append(loss())
    weights[at] = kept
    assert (around[0] - around[1]) / 2e-2 == pytest.approx(g[at], rel=1e-2)
    before = loss(), weights.copy(), trained.out.copy()
    for _ in range(5):
        trained.step(x, bits, frozen=False)
    assert loss() < before[0]
    assert (weights != before[1]).mean() > 0.9
    assert (trained.out != before[2]).mean() > 0.9


def test_exact_traces_bridge_what_a_window_and_a_frozen_recurrence_do_not() -> None:
    task = Task("distractors", 40)
    exact = train(Diagonal(MINGRU, task.width, 0, 0), task, 0, updates=1500)
    assert exact.accuracy >= 0.99
    assert exact.updates < 1500
    for window, frozen in ((10, False), (0, True)):
        network = Diagonal(MINGRU, task.width, window, 0)
        before = network.weights.copy()
        without = train(network, task, 0, frozen=frozen, updates=1500)
        assert without.accuracy <= 0.65
        assert without.updates == 1500
        assert (network.weights == before).all() == frozen


def test_a_training_can_be_repeated() -> None:
    task = Task("serial", 5)
    one, other = (train(Diagonal({"kind": "lru", "units": 8}, task.width, 0, 1), task, 1, updates=30) for _ in range(2))
    assert one == other


@pytest.mark.parametrize("kind", ["rnn", "gru"])
def test_dense_networks_learn_by_each_training(kind: str) -> None:
    task = Task("distractors", 4)
    whole = {}
    for training, window in (("bptt", 0), ("bptt", 2), ("snap1", 0), ("uoro", 0)):
        network = DenseNetwork(kind, training, 8, task.width, 0, window=window, keep=(-1.0, 6.0))
        x, bits = task.draw(0, TRAIN, 0, BATCH)
        d_phi = np.ones((BATCH, 8), np.float32)
        np.testing.assert_allclose(network.run(x), network.features(x), atol=1e-6)
        whole[training, window] = network.gradient(x, d_phi)
        before = network.weights.copy()
        trained = Trained(network)
        for _ in range(3):
            trained.step(x, bits, frozen=False)
        assert (network.weights != before).any()
    assert len({g.tobytes() for g in whole.values()}) == 4
    network = DenseNetwork(kind, "bptt", 8, task.width, 0, window=task.steps, keep=(-1.0, 6.0))
    network.run(x)
    np.testing.assert_array_equal(network.gradient(x, d_phi), whole["bptt", 0])


def test_every_estimate_has_signs_of_its_own() -> None:
    task = Task("distractors", 4)
    x, _ = task.draw(0, TRAIN, 0, BATCH)
    networks = [DenseNetwork("rnn", "uoro", 8, task.width, seed, keep=(-1.0, 6.0)) for seed in (0, 0, 1)]
    drawn = []
    for network in networks:
        network.weights[:] = networks[0].weights
        for _ in range(2):
            network.run(x)
            drawn.append(network.gradient(x, np.ones((BATCH, 8), np.float32)).tobytes())
    assert drawn[:2] == drawn[2:4]
    assert len(set(drawn)) == 4


@pytest.mark.parametrize(("right", "holds"), [(5, True), (4, True), (3, False)])
def test_a_delay_is_bridged_by_four_seeds_of_five(right: int, holds: bool) -> None:
    assert memory.bridged([Outcome(0.99, 1)] * right + [Outcome(0.98, 1)] * (5 - right), 5) is holds


def test_the_search_ends_where_a_delay_can_be_bridged_no_more(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tried = []

    def outcome(one: memory.Contest, delay: int, seed: int) -> Outcome:
        tried.append((delay, seed))
        return Outcome(0.5 if delay > 60 and seed != 1 else 1.0, 1)

    monkeypatch.setattr(memory, "run", outcome)
    found = {10: [Outcome(1.0, 1)] * 5}
    with ThreadPoolExecutor(1) as pool:
        memory._extend(memory.contests(["mingru"])[0], found, 5, 200, 1, pool, lambda _: None)
    whole = [(delay, seed) for delay in (25, 50) for seed in range(5)]
    assert tried == [*whole, (100, 0), (100, 1), (100, 2)]
    assert [delay for delay, outcomes in found.items() if memory.bridged(outcomes, 5)] == [10, 25, 50]
    memory.plot({memory.contests(["mingru"])[0]: found}, tmp_path / "left.png")
    assert (tmp_path / "left.png").exists()


def test_targets_are_those_of_gated_cells() -> None:
    exact, window, *_ = memory.contests(["mingru"])
    good, low, bad = Outcome(1.0, 1), Outcome(0.985, 1), Outcome(0.61, 1)
    assert memory._met(exact, {100: [good] * 4 + [low], 200: [good] * 4 + [bad]}) == "100: NO, 200: yes"
    assert memory._met(window, {10: [good], 100: [Outcome(0.6, 1)], 200: [bad]}) == "100: yes, 200: NO"
    assert [one.arm.name for one in memory.contests(["gru"])][-2:] == ["BPTT, whole", "frozen"]
    assert memory._met(memory.contests(["lru"])[0], {100: [good]}) == ""


def test_the_command_at_a_tiny_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "train", lambda *args, **options: train(*args, **options, updates=450))
    options = ["--part", "memory", "--cells", "mingru,lru", "--delays", "5, 20", "--seeds", "2", "--reach", "60"]
    done = CliRunner().invoke(bench, ["recurrent", *options, "--jobs", "2", "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    document = json.loads((tmp_path / "recurrent-memory.json").read_text())
    assert [(row["cell"], row["gradient"]) for row in document["rows"]] == [
        (cell, arm) for cell in ("mingru", "lru") for arm in ("RTRL", "BPTT-10", "frozen")
    ]
    runs = document["details"]["runs"]
    assert {run["delay"] for run in runs if run["arm"] == "frozen"} == {5, 20}
    assert {run["delay"] for run in runs if run["cell"] == "mingru" and run["arm"] == "RTRL"} == {5, 20, 60}
    assert document["details"]["longest delay"] == {"mingru": 60}
    assert "mingru 60" in done.output
    assert (tmp_path / "recurrent-memory.png").read_bytes().startswith(b"\x89PNG")


def test_delays_that_cannot_be_are_refused() -> None:
    for delays in ("0", "ten", "5,,6", "100001"):
        done = CliRunner().invoke(bench, ["recurrent", "--part", "memory", "--delays", delays])
        assert done.exit_code != 0
        assert "accepted: 1 to 100,000" in done.output
