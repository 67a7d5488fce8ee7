"""River's estimators as learners: the kit, the same answers as River itself, and what is refused."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
from pydantic import ValidationError

from kernels.cpu.layout import LEARNED, NONFINITE
from learners import conformance
from learners.base import MemoryRows
from learners.river import pickles, signing
from learners.spec import ModelSpec
from streams.batch import Batch


def step(path: str, **parameters) -> dict:
    return {"path": f"river.{path}", "parameters": parameters}


SCALED = step("preprocessing.StandardScaler")
TREE = step("tree.HoeffdingTreeClassifier", grace_period=20)
FOREST = step("forest.ARFClassifier", n_models=3, grace_period=20)
LOGISTIC = [SCALED, step("linear_model.LogisticRegression", optimizer=step("optim.Adam", lr=0.01))]
LINEAR = [SCALED, step("linear_model.LinearRegression")]


def make_spec(estimator, target: str = "binary", arrive: str = "immediate", features=None, **learner) -> ModelSpec:
    return ModelSpec.model_validate(
        {
            "name": "m",
            "features": features or [{"name": "a", "missing": "mean"}, "b", {"name": "c", "missing": "mean"}],
            "target": {"kind": target} | ({"max_classes": 8} if target == "multiclass" else {}),
            "labels": {"arrive": arrive, "pending": 3 if arrive == "delayed" else 0},
            "learner": {"kind": "river", "estimator": estimator} | learner,
        }
    )


KIT = {
    "tree": make_spec(TREE, "multiclass", "delayed"),
    "forest": make_spec(FOREST, "binary"),
    "pipeline": make_spec(LOGISTIC, "binary", "delayed"),
    "regressor": make_spec(LINEAR, "regression", "delayed"),
    "changes": make_spec(LINEAR, "regression", predicts="change"),
    "worked out when asked": make_spec(step("linear_model.BayesianLinearRegression"), "regression", "delayed"),
}


@pytest.mark.parametrize("name", conformance.CHECKS)
@pytest.mark.parametrize("learner", KIT)
def test_conformance(learner, name) -> None:
    conformance.check(name, KIT[learner], seed=1)


# The same as River


def events(target: str, rows: int = 600) -> Batch:
    draws = np.random.default_rng(5)
    x = draws.normal(size=(rows, 3)).astype(np.float32)
    score = x[:, 0] * np.where(np.arange(rows) < rows // 2, 1, -1) + draws.normal(0, 0.3, rows)
    x[draws.random(rows) < 0.1, 2] = np.nan
    y = {"binary": score > 0, "multiclass": np.clip(score + 1, 0, 2) // 1, "regression": score}[target]
    key = [b"k%d" % k for k in draws.integers(0, 5, rows)]
    return Batch.of(x, y.astype(float), key=key, classes=("low", "mid", 7) if target == "multiclass" else ())


def by_hand(model, batch: Batch, target: str) -> list:
    """River in a loop, with the key's last label among the features; what it said before each label."""
    last: dict[bytes, float] = {}
    number: dict[float, int] = {}
    said = []
    for t in range(len(batch)):
        key, y = batch.key[t], batch.y[t]
        x = {n: v for n, v in zip("abc", batch.x[t].tolist()) if v == v}  # noqa: PLR0124
        if key in last:
            x["last_label"] = last[key]
        if target == "multiclass":
            y = number.setdefault(y, len(number))
        label = bool(y) if target == "binary" else y
        said.append(model.predict_one(x) if target == "regression" else model.predict_proba_one(x))
        model.learn_one(x, label)
        last[key] = y
    return said


def test_a_tree_says_what_river_says() -> None:
    from river.tree import HoeffdingTreeClassifier

    batch = events("multiclass")
    learner = make_spec(TREE, "multiclass").learner.build(make_spec(TREE, "multiclass"))
    folded = learner.fold(batch)
    said = by_hand(HoeffdingTreeClassifier(grace_period=20), batch, "multiclass")
    assert folded.code.tolist() == [max(given, key=given.get) if given else -1 for given in said]
    best = [max(given.values()) / sum(given.values()) if given else 0.0 for given in said]
    np.testing.assert_allclose(folded.value, best, rtol=1e-14)
    assert (folded.outcome & LEARNED).all()
    assert len(set(folded.value.tolist())) > 100


