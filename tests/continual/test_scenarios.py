"""Scenarios hold every event once, in the order of their seed; the protocol reads what it says it reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from continual.bench import bench
from continual.datasets.catalog import load
from continual.datasets.dataset import BadData, Dataset, Part
from continual.scenarios import catalog, methods, protocol, splits, streams
from continual.scenarios.catalog import Sizes
from continual.scenarios.protocol import Examination, Protocol, figures
from continual.scenarios.scenario import Experience, Given, Scenario
from continual.scenarios.subjects import InProcess, Said
from streams.batch import Batch


def rows_of(scenario: Scenario) -> list[int]:
    return [row for one in scenario.experiences for row in one.train.rows.tolist()]  # type: ignore[attr-defined]


def labels_of(one: Experience) -> set[int]:
    return set(one.train.labels().astype(int).tolist())


@pytest.mark.parametrize("kind", ["class", "task", "blurry", "gradual"])
def test_every_event_comes_once_and_the_seed_decides_the_order(kind: str) -> None:
    first, again, other = (catalog.build(f"digits-{kind}", seed) for seed in (1, 1, 2))
    assert sorted(rows_of(first)) == list(range(1442))
    assert rows_of(first) == rows_of(again) != rows_of(other)
    assert [one.name for one in first.experiences] != [one.name for one in other.experiences]
    tested = [row for one in first.experiences for row in one.test.rows.tolist()]  # type: ignore[union-attr]
    assert sorted(tested) == list(range(355))


def test_classes_come_once_in_a_class_incremental_scenario() -> None:
    scenario = catalog.build("digits-class", 4)
    assert len(scenario.experiences) == 5
    met: set[int] = set()
    for one in scenario.experiences:
        assert labels_of(one) == set(one.classes)
        assert not met & set(one.classes)
        met |= set(one.classes)
    assert met == set(range(10))
    assert [len(one.classes) for one in catalog.build("digits-class", 0, Sizes(classes=3)).experiences] == [3, 3, 3, 1]


def test_a_share_of_every_class_is_elsewhere_where_it_is_blurry() -> None:
    scenario = catalog.build("mnist-blurry" if _has("mnist") else "digits-blurry", 0, Sizes(blur=0.3))
    away = sum((~np.isin(one.train.labels(), one.classes)).sum() for one in scenario.experiences)
    assert away / scenario.events == pytest.approx(0.3, abs=0.02)
    assert all(labels_of(one) == set(range(10)) for one in scenario.experiences)


def _has(name: str) -> bool:
    from continual.data import NoData

    try:
        load(name)
    except NoData:
        return False
    return True


def test_classes_come_and_go_in_order_where_it_is_gradual() -> None:
    scenario = catalog.build("digits-gradual", 3)
    y = np.concatenate([one.train.labels() for one in scenario.experiences])
    middle = [np.flatnonzero(y == label).mean() for one in scenario.experiences for label in one.classes]
    groups = [np.mean(middle[at : at + 2]) for at in range(0, 10, 2)]
    assert groups == sorted(groups)
    # No boundary: a class is met in several parts, and its neighbours with it.
    assert all(len(labels_of(one)) > 2 for one in scenario.experiences)


def test_pictures_are_turned_and_columns_permuted() -> None:
    picture = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    square = np.arange(32, dtype=np.float32).reshape(2, 4, 4)
    turned = splits.Rotated(90, (4, 4))(square.reshape(2, 16)).reshape(2, 4, 4)
    np.testing.assert_allclose(turned, np.rot90(square, axes=(1, 2)), atol=1e-5)
    half = splits.Rotated(180, (3, 4))(picture.reshape(2, 12)).reshape(2, 3, 4)
    np.testing.assert_allclose(half, picture[:, ::-1, ::-1], atol=1e-5)
    colour = splits.Rotated(90, (2, 4, 4))(square.reshape(1, 32)).reshape(2, 4, 4)
    np.testing.assert_allclose(colour, turned, atol=1e-5)
    plain = splits.Rotated(45, (9, 9))(np.ones((1, 81), np.float32)).reshape(9, 9)
    assert plain[4, 4] == pytest.approx(1)
    assert plain[0, 0] == 0
    scenario = catalog.build("digits-permuted", 0, Sizes(domains=3))
    straight, mixed = (one.train.batch(0, 400).x for one in scenario.experiences[:2])
    assert straight.shape == mixed.shape
    twice = [scenario.experiences[1].train.batch(0, 5).x for _ in range(2)]
    np.testing.assert_array_equal(*twice)
    assert np.sort(twice[0][0]).sum() > 0


def test_domains_are_those_that_the_data_set_names() -> None:
    rng = np.random.default_rng(0)
    part = Part(rng.uniform(size=(60, 3)).astype(np.float32), np.arange(60) % 2, np.arange(60) // 20)
    held = Dataset("d", part, part, ("a", "b"), (3,))
    scenario = splits.by_domains(held, splits.Cut(0, 1), "domains")
    for number, one in enumerate(scenario.experiences):
        assert set(part.domain[one.train.rows]) == {number}  # type: ignore[attr-defined,index]
        assert one.classes == (0, 1)
    with pytest.raises(BadData, match="holds no pictures"):
        splits.by_domains(held, splits.Cut(0, 1), "rotated")


@pytest.mark.parametrize("kind", ["class", "permuted", "gradual"])
def test_what_is_tuned_on_has_no_example_of_the_test(kind: str) -> None:
    held, tuning = (catalog.build(f"digits-{kind}", 3, tuning=tuned) for tuned in (False, True))
    train = held.experiences[0].train.part  # type: ignore[attr-defined]
    parts = [one.part for one in (tuning.experiences[0].train, tuning.experiences[0].test)]  # type: ignore[union-attr]
    assert [len(part) for part in parts] == [1157, 285]
    known = {row.tobytes() for row in train.x}
    assert all(row.tobytes() in known for part in parts for row in part.x)
    assert sorted(np.concatenate([part.y for part in parts]).tolist()) == sorted(train.y.tolist())
    assert [one.name for one in tuning.experiences] == [one.name for one in held.experiences]


def test_shuffled_has_the_same_events() -> None:
    scenario = catalog.build("digits-class", 0)
    mixed = splits.shuffled(scenario, 0)
    assert [len(one.train) for one in mixed.experiences] == [len(one.train) for one in scenario.experiences]
    assert len(labels_of(mixed.experiences[0])) == 10

    def events(of: Scenario) -> np.ndarray:
        batch = Batch.concat([one.train.batch(0, len(one.train)) for one in of.experiences])
        table = np.column_stack([batch.x, batch.y])
        return table[np.lexsort(table.T)]

    np.testing.assert_array_equal(events(scenario), events(mixed))
    with pytest.raises(BadData, match="is a stream"):
        splits.shuffled(catalog.build("shuttle-stream", 0, Sizes(events=100)), 0)


@pytest.mark.parametrize(
    ("name", "sizes", "said"),
    [
        ("digits-class", Sizes(classes=10), "accepted: 1 to 9"),
        ("digits-nonsense", Sizes(), "no scenario 'digits-nonsense'"),
        ("segments-rotated", Sizes(), "no scenario 'segments-rotated'"),
    ],
)
def test_sizes_and_names_that_do_not_fit_are_refused(name: str, sizes: Sizes, said: str) -> None:
    with pytest.raises(BadData, match=said):
        catalog.build(name, 0, sizes)


def test_no_scenario_has_the_name_of_a_benchmark() -> None:
    assert not set(catalog.names()) & set(bench.list_commands(None))  # type: ignore[attr-defined,arg-type]
    assert all(name.partition("-")[0] for name in catalog.names())
    assert bench.get_command(None, "digits-class") is not None  # type: ignore[arg-type]
    assert bench.get_command(None, "nothing-of-this") is None  # type: ignore[arg-type]


# The protocol


class Knows:
    """Predicts every class that it has met, and of the others nothing: every figure can be worked out."""

    def __init__(self, labels: int) -> None:
        self.met: set[int] = set()
        self.labels, self.learned, self.seconds = labels, 0, 0.0

    def _say(self, y: np.ndarray) -> np.ndarray:
        return np.where(np.isin(y, list(self.met)), y, -1).astype(int)

    def learn(self, batch: Batch) -> Said:
        out = []
        for label in batch.y.astype(int).tolist():
            out.append(label if label in self.met else -1)
            self.met.add(label)
        self.learned += len(batch)
        code = np.array(out)
        return Said((code >= 0).astype(float), code, (code >= 0).astype(float))

    def predict(self, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        code = self._say(batch.y)
        table = np.zeros((len(batch), self.labels))
        table[np.flatnonzero(code >= 0), code[code >= 0]] = 1.0
        return code, table

    def state_bytes(self) -> int | None:
        return None

    def digest(self) -> str:
        return str(sorted(self.met))


class Counts(InProcess):
    """How many examples it was asked about."""

    asked = 0

    def predict(self, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        self.asked += len(batch)
        return super().predict(batch)


def examined(scenario: Scenario, held: Protocol, subject: object = None) -> tuple[protocol.Run, Knows]:
    subject = subject or Knows(len(scenario.labels))
    return Examination(subject, scenario, held)(), subject  # type: ignore[arg-type,return-value]


def test_a_learner_that_keeps_what_it_met_has_the_figures_of_one() -> None:
    scenario = catalog.build("digits-class", 0, Sizes(events=100, tests=30))
    run, subject = examined(scenario, Protocol(every=50))
    np.testing.assert_array_equal(run.matrix, np.tril(np.ones((5, 5))))
    assert run.untrained == [0.0] * 5
    assert run.points["events"] == list(range(50, 501, 50))
    assert run.points["during"] == [k for k in range(5) for _ in range(2)]
    values = figures(run, scenario, Protocol(every=50))
    assert values["average_accuracy"] == values["average_anytime_accuracy"] == values["worst_case_accuracy"] == 1.0
    assert values["forgetting"] == values["backward_transfer"] == values["forward_transfer"] == 0.0
    assert values["windowed_plasticity"] > 0
    # Before the first batch of each experience nothing is right, after it all but classes that the batch lacked.
    assert np.array(run.first).shape == (5, 11)
    assert (np.array(run.first)[:, 0] == 0).all()
    assert values["prequential_accuracy"] == pytest.approx(1 - 10 / 500)
    assert subject.learned == 500


def test_what_is_asked_changes_nothing() -> None:
    scenario = catalog.build("digits-class", 0, Sizes(events=60, tests=20))
    found = []
    for held in (Protocol(every=10, beta=3), Protocol(every=60, beta=0)):
        spec = methods.model(methods.find("er+replay=5+buffer.size=50"), scenario, 0)
        run = Examination(InProcess(spec, scenario.labels), scenario, held)()
        found.append((run.state, run.predictions, run.matrix, run.prequential))
    assert found[0] == found[1]


def test_a_choice_needs_the_end_alone() -> None:
    scenario, held = catalog.build("digits-class", 0, Sizes(events=60, tests=20)), Protocol(every=30)
    found, asked = [], []
    for end in (False, True):
        spec = methods.model(methods.find("er+replay=5+buffer.size=50"), scenario, 0)
        subject = Counts(spec, scenario.labels)
        run = Examination(subject, scenario, held, end=end)()
        found.append((run.state, run.predictions, run.matrix[-1], run.final, run.prequential))
        asked.append(subject.asked)
        values = figures(run, scenario, held)
        assert ("forgetting" in values) is not end
        assert values["average_accuracy"] == np.mean(run.matrix[-1])
    assert found[0] == found[1]
    # Five test sets of 20, all: before, twice in each experience, for probabilities. One: seven times in its own.
    assert asked == [100 * (1 + 10 + 1) + 5 * 20 * 7, 100 * 2]


def test_a_stream_that_does_not_wait_is_learned_in_part() -> None:
    scenario = catalog.build("digits-class", 0, Sizes(events=100, tests=10))
    run, subject = examined(scenario, Protocol(every=100, cost=2.5))
    # Of 50 batches those at 0, 3, 6, ...: free again after 2.5.
    assert subject.learned == 170
    assert run.cost["learned"] == pytest.approx(170 / 500)
    assert run.prequential["events"] == 500


def test_the_last_batch_of_an_experience_may_be_short_and_takes_its_time() -> None:
    scenario = catalog.build("digits-class", 0, Sizes(events=21, tests=10))
    _, subject = examined(scenario, Protocol(every=10, beta=0, cost=2.0))
    # Batches of 10, 10 and 1, five times; every second of the fifteen is learned.
    assert subject.learned == sum(([10, 10, 1] * 5)[::2])


def test_with_a_given_task_only_its_classes_are_chosen_among() -> None:
    scenario = catalog.build("digits-task", 0, Sizes(events=50, tests=30))

    class Liar(Knows):
        """Finds every class as likely as its number: the last one of all, unless it is ruled out."""

        def predict(self, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
            return np.full(len(batch), 9), np.tile(np.arange(1, 11) / 55, (len(batch), 1))

    run, _ = examined(scenario, Protocol(every=50, beta=0), Liar(10))
    for j, one in enumerate(scenario.experiences):
        assert one.test is not None
        assert run.matrix[-1][j] == (one.test.labels() == max(one.classes)).mean()


class Repeats(Knows):
    """Predicts the last label."""

    last = -1

    def learn(self, batch: Batch) -> Said:
        code = np.append(self.last, batch.y[:-1]).astype(int)
        self.last = int(batch.y[-1])
        return Said(np.ones(len(batch)), code, np.ones(len(batch)))

    def predict(self, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        return np.full(len(batch), self.last), np.zeros((len(batch), self.labels))


def stream_of(y: Sequence[int]) -> Scenario:
    batch = Batch.of(np.zeros((len(y), 1)), np.array(y, float))
    return streams.of("s", "s", ("a",), "binary", batch, (0, 1))


@pytest.mark.parametrize("shift", [0, 3, 25])
def test_near_future_accuracy_looks_so_far_ahead(shift: int) -> None:
    y = np.random.default_rng(1).integers(0, 2, 200)
    run, _ = examined(stream_of(y.tolist()), Protocol(every=10, batch=10, shift=shift), Repeats(2))
    ahead = [(stop - 1, stop + shift + k) for stop in range(10, 201, 10) for k in range(10)]
    right = [y[last] == y[place] for last, place in ahead if place < 200]
    assert run.near_future == {"shift": shift, "accuracy": pytest.approx(np.mean(right))}


def test_the_shift_of_a_stream_is_found() -> None:
    runs = np.tile(np.repeat([0, 1], 30), 20)
    run, _ = examined(stream_of(runs.tolist()), Protocol(), Repeats(2))
    assert 10 <= run.near_future["shift"] <= 16
    assert run.prequential["no_change"] == pytest.approx(1 - 40 / 1200, abs=1e-3)


def test_looking_ahead_crosses_experiences() -> None:
    whole = catalog.build("digits-class", 0, Sizes(events=50, tests=5))
    parts = tuple(replace(one, test=None, train=Given(one.train.batch(0, 50))) for one in whole.experiences)
    run, _ = examined(replace(whole, experiences=parts), Protocol(every=50, shift=0))
    # After an experience the next one's classes are not known: nothing ahead is right.
    assert run.near_future["accuracy"] == 0.0


def test_methods_are_found_and_changed_by_name() -> None:
    found = methods.find("joint-er+buffer.size=50+rate=0.02")
    assert found.joint
    assert found.learner["buffer"] == {"size": 50}
    assert found.learner["rate"] == 0.02
    assert methods.find("linear+optimizer.rate=0.1").learner["optimizer"] == {"kind": "adam", "rate": 0.1}
    assert "size" not in methods.find("er").learner.get("buffer", {})  # nothing was changed in the table
    for wrong in ("nothing", "er+rate", "joint-nothing"):
        with pytest.raises(methods.UnknownMethod):
            methods.find(wrong)


def test_operations_are_passes_times_weights() -> None:
    scenario = catalog.build("digits-class", 0, Sizes(events=10, tests=5))

    def work(name: str) -> float | None:
        found = methods.find(name)
        return methods.flops(found, methods.model(found, scenario, 0), scenario)

    weights = (64 * 256 + 256) + (256 * 256 + 256) + 10 * 257
    assert work("er") == 6 * 2 * weights
    assert work("linear") == 3 * 2 * 10 * 65
    assert work("lda") is None
    assert work("er+network.kind=random_conv+network.patch=3") is None


def test_a_test_is_not_told_the_last_label_and_a_stream_is() -> None:
    classes = catalog.build("digits-class", 0, Sizes(events=10, tests=5))
    held = methods.model(methods.find("lda"), classes, 0)
    assert held.learner.previous_label is False  # type: ignore[attr-defined]
    watched = methods.model(methods.find("drift"), classes, 0)
    assert watched.learner.learner.previous_label is False  # type: ignore[attr-defined]
    stream = catalog.build("shuttle-stream", 0, Sizes(events=100))
    assert methods.model(methods.find("recurrent"), stream, 0).learner.previous_label is True  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("method", "scenario", "standardised"),
    [
        ("ridge", "digits-class", False),
        ("joint-lda", "digits-class", False),
        ("lda+standardise=true", "digits-class", True),
        ("linear", "digits-class", True),
        ("recurrent", "digits-class", True),
        ("ridge", "shuttle-stream", True),
    ],
)
def test_closed_forms_take_what_a_scenario_has_scaled_as_it_is(method, scenario, standardised) -> None:
    built = catalog.build(scenario, 0, Sizes(events=100, tests=5))
    assert methods.model(methods.find(method), built, 0).learner.standardise is standardised  # type: ignore[attr-defined]


def test_floors_are_closed_forms_on_random_features() -> None:
    assert [name for name, method in methods.METHODS.items() if method.floor] == [
        "ridge",
        "ridge-conv",
        "lda-random",
        "lda-conv",
    ]


def test_a_method_for_images_is_told_their_size() -> None:
    scenario = catalog.build("digits-class", 0, Sizes(events=20, tests=10))
    for name, part in (("lda-conv", "features"), ("er+network.kind=resnet18", "network")):
        learner = methods.model(methods.find(name), scenario, 0).learner
        assert getattr(learner, part).image == (1, 8, 8)
    given = methods.model(methods.find("lda-conv+features.image=[1,16,4]+features.patch=2"), scenario, 0).learner
    assert given.features.image == (1, 16, 4)  # type: ignore[attr-defined]
