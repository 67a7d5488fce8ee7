"""The learner that notices drift: the kit, what each reaction does, that everything is replayable, bad specs."""

from __future__ import annotations

import numpy as np
import pytest
from river import drift as river_drift

from kernels.cpu.layout import AWAY, OBSERVED, OUT_OF_ORDER
from learners import conformance
from learners.base import SIGNALS, MemoryRows
from learners.drift.detectors import better_by, is_better, losses
from learners.river import signing
from learners.spec import ModelSpec
from streams.batch import Batch
from streams.metrics import CLIP

RECURRENT = {"kind": "recurrent", "cell": {"units": 9}, "dtype": "float64"}
TOUCHY = {"kind": "page_hinkley", "threshold": 0.2, "delta": 0.0}
"""Sees a drift every few events."""


def spec_of(target: str, reaction: dict, detector: dict | None = None, learner: dict | None = None, **how) -> ModelSpec:
    return ModelSpec.model_validate(
        {
            "name": "m",
            "features": [{"name": "a", "missing": "mean"}, "b", "c"],
            "target": {"kind": target},
            "labels": how.pop("labels", {}),
            "learner": {
                "kind": "drift",
                "learner": learner or RECURRENT,
                "detector": detector or TOUCHY,
                "reaction": reaction,
                "every": 8,
            }
            | how,
        }
    )


def told(folded) -> dict[str, list[int]]:
    """Positions of the signals by name."""
    return {name: folded.signals[folded.signals[:, 1] == kind, 0].tolist() for kind, name in enumerate(SIGNALS)}


DELAYED = {"arrive": "delayed", "pending": 3}
KALMAN = RECURRENT | {"head": {"kind": "kalman", "samples": 4}}
KIT = {
    "signal": spec_of("regression", {"kind": "signal"}, labels=DELAYED),
    "rate": spec_of(
        "binary",
        {"kind": "rate", "span": 20},
        {"kind": "ddm", "threshold": 0.1},
        labels=DELAYED | {"default_label": 1, "horizon": 12},
    ),
    "forget": spec_of("multiclass", {"kind": "forget"}, {"kind": "hddm_w", "confidence": 0.9}, KALMAN, labels=DELAYED),
    "challenger": spec_of("binary", {"kind": "challenger", "span": 40, "alpha": 0.99}),
    "challenger of numbers": spec_of("regression", {"kind": "challenger", "span": 40, "alpha": 0.99}),
    "challenger, by inputs": spec_of(
        "multiclass",
        {"kind": "challenger", "span": 24, "alpha": 0.99},
        {"kind": "kswin", "alpha": 0.9, "window": 20, "latest": 6, "on": "inputs"},
    ),
}


@pytest.mark.parametrize("name", KIT)
def test_the_kit(name) -> None:
    conformance.check_learner(KIT[name], seed=1)


def test_what_the_kit_folds_makes_every_reaction_happen() -> None:
    happened: set[str] = set()
    for spec in KIT.values():
        folded = spec.learner.build(spec).fold(conformance.random_log(spec, 1, events=1000))
        happened |= {name for name, positions in told(folded).items() if positions}
    assert happened == set(SIGNALS)


def shift(n: int, at: int, seed: int = 0) -> Batch:
    """Two classes that change places at event `at`."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 3)).astype(np.float32)
    return Batch.of(x, ((x[:, 0] > 0) ^ (np.arange(n) >= at)).astype(float))


def plain(spec: ModelSpec) -> ModelSpec:
    return spec.learner.inner(spec)  # type: ignore[attr-defined]


ADWIN = {"kind": "adwin", "on": "error"}


def test_a_signal_only_watches() -> None:
    """Predictions and state are those of the learner alone, verdicts those of River's detector on its errors."""
    spec, log = spec_of("binary", {"kind": "signal"}, ADWIN), shift(3000, 1500)
    watched, alone = spec.learner.build(spec), plain(spec).learner.build(plain(spec))
    folded, wanted = watched.fold(log), alone.fold(log)
    assert folded.value.tobytes() == wanted.value.tobytes()
    shared = watched.shared_arrays()
    assert all(shared[f"0.{name}"].tobytes() == array.tobytes() for name, array in alone.shared_arrays().items())
    detector, expected = river_drift.ADWIN(delta=0.002), []
    for position, error in enumerate((wanted.code != log.y).tolist(), 1):
        before = detector.estimation
        detector.update(float(error))
        if detector.drift_detected and detector.estimation > before:
            expected.append(position)
    assert told(folded)["drift"] == expected
    assert 1500 < expected[0] < 1600