def test_a_forest_says_what_river_says() -> None:
    from river.forest import ARFClassifier

    batch = events("binary")
    spec = make_spec(FOREST, seed=9)
    folded = spec.learner.build(spec).fold(batch)
    said = by_hand(ARFClassifier(n_models=3, grace_period=20, seed=9), batch, "binary")
    wanted = [given.get(True, 0.0) / sum(given.values()) if given else 0.5 for given in said]
    np.testing.assert_allclose(folded.value, wanted, rtol=1e-14)


def test_a_regression_says_what_river_says() -> None:
    from river import linear_model, preprocessing

    batch = events("regression")
    spec = make_spec(LINEAR, "regression")
    said = by_hand(preprocessing.StandardScaler() | linear_model.LinearRegression(), batch, "regression")
    assert spec.learner.build(spec).fold(batch).value.tolist() == said


def test_changes_are_from_the_last_label() -> None:
    from river import linear_model

    spec = make_spec(step("linear_model.LinearRegression"), "regression", predicts="change", previous_label=False)
    batch = Batch.of(np.ones((2, 3)), np.array([5.0, 6.0]))
    model = linear_model.LinearRegression()
    x = dict.fromkeys("abc", 1.0)
    model.learn_one(x, 5.0)
    value = spec.learner.build(spec).fold(batch).value.tolist()
    assert value == [0.0, 5.0 + model.predict_one(x)]


def test_categories_are_whole_numbers_and_others_are_missing() -> None:
    spec = make_spec(TREE, features=[{"name": "a", "categories": 3}, "b"])
    learner = spec.learner.build(spec)
    given = [learner._named(row) for row in ([2.0, 0.5, np.nan], [3.0, 0.5, 1.0], [0.5, 0.5, 1.0])]
    assert given == [{"a": 2, "b": 0.5}, {"b": 0.5, "last_label": 1.0}, {"b": 0.5, "last_label": 1.0}]
    assert type(given[0]["a"]) is int


def test_what_is_not_finite_is_not_served() -> None:
    """Weights that have overflowed: the last label is served, and counted as not finite."""
    spec = make_spec(step("linear_model.LinearRegression", clip_gradient=1e300), "regression")
    y = np.linspace(1.0, 50.0, 50)
    folded = spec.learner.build(spec).fold(Batch.of(np.full((50, 3), 1e30), y))
    lost = folded.outcome & NONFINITE > 0
    assert lost[-30:].all()
    assert not lost[0]
    assert (folded.outcome[~lost] & LEARNED).all()
    assert not (folded.outcome[lost] & LEARNED).any()
    assert folded.value[-30:].tolist() == y[-31:-1].tolist()
    assert np.isfinite(folded.value).all()


def test_what_says_nothing_finite_at_first_learns_all_the_same() -> None:
    """River's smallest and largest are infinite before they have seen a feature, also one that comes later."""
    scaled = [step("preprocessing.MinMaxScaler"), step("linear_model.LogisticRegression")]
    for estimator, target in ((scaled, "binary"), (step("forest.AMFRegressor", n_estimators=2), "regression")):
        spec = make_spec(estimator, target)
        batch = events(target)
        folded = spec.learner.build(spec).fold(batch)
        assert np.isfinite(folded.value).all()
        assert (folded.outcome[100:] & LEARNED).all()
        assert len(set(folded.value.tolist())) > 500


# State


@pytest.mark.parametrize("learner", KIT)
def test_a_state_is_written_the_same_after_it_was_read(learner) -> None:
    spec = KIT[learner]
    built = spec.learner.build(spec)
    built.fold(events(spec.target.kind))
    data = built.shared_arrays()["estimator"].tobytes()
    assert pickles.dump(pickles.load(data)) == data
    other = spec.learner.build(spec)
    other.load(built.shared_arrays(), built.rows.cold)
    assert pickles.dump(other._model.estimator) == data


