"""`continual bench heads`: scores by hand, the noise of the Kalman head, bad labels, every part at a tiny size."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner
from scipy import stats

from continual import data
from continual.bench import bench
from continual.bench.heads import cost, forgetting, mnist, robust, runs, score
from continual.bench.heads._doubles import Alone, AloneSpec, ConstantSpec
from continual.bench.recurrent import drift, streams
from continual.bench.recurrent.peers import changes
from kernels.cpu.dispatch import form_of
from kernels.cpu.heads import error, predict, step, weight
from kernels.cpu.heads import kalman as kernel
from learners.heads.base import HeadSpec
from learners.heads.kalman import Kalman
from streams.batch import Batch


def walk(n: int = 300, seed: int = 0) -> streams.Stream:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 2))
    y = 100 + np.cumsum(rng.normal(size=n) + np.append(0, x[:-1, 0]))
    return streams.Stream("walk", "regression", ("a", "b"), (Batch.of(x, y),), "two")


def coins(n: int = 300) -> streams.Stream:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(n, 3))
    return streams.Stream("coins", "binary", ("a", "b", "c"), (Batch.of(x, x[:, 0] > 0),), "three")


def held(name: str) -> None:
    try:
        data.find(name)
    except data.NoData as reason:
        pytest.skip(str(reason))


def few(*found: float) -> list[drift.Figures]:
    return [{"nats": nats} for nats in found]


# Scores by hand


def test_a_density_by_hand() -> None:
    y, scale = np.array([1.0, 2.0, 5.0, 4.0]), np.array([0.0, 0.0, 2.0, 4.0])
    said = runs.Said(np.array([0.0, 0.0, 4.0, 0.0]), np.array([0.0, 0.0, 4.0, 9.0]), np.array([0.0, 0.0, 1.5, 3.0]))
    figures = runs.density_figures(said, y, scale)
    # A density per deviation: a number that is y / scale has scale times that of y.
    expected = [-stats.norm.logpdf(5, 4, 2) - math.log(2), -stats.norm.logpdf(4, 0, 3) - math.log(4)]
    assert figures["nats"] == pytest.approx(np.mean(expected))
    assert figures["unclipped"] == figures["nats"]
    assert figures["coverage"] == 0.5
    assert figures["width"] == pytest.approx((3 / 2 + 6 / 4) / 2)


def test_a_density_counts_as_at_least_a_millionth() -> None:
    said = runs.Said(np.zeros(2), np.array([1.0, 1.0]), np.ones(2))
    figures = runs.density_figures(said, np.array([0.0, 100.0]), np.ones(2))
    half = 0.5 * math.log(2 * math.pi)
    assert figures["nats"] == pytest.approx((half + 6 * math.log(10)) / 2)
    assert figures["unclipped"] == pytest.approx((2 * half + 5000) / 2)


def test_a_variance_that_is_none_is_an_error() -> None:
    said = runs.Said(np.zeros(2), np.array([1.0, 0.0]), np.ones(2))
    with pytest.raises(Exception, match="positive variances"):
        runs.density_figures(said, np.ones(2), np.ones(2))
    with pytest.raises(Exception, match="a label that changes"):
        runs.density_figures(said, np.ones(2), np.zeros(2))


def test_noise_by_hand() -> None:
    batch = Batch.of(np.zeros((4, 1)), [10.0, 13.0, 9.0, 9.0])
    told = changes(batch)
    # No-change: the residuals are the changes in deviations, 1, -4 / sqrt(12.5) and 0.
    said = runs.with_noise(told.base, told, window=3)
    v = [1.0, 1.0]
    v.append(v[-1] + (1 - v[-1]) / 2)
    v.append(v[-1] + (16 / 12.5 - v[-1]) / 3)
    np.testing.assert_allclose(said.variance, np.array(v) * told.scale**2)
    np.testing.assert_allclose(said.half, stats.norm.ppf(0.95) * np.sqrt(said.variance))


def test_noise_is_that_of_the_kalman_head() -> None:
    """A filter that cannot learn predicts no change; its served variance is then the noise alone.

    It trusts every label, yet is robust: what a plain one sees of a residual is bounded by 16 variances.
    """
    stream, window = walk(), 20
    head = {"kind": "kalman", "gammas": (1.0,), "prior": 1e-15, "noise_window": window, "robust": 1e6}
    spec = drift.model(stream, {**runs.RECURRENT, "head": head})
    batch = stream.batches[0]
    said, told = runs.served(spec, batch), changes(batch)
    np.testing.assert_allclose(said.mean[1:], told.base[1:], rtol=1e-9)
    # The learner's scale of the first changes is its own, so that one of them cannot capture it; a noise over 20 labels
    # has forgotten them after 250.
    noise = runs.with_noise(told.base, told, window).variance
    np.testing.assert_allclose(said.variance[250:], noise[250:], rtol=1e-5)
    figures = runs.run(stream, {**runs.RECURRENT, "head": head}, 0)
    assert figures["ratio"] == pytest.approx(1.0)
    assert figures["us"] > 0


def test_the_noise_that_is_given_is_that_of_the_default_head() -> None:
    assert Kalman().noise_window == runs.NOISE_WINDOW


def test_class_scores_are_the_metrics() -> None:
    figures = runs.class_scores(np.array([0.9, 0.4, 0.0]), Batch.of(np.zeros((3, 1)), [1.0, 0.0, 1.0]))
    assert figures["nats"] == pytest.approx(-(math.log(0.9) + math.log(0.6) + math.log(1e-6)) / 3)
    assert figures["accuracy"] == pytest.approx(2 / 3)
    assert figures["calibration_error"] == pytest.approx((0.1 + 0.4 + 1.0) / 3)


def test_gains_are_paired_by_seed() -> None:
    assert runs.better_by(few(1.0, 3.0), few(2.0, 3.5)) == [1.0, 0.5]
    assert runs.better_by(few(1.0), few(2.0, 4.0)) == [2.0]
    assert runs.better_by(few(1.0, 2.0), few(3.0)) == [2.0, 1.0]


def test_one_seed_where_nothing_is_random() -> None:
    for kind, seeds in (("lda", 1), ("kalman", 3)):
        assert len(runs.seeds_of({"kind": "static", "head": {"kind": kind}}, coins(3), 3)) == seeds


def test_every_arm_is_a_spec_and_the_reference_is_first() -> None:
    listed = score.arms()
    assert [arm.name for arm in listed[:3]] == [score.ADAM, score.BANK, score.PREDICTIVE]
    for arm in listed:
        for stream in (coins(3), walk(3)):
            if stream.target in arm.targets:
                drift.model(stream, arm.learner)
    assert drift.model(coins(3), listed[1].learner).learner.head == Kalman()


def test_summary_by_hand() -> None:
    made = {
        "coins": {score.ADAM: few(1.0, 1.0), score.BANK: few(0.5, 0.7), "worse": few(1.5)},
        "walk": {
            score.ADAM: [{"nats": 1.0, "unclipped": 3.0, "coverage": 0.95}] * 2,
            score.BANK: [{"nats": 1.25, "unclipped": 2.0, "coverage": 0.91}] * 2,
        },
    }
    bank, worse = score.summary([coins(3), walk(3)], made)
    assert bank["coins"].startswith("+0.4000 +- ")
    assert bank["walk"].startswith("-0.2500")
    assert (bank["better on"], bank["coverage, %"], bank["within 87-93"]) == ("1 of 2", "91.0", "yes")
    assert (bank["unclipped"], worse["unclipped"]) == ("2 of 2", "0 of 1")
    assert (worse["coins"], worse["walk"], worse["better on"]) == ("-0.5000", "-", "0 of 1")
    made["walk"][score.BANK] = [{"nats": 1.25, "unclipped": 2.0, "coverage": 0.94}] * 2
    assert score.summary([walk(3)], {"walk": made["walk"]})[0]["within 87-93"] == "NO"


# Forgetting


def test_the_bank_is_held_against_its_best_member() -> None:
    names = list(forgetting.heads())
    assert names[:5] == ["1", "0.9999", "0.999", "0.99", forgetting.BANK]
    made = {name: few(1.0, 1.2) for name in names}
    made["0.999"], made[forgetting.BANK], made["gradient 1e-05"] = few(0.8, 0.9), few(0.82, 0.9), few(0.7, 0.8)
    row = forgetting.row("a", "cell", made)
    assert (row["best"], row["bank - best"], row["<= 0.01"]) == ("0.999", "+0.0100", "yes")
    assert row["best gradient - best"] == "-0.1000"
    made[forgetting.BANK] = few(0.83, 0.9)
    assert forgetting.row("a", "cell", made)["<= 0.01"] == "NO"


# Bad labels


def test_bad_labels_by_hand() -> None:
    stream = walk(3000)
    batch = stream.batches[0]
    dirty, hit = robust.corrupted(batch, seed=3)
    assert not hit[: robust.AFTER].any()
    assert hit.sum() == pytest.approx(robust.SHARE * 2500, abs=20)
    np.testing.assert_array_equal(dirty.y[~hit], batch.y[~hit])
    for row in np.flatnonzero(hit):
        off = robust.OFF * batch.y[:row].std()
        assert abs(dirty.y[row] - batch.y[row]) == pytest.approx(off, rel=1e-6)
    assert {-1, 1} == set(np.sign(dirty.y - batch.y)[hit])
    shorter, again = robust.corrupted(batch.slice(0, 2000), seed=3)
    np.testing.assert_array_equal(shorter.y, dirty.y[:2000])
    np.testing.assert_array_equal(again, hit[:2000])
    assert (robust.corrupted(batch, seed=4)[1] != hit).any()


def test_percentages_of_bad_labels_by_hand() -> None:
    def one(clean: float, dirty: float) -> drift.Figures:
        return {"clean": clean, "dirty": dirty, "found": 1.0, "refused dirty": 0.0, "refused clean": 0.0}

    made = {robust.PLAIN: [one(10, 100)], "robust": [one(9, 9.81)], "other": [one(9, 10.08)]}
    plain, good, other = robust.rows(walk(3), made)
    assert (plain["over plain on clean, %"], plain["<= +10 %"]) == ("+900.0", "NO")
    assert (good["over plain on clean, %"], good["over itself on clean, %"], good["<= +10 %"]) == (
        "-1.9",
        "+9.0",
        "yes",
    )
    assert (other["over itself on clean, %"], other["<= +10 %"]) == ("+12.0", "NO")


def test_heads_of_the_bench_are_no_kinds_of_a_model() -> None:
    assert ConstantSpec not in HeadSpec.known().values()
    assert AloneSpec not in HeadSpec.known().values()
    assert HeadSpec.known()["kalman"] is Kalman


def test_a_head_alone_is_a_kalman_head_that_refuses_no_label() -> None:
    def forms(head: type) -> list[object]:
        kind = SimpleNamespace(instance_class=head)
        return [form_of(function, kind) for function in (predict, error, step, weight)]

    assert forms(Alone)[:3] == forms(kernel.Kalman)[:3]
    assert forms(Alone)[3] is None
    assert None not in forms(kernel.Kalman)
    spec = drift.model(walk(3), {"kind": "static", "head": AloneSpec(kind="alone", inner=Kalman(robust=3.0))})
    made = spec.learner.head.compiled(SimpleNamespace(hidden=0, width=4, units=0), 1, 0)
    assert type(made) is Alone
    assert made.robust == 3.0


# Cost


def test_the_empty_head_says_one_half_and_learns_nothing() -> None:
    bare = cost.Bare.of(ConstantSpec(kind="constant"), 3, 2)
    before = {name: np.array(array) for name, array in bare.shared._asdict().items()}
    assert bare.learn(np.ones((5, 3)), np.array([0, 1, 1, 0, 1])) > 0
    assert bare.scratch.logits[:2].tolist() == [0.5, 0.5]
    for name, array in bare.shared._asdict().items():
        np.testing.assert_array_equal(array, before[name])


def test_what_is_timed_is_right() -> None:
    cost.Large().verify()


def test_a_ratio_is_that_of_the_rounds() -> None:
    row = cost.paired("a", [1.0, 2.0, 9.0], "b", [1.0, 1.0, 3.0], target=2.0)
    assert (row["ours"], row["theirs"]) == (2e6, 1e6)
    assert (row["ratio"], row["met"]) == (2.0, "yes")
    assert cost.paired("a", [3.0, 3.0], "b", [1.0, 1.0], target=2.0)["met"] == "NO"


def test_wrong_algebra_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    right = cost.filtered
    monkeypatch.setattr(cost, "filtered", lambda z, y, prior: right(z, y, 1.0001 * prior))
    with pytest.raises(Exception, match="filter step: mean off by"):
        cost.Large().verify()


# The command


def run(out: Path, *options: str) -> str:
    done = CliRunner().invoke(bench, ["heads", "--out", str(out), *options], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_score_at_a_tiny_size(tmp_path: Path) -> None:
    held("elec2/elec2.csv.gz")
    held("bikesharing/hour.csv.gz")
    tiny = ("--stream", "elec2", "--stream", "bike", "--events", "120", "--seeds", "2", "--learner", score.BANK)
    assert "Asked of" in run(tmp_path, *tiny)
    document = json.loads((tmp_path / "heads-score.json").read_text())
    found = document["details"]["runs"]
    assert set(found["elec2"][score.BANK][0]) == {"nats", "accuracy", "calibration_error", "us"}
    assert {"nats", "unclipped", "coverage", "width", "ratio"} < set(found["bike"][score.ADAM][0])
    assert found["bike"][score.BANK][0] != found["bike"][score.BANK][1]
    for name in ("heads-classes.md", "heads-numbers.md"):
        assert score.BANK in (tmp_path / name).read_text()
    assert (tmp_path / "heads-score.png").read_bytes().startswith(b"\x89PNG")


def test_forgetting_at_a_tiny_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held("sea/sea.csv.gz")
    monkeypatch.setattr(forgetting, "BELOW", {"cell": runs.RECURRENT})  # one fold less to compile
    run(tmp_path, "--part", "forgetting", "--stream", "sea", "--events", "120", "--seeds", "1")
    printed = json.loads((tmp_path / "heads-forgetting.json").read_text())
    assert [row["features"] for row in printed["rows"]] == ["cell"]
    assert float(printed["rows"][0]["bank"]) > 0
    assert any("no concept changes" in note for note in printed["notes"])


def test_mnist_at_a_tiny_size(tmp_path: Path) -> None:
    held("mnist/train-images-idx3-ubyte.gz")
    run(tmp_path, "--part", "mnist", "--events", "2500", "--features", "60")
    joint, *recursive = json.loads((tmp_path / "heads-mnist.json").read_text())["rows"]
    assert len(recursive) == len(mnist.ORDERS) == 2
    for row in recursive:
        assert row["test accuracy, %"] == joint["test accuracy, %"]
        assert 0 < float(row["weights, relative error"]) < 1e-9


def test_digits_are_sorted_by_the_order_of_their_classes() -> None:
    held("mnist/train-images-idx3-ubyte.gz")
    digits = mnist.Digits(features=5, events=300)
    labels = digits.labels[digits.sorted(mnist.ORDERS["9 to 0"])]
    assert labels[0] == 9
    assert (np.diff(labels) <= 0).all()
    assert sorted(digits.sorted(mnist.ORDERS["9 to 0"]).tolist()) == list(range(300))


def test_what_cannot_be_run_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refused(*options: str) -> str:
        done = CliRunner().invoke(bench, ["heads", *options])
        assert done.exit_code != 0
        return done.output

    assert "robust runs on bike, etth1" in refused("--part", "robust", "--stream", "sea")
    held("elec2/elec2.csv.gz")
    assert f"accepted: {score.ADAM}" in refused("--stream", "elec2", "--learner", "nonesuch")
    monkeypatch.setenv("CONTINUAL_DATA", str(tmp_path))
    assert "not in the data folder" in refused("--stream", "elec2")
    assert "not in the data folder" in refused("--part", "mnist")