def test_the_rate_is_raised_for_a_span_of_labels() -> None:
    """Up to the end of the block with the drift nothing differs; for the span the step is that of the higher rate."""
    rate, factor = 0.01, 5.0
    learner = RECURRENT | {"optimizer": {"kind": "sgd", "rate": rate}}
    spec = spec_of("binary", {"kind": "rate", "factor": factor, "span": 64}, ADWIN, learner)
    log = shift(3000, 1500)
    folded = spec.learner.build(spec).fold(log)
    (raised,) = told(folded)["rate_raised"][:1]
    assert raised == -(-told(folded)["drift"][0] // 8) * 8
    faster = learner | {"optimizer": {"kind": "sgd", "rate": factor * rate}}
    quick = spec_of("binary", {"kind": "signal"}, ADWIN, faster)
    usual = plain(spec).learner.build(plain(spec))
    parts = [usual.fold(log.slice(0, raised)).value]
    other = plain(quick).learner.build(plain(quick))
    other.load(usual.shared_arrays(), MemoryRows())
    other.rows, usual.rows = usual.rows, other.rows
    until = min([raised + 64, *(at for at in told(folded)["rate_raised"] if at > raised)])
    parts.append(other.fold(log.slice(raised, until)).value)
    assert np.concatenate(parts).tobytes() == folded.value[:until].tobytes()


def test_forgetting_widens_every_filter_towards_its_prior() -> None:
    log, gamma = shift(600, 300), 0.5
    spec = spec_of("binary", {"kind": "forget", "gamma": gamma}, TOUCHY, KALMAN)
    first = told(spec.learner.build(spec).fold(log))["forgotten"][0]
    learner, alone = spec.learner.build(spec), plain(spec).learner.build(plain(spec))
    learner.fold(log.slice(0, first))
    alone.fold(log.slice(0, first))
    ours, before = learner.shared_arrays(), alone.shared_arrays()
    prior = plain(spec).learner.build(plain(spec)).shared_arrays()["head.cov"]  # a triangle of sw I
    np.testing.assert_allclose(ours["0.head.mean"], gamma * before["head.mean"], rtol=1e-12)
    wanted = gamma**2 * before["head.cov"] + (1 - gamma**2) * prior
    np.testing.assert_allclose(ours["0.head.cov"], wanted, rtol=1e-12)


def test_a_challenger_takes_over_what_the_old_learner_cannot_unlearn() -> None:
    """At a tiny rate the old learner keeps the first concept; a fresh one is better, is shown to be, and serves."""
    learner = RECURRENT | {"optimizer": {"kind": "sgd", "rate": 0.003}, "previous_label": False}
    reaction = {"kind": "challenger", "span": 3000, "alpha": 0.01}
    spec, log = spec_of("binary", reaction, ADWIN, learner), shift(12_000, 8000)
    watched = spec.learner.build(spec)
    folded = watched.fold(log)
    happened = told(folded)
    (promoted,) = happened["challenger_promoted"]
    (started,) = [at for at in happened["challenger_started"] if at > 8000]
    assert 8000 < started < 8200
    alone = plain(spec).learner.build(plain(spec)).fold(log)
    same = slice(0, promoted)
    assert folded.value[same].tobytes() == alone.value[same].tobytes(), "until then the old one serves"
    inner = spec.learner.inner(spec, len([at for at in happened["challenger_started"] if at <= started]))
    fresh = inner.learner.build(inner).fold(log.slice(started, len(log)))
    assert folded.value[promoted:].tobytes() == fresh.value[promoted - started :].tobytes(), "and then the fresh one"
    right = [np.mean((one.value >= 0.5) == log.y) for one in (folded, alone)]
    assert right[0] > right[1] + 0.02


@pytest.mark.parametrize("order", ["learn", "ignore"])
def test_a_promoted_challenger_knows_when_a_key_was_last_seen(order: str) -> None:
    """A key that the challenger never met has an empty row, but its clock stands where it stood."""
    spec = spec_of("binary", {"kind": "challenger"}, labels={"out_of_order": order})
    learner = spec.learner.build(spec)

    def fold(key: bytes, time: int, events: int = 1):
        x = np.ones((events, len(spec.features)), np.float32)
        times = np.arange(time, time + events)
        return learner.fold(Batch.of(x, np.arange(events) % 2, key=[key] * events, time=times))

    fold(b"early", 1000)
    learner._marks.seen = 1
    assert told(fold(b"late", 2000, 7))["challenger_started"]
    learner._test[:] = 1e6, 1.0
    assert told(fold(b"late", 3000, 8))["challenger_promoted"]
    assert fold(b"early", 500).outcome[0] & OUT_OF_ORDER
    assert not fold(b"early", 1000).outcome[0] & OUT_OF_ORDER


def test_a_challenger_goes_on_by_the_clock_of_the_partition() -> None:
    """Were the wrong clock of its first event its clock, all that follow would be far from it."""
    spec = spec_of("binary", {"kind": "challenger"}, labels={"out_of_order": "ignore"})
    learner = spec.learner.build(spec)
    start = 1_700_000_000_000_000

    def fold(times: list[int]):
        x = np.ones((len(times), len(spec.features)), np.float32)
        time = np.array(times, np.int64)
        return learner.fold(Batch.of(x, np.arange(len(times)) % 2, key=[b"k"] * len(times), time=time))

    fold([start])
    learner._marks.seen = 1
    assert told(fold([start + k for k in range(1, 8)]))["challenger_started"]
    assert fold([4_102_444_800_000_000]).outcome[0] & AWAY == AWAY
    learner._test[:] = 1e6, 1.0
    assert told(fold([start + k for k in range(10, 17)]))["challenger_promoted"]
    outcome = fold([start + k for k in range(20, 28)]).outcome
    assert (outcome & (AWAY | OUT_OF_ORDER) == OBSERVED).all()


def test_without_a_difference_a_challenger_is_rarely_promoted() -> None:
    rng, alpha, wrong = np.random.default_rng(0), 0.05, 0
    for _ in range(400):
        d = rng.choice([-1.0, 1.0], 500) * rng.random(500)
        sums, squares = np.cumsum(d), np.cumsum(d * d)
        wrong += any(is_better(s, v, alpha) for s, v in zip(sums.tolist(), squares.tolist()))
    assert wrong <= 20 + 3 * np.sqrt(19), "three deviations above alpha"


def test_losses_and_differences() -> None:
    nan = float("nan")
    met = np.array([[0.8, 1, 0, 1, 0.8], [0.8, 1, 0, 0, 0.8], [nan, nan, nan, nan, nan], [0.0, 0, 1, 1, 1.0]])
    np.testing.assert_allclose(losses("binary", "loss", met), [-np.log(0.8), -np.log(0.2), nan, -np.log(CLIP)])
    np.testing.assert_array_equal(losses("binary", "error", met), [0, 1, nan, 1])
    np.testing.assert_allclose(losses("regression", "loss", met), [0.2, 0.8, nan, 1.0])
    spec = spec_of("binary", {"kind": "signal"})
    folded = spec.learner.build(spec).fold(shift(5, 9))
    assert (better_by("binary", folded, folded) == 0).all()
    assert len(better_by("regression", folded, folded)) == 5


def test_a_snapshot_with_foreign_detectors_is_not_read() -> None:
    spec = KIT["challenger"]
    learner = spec.learner.build(spec)
    learner.fold(conformance.random_log(spec, 2))
    arrays = {name: np.array(array) for name, array in learner.shared_arrays().items()}
    arrays["signature"][0] ^= 1
    other = spec.learner.build(spec)
    with pytest.raises(signing.Unsigned):
        other.load(arrays, MemoryRows())
    assert other.position == 0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"detector": {"kind": "cusum"}}, "'adwin', 'page_hinkley', 'kswin', 'ddm', 'hddm_a', 'hddm_w'"),
        ({"detector": {"kind": "adwin", "delta": 0}}, "greater than 0"),
        ({"detector": {"kind": "adwin", "on": "labels"}}, "'loss', 'error' or 'inputs'"),
        ({"detector": {"kind": "ddm", "on": "loss"}}, "'error'"),
        ({"detector": {"kind": "ddm"}}, "detector 'ddm' takes errors of 0 and 1, of which a regression has none"),
        ({"detector": {"kind": "kswin", "latest": 60}}, "detector.latest 60: accepted: at most half of window 100"),
        ({"reaction": {"kind": "retrain"}}, "'signal', 'rate', 'forget', 'challenger'"),
        ({"reaction": {"kind": "rate", "factor": 0}}, "greater than 0"),
        ({"reaction": {"kind": "rate"}, "learner": {"optimizer": {"kind": "ekf"}}}, "optimizer 'ekf' has none"),
        (
            {"reaction": {"kind": "rate"}, "learner": {"kind": "static", "head": {"kind": "ridge"}}},
            "head 'ridge' of learner 'static' has none",
        ),
        ({"reaction": {"kind": "forget"}}, "is for head 'kalman', learner.head.kind is 'linear'"),
        ({"every": 0}, "greater than or equal to 1"),
        (
            {"learner": {"kind": "river", "estimator": {"path": "river.tree.HoeffdingTreeRegressor"}}},
            "these can: .*recurrent",
        ),
        ({"learner": {"kind": "drift"}}, "kind 'drift' cannot be watched"),
        ({"learner": {"head": {"kind": "lda"}}}, "head 'lda' cannot learn a regression target"),
    ],
)
def test_a_spec_that_makes_no_sense_is_refused(changes, said) -> None:
    model = {"name": "m", "features": ["a"], "target": {"kind": "regression"}, "learner": {"kind": "drift"} | changes}
    with pytest.raises(ValueError, match=said):
        ModelSpec.model_validate(model)


def test_what_a_challenger_cannot_do_is_refused() -> None:
    with pytest.raises(ValueError, match=r"labels\.pending 0 is accepted, got 3"):
        spec_of("binary", {"kind": "challenger"}, labels=DELAYED)
    wide = {"kind": "recurrent", "cell": {"units": 600}, "layers": 16}
    spec_of("binary", {"kind": "rate"}, learner=wide)
    with pytest.raises(ValueError, match=r"two rows of [0-9]+ bytes per key"):
        spec_of("binary", {"kind": "challenger"}, learner=wide)
    many = {"name": "m", "features": [f"f{i}" for i in range(300)], "target": {"kind": "binary"}}
    with pytest.raises(ValueError, match="300 features, at most 256 are accepted"):
        ModelSpec.model_validate(many | {"learner": {"kind": "drift", "detector": {"kind": "adwin", "on": "inputs"}}})