PRINT_DIGESTS = """
from test_river import KIT, events
for spec in KIT.values():
    learner = spec.learner.build(spec)
    learner.fold(events(spec.target.kind))
    print(learner.digest())
"""


def test_every_process_gives_the_same_digest() -> None:
    """However texts hash there."""
    said = []
    for seed in ("1", "2"):
        path = os.pathsep.join([os.getcwd(), os.path.dirname(__file__)])
        env = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": path}
        command = [sys.executable, "-c", PRINT_DIGESTS]
        said.append(subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout)
    assert said[0] == said[1]
    assert len(said[0].split()) == len(KIT)


def test_sets_shared_objects_and_numpy_keep_their_form() -> None:
    shared = {3, 1, 2}
    text = "".join(["a", "b"])
    value = {"x": [shared, shared, frozenset({"b", "a"})], "y": (text, "ab", np.float64(2.5)), "z": np.eye(3)[:, ::2]}
    same = {"x": [*[{2, 3, 1}] * 2, frozenset({"a", "b"})], "y": ("ab", text, np.float64(2.5)), "z": np.eye(3)[:, ::2]}
    assert pickles.dump(value) == pickles.dump(same)
    back = pickles.load(pickles.dump(value))
    assert back["x"] == value["x"]
    assert back["x"][0] is back["x"][1]
    assert back["y"] == value["y"]
    assert type(back["y"][2]) is np.float64
    assert back["z"].tobytes() == value["z"].tobytes()
    two = {"x": [{1, 2, 3}, {1, 2, 3}, frozenset({"b", "a"})], "y": value["y"], "z": value["z"]}
    assert pickles.dump(two) != pickles.dump(value), "two sets that may part are not one set"


def test_objects_without_an_order_are_refused_in_sets() -> None:
    with pytest.raises(pickles.NotRestorable, match="object has no order"):
        pickles.dump({object(), object()})


# Signatures


@pytest.fixture
def folded():
    spec = KIT["pipeline"]
    learner = spec.learner.build(spec)
    learner.fold(events("binary", 50))
    return learner


@pytest.mark.parametrize("how", ["tampered", "unsigned", "cut off", "moved", "of another model"])
def test_what_is_not_signed_is_not_read(folded, how) -> None:
    other = folded.spec.learner.build(folded.spec)
    other.fold(events("binary", 20))
    digest = other.digest()
    arrays = {name: array.copy() for name, array in folded.shared_arrays().items()}
    if how == "tampered":
        arrays["estimator"][-20] ^= 1
    elif how == "unsigned":
        del arrays["signature"]
    elif how == "cut off":
        arrays["signature"] = arrays["signature"][:16]
    elif how == "moved":
        arrays["counters"][0] += 1
    else:
        spec = make_spec(LOGISTIC, "binary")
        arrays = spec.learner.build(spec).shared_arrays()
    with pytest.raises(signing.Unsigned, match="not signed with this deployment's key"):
        other.load(arrays, MemoryRows())
    assert other.digest() == digest


def test_another_key_signs_otherwise(folded, monkeypatch) -> None:
    arrays = folded.shared_arrays()
    monkeypatch.setattr(signing, "_key", b"k" * 32)
    with pytest.raises(signing.Unsigned):
        folded.load(arrays, MemoryRows())
    assert folded.shared_arrays()["signature"].tobytes() != arrays["signature"].tobytes()
    assert folded.shared_arrays()["estimator"].tobytes() == arrays["estimator"].tobytes()


class Evil:
    def __init__(self, call) -> None:
        self.call = call

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    "call",
    [(os.system, ("true",)), (eval, ("1",)), (getattr, ({}, "keys")), (pickle.loads, (b"N.",)), (np.load, ("x",))],
    ids=lambda call: call[0].__name__,
)
def test_a_signed_pickle_may_not_call_what_it_likes(call) -> None:
    """The second line: the reader knows what an estimator needs."""
    with pytest.raises(pickles.NotRestorable, match="no state of a River estimator needs"):
        pickles.load(pickle.dumps(Evil(call)))


def test_names_do_not_lead_out_of_river() -> None:
    """`river.base.base` imports the module `copy`."""
    data = b"\x80\x04\x8c\x0friver.base.base\x8c\x09copy.copy\x93."
    assert pickle.loads(data).__module__ == "copy"
    with pytest.raises(pickles.NotRestorable, match=r"the state names river\.base\.base\.copy"):
        pickles.load(data)


def test_the_key_of_a_folder_is_made_once_and_for_its_owner(tmp_path, monkeypatch) -> None:
    path = signing.make_key(tmp_path / "data")
    key = signing.find_key(str(path))
    assert signing.make_key(tmp_path / "data") == path
    assert signing.find_key(str(path)) == key
    assert path.stat().st_mode & 0o777 == 0o600
    assert len(key) == 64
    assert signing.make_key(tmp_path / "other").read_text() != path.read_text()
    assert [file.name for file in (tmp_path / "data").iterdir()] == [signing.FILE]
    monkeypatch.setenv(signing.VARIABLE, " from the environment\n")
    assert signing.find_key() == b"from the environment"
    assert signing.find_key(str(path)) == key
    with pytest.raises(ValueError, match="got 20 bytes; accepted: 32 random bytes or more"):
        signing.set_key(signing.find_key())


@pytest.mark.parametrize("path", ["/run/secrets/the-key-of-continual", "~/key", "./keys/signing.key"])
def test_a_path_is_not_taken_for_a_key(path, monkeypatch) -> None:
    monkeypatch.setenv(signing.VARIABLE, path)
    with pytest.raises(ValueError, match=r"CONTINUAL_SIGNING_KEY holds what looks like the path.*--signing-key FILE"):
        signing.find_key()


def test_a_path_from_here_is_not_taken_for_a_key_and_a_key_with_slashes_is_one(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a-folder-with-secrets").mkdir()
    path = signing.make_key(tmp_path / "a-folder-with-secrets").relative_to(tmp_path)
    monkeypatch.setenv(signing.VARIABLE, str(path))
    with pytest.raises(ValueError, match="looks like the path"):
        signing.find_key()
    key = "mZ2/kf0v1Bh5yKq0/9sXw1u8m3nQ4tPz6rJ7cLd0aE8="  # base64 has slashes too
    monkeypatch.setenv(signing.VARIABLE, key)
    assert signing.find_key() == key.encode()


# What a spec may say


@pytest.mark.parametrize(
    ("estimator", "target", "message"),
    [
        ({"path": "os.system"}, "binary", "got 'os.system'; accepted: the import path of one of River's classes"),
        ({"path": "river"}, "binary", "got 'river'; accepted"),
        ({"path": "river.base.base.copy.copy"}, "binary", "accepted: a class of river.active, river.anomaly"),
        ({"path": "river.tree.base.copy.copy"}, "binary", "accepted: the import path"),
        ({"path": "river.stream.Cache"}, "binary", "accepted: a class of river.active"),
        (step("compose.FuncTransformer", func="abs"), "binary", "it is a function, and a spec names none"),
        (step("neighbors.KNNClassifier", engine=step("neighbors.LazySearch", dist_func="abs")), "binary", "a function"),
        ({"path": "river.tree.hoeffding_tree.collections.deque"}, "binary", "cannot be imported"),
        ({"path": "river.tree._x.Y"}, "binary", "accepted: the import path"),
        ({"path": "river.datasets.Elec2"}, "binary", "accepted: a class of river.active"),
        ({"path": "river.tree.Nothing"}, "binary", "cannot be imported"),
        ({"path": "river.base.Classifier"}, "binary", "accepted: a class of river.active"),
        ({"path": "river.metrics.base.Metric"}, "binary", "not a class of River to be built"),
        ({"path": "river.stats.base.numbers"}, "binary", "accepted"),
        (step("tree.HoeffdingTreeClassifier", grace=5), "binary", "got 'grace'; accepted: grace_period, max_depth"),
        (step("ensemble.BaggingClassifier"), "binary", "'model' is missing and has no default"),
        (step("ensemble.BaggingClassifier", model={"path": "os.system"}), "binary", "got 'os.system'; accepted"),
        (step("linear_model.LogisticRegression", l2=float("inf")), "binary", "'l2'.*got inf; accepted: finite"),
        (step("linear_model.LogisticRegression", l1=1.0, l2=1.0), "binary", "River refuses it"),
        (step("tree.HoeffdingTreeClassifier"), "regression", "not a regressor"),
        (step("tree.HoeffdingTreeRegressor"), "binary", "not a classifier"),
        (step("linear_model.LogisticRegression"), "multiclass", "OneVsRestClassifier"),
        (step("anomaly.HalfSpaceTrees"), "binary", "not a classifier"),
        (SCALED, "binary", "not a classifier"),
        (step("linear_model.LogisticRegression", optimizer=3), "binary", "it fails on events.*AttributeError"),
        (step("neighbors.KNNClassifier", engine=step("neighbors.SWINN")), "binary", "state outside its instances"),
        (step("neighbors.KNNClassifier"), "binary", "SWINN keeps state outside .*LazySearch"),
        (
            [step("feature_extraction.RandomTreesEmbedding"), step("linear_model.LogisticRegression")],
            "binary",
            "RandomTreesEmbedding knows its parts by their addresses",
        ),
        ([step("preprocessing.LDA"), step("linear_model.LogisticRegression")], "binary", "a prediction changes"),
        ([], "binary", "at least 1 item"),
    ],
    ids=str,
)
def test_what_river_has_not_is_refused(estimator, target, message) -> None:
    with pytest.raises(ValidationError, match=message):
        make_spec(estimator, target)


def test_names_of_the_learner_are_not_features() -> None:
    with pytest.raises(ValidationError, match="rename, or set previous_label: false"):
        make_spec(TREE, features=["a", "last_label"])
    assert make_spec(TREE, features=["a", "last_label"], previous_label=False)


def test_pipelines_unions_and_nested_steps() -> None:
    union = step(
        "compose.TransformerUnion",
        transformers=[
            step("compose.Select", keys=["a"]),
            {"pipeline": [step("compose.Select", keys=["c", "b"]), SCALED]},
        ],
    )
    bagged = step("ensemble.LeveragingBaggingClassifier", model=TREE, n_models=2)
    spec = make_spec([union, bagged], features=["a", "b", "c"])
    assert ModelSpec.model_validate_json(spec.to_json()) == spec
    learner = spec.learner.build(spec)
    learner.fold(Batch.of(np.nan_to_num(events("binary").x), events("binary").y))
    seeded = learner._model.estimator["LeveragingBaggingClassifier"]
    assert (type(seeded.model).__name__, seeded.seed) == ("HoeffdingTreeClassifier", spec.learner.seed)
    selected = dict(learner._model.estimator["TransformerUnion"].transformers)["Pipeline"]["Select"]
    assert list(selected.transform_one({"a": 1.0, "b": 2.0, "c": 3.0})) == ["c", "b"], "not the order of a set"


@pytest.mark.skipif(not sys.flags.hash_randomization, reason="texts hash the same everywhere here")
def test_what_depends_on_hashing_needs_a_fixed_seed() -> None:
    """Each clone of a selection keeps its names in a set again."""
    two = {"pipeline": [step("compose.Select", keys=["b", "a"]), step("linear_model.LogisticRegression")]}
    for estimator in (step("ensemble.BaggingClassifier", model=two), step("rules.AMRules")):
        target = "regression" if "AMRules" in estimator["path"] else "binary"
        with pytest.raises(ValidationError, match=r"depends on how texts hash.*PYTHONHASHSEED=0"):
            make_spec(estimator, target, features=["a", "b"], previous_label=False)


def test_the_package_of_river_is_river() -> None:
    import river

    import learners.methods.river as ours

    assert ours.__name__ == "learners.methods.river"
    assert "learners" not in river.__file__
