"""Methods by name: the learner part of a spec, as data, with a sentence on each for the reader of a table.

A method is not a class: what is benched is the spec that is deployed. `er+rate=0.1` is `er` with that field changed,
`er+buffer.size=1000` with a field further in; `joint-er` is `er` on the events in a random order.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

from continual.scenarios.scenario import Scenario
from learners.spec import LearnerSpec, ModelSpec
from learners.yaml12 import from_yaml

JOINT = "joint-"

REFERENCE_COST = 6.0
"""Passes of experience replay: the learner for which the stream that does not wait is just slow enough."""


@dataclass(frozen=True)
class Method:
    """A learner to run.

    Attributes:
        name: shown.
        learner: the learner part of the spec, but for the seed.
        note: what it is, one sentence.
        rate: the field that holds its step size, by dots; "": it has none to choose.
        cost: forward passes for one event of the stream, a step of plain descent being 3 (one forward, two backward);
            0: not counted this way.
        closed: its head learns in closed form. Where a scenario scales the features beforehand it takes them as they
            are: running moments would follow the classes of the hour, and the solution the order of events.
        joint: the events are learned in a random order.
        changed: fields that the name itself changes, by dots.
    """

    name: str
    learner: Mapping[str, Any]
    note: str
    rate: str = ""
    cost: float = 0.0
    closed: bool = False
    joint: bool = False
    changed: tuple[str, ...] = ()

    @property
    def floor(self) -> bool:
        """Whether it is a closed form on fixed random features: what learns its features should do better."""
        return self.closed and self.learner.get("features", {}).get("kind", "raw") != "raw"


class UnknownMethod(ValueError):  # noqa: N818 - named after what it is
    """No method has this name."""


_RANDOM = {"kind": "random", "units": 500}
_FILTERS = {"kind": "random_conv"}
_SEE_IMAGES = ("random_conv", "resnet18")
"""Kinds of features and of networks that are told the size of an image."""


def _static(head: dict[str, Any], features: Mapping[str, Any] | None = None) -> dict[str, Any]:
    return {"kind": "static", "head": head, **({"features": features} if features else {})}


def _closed(name: str, head: dict[str, Any], note: str, features: Mapping[str, Any] | None = None) -> Method:
    return Method(name, _static({**head, "inputs": False} if features else head, features), note, closed=True)


def _river(*steps: dict[str, Any]) -> dict[str, Any]:
    return {"kind": "river", "estimator": [{"path": "river.preprocessing.StandardScaler"}, *steps]}


def _replay(kind: str, note: str, cost: float, **fields: Any) -> Method:
    return Method(fields.pop("name", kind.replace("_", "-")), {"kind": kind, **fields}, note, rate="rate", cost=cost)


_TABLE = (
    Method(
        "linear",
        _static({"kind": "linear"}),
        "A linear softmax on the inputs, one step of Adam per label.",
        rate="optimizer.rate",
        cost=3,
    ),
    _closed(
        "ridge",
        {"kind": "ridge", "penalties": [100.0]},
        "Recursive ridge on 500 rectified random features: the joint solution in any order, and a floor for what is "
        "learned by descent.",
        _RANDOM,
    ),
    _closed(
        "ridge-raw",
        {"kind": "ridge", "penalties": [1.0, 100.0]},
        "Recursive ridge on the inputs as they are, two penalties mixed.",
    ),
    _closed(
        "ridge-conv",
        {"kind": "ridge", "penalties": [10.0]},
        "Recursive ridge on a frozen encoder of images: 256 random filters, averaged over a grid of 2 x 2: a floor.",
        _FILTERS,
    ),
    _closed(
        "lda",
        {"kind": "lda"},
        "Streaming linear discriminant analysis (Hayes & Kanan 2020) on the inputs, with the exact scatter.",
    ),
    _closed(
        "lda-random",
        {"kind": "lda"},
        "Streaming linear discriminant analysis on 500 rectified random features (as RanDumb does): a floor.",
        _RANDOM,
    ),
    _closed(
        "lda-conv",
        {"kind": "lda"},
        "Streaming linear discriminant analysis on the same frozen random filters: a floor.",
        _FILTERS,
    ),
    _closed("nearest-mean", {"kind": "nearest_mean"}, "The class whose mean is nearest."),
    _closed(
        "neighbours",
        {"kind": "neighbours", "memory": 1000},
        "The 10 nearest of the last 1,000 examples vote; what is older is gone.",
    ),
    Method(
        "kalman",
        _static({"kind": "kalman"}),
        "A bank of filters that forget at four rates, on the inputs: for streams whose laws change.",
    ),
    _replay("finetune", "A perceptron 256-256 by descent on mini-batches of 10, without a memory: the lower bound.", 3),
    _replay("er", "Experience replay: with each mini-batch 10 events from a reservoir of 200.", 6),
    _replay("er_ace", "ER, but the loss of the stream is over the classes of its batch and those not met yet.", 6),
    _replay("der", "DER++: the buffer keeps logits beside labels, and both are replayed.", 9),
    _replay("agem", "A-GEM: the gradient is projected where it would raise the loss of a draw from the buffer.", 6),
    _replay("mir", "MIR: of 50 events drawn those are replayed whose loss a step on the stream raises most.", 15),
    _replay("uer", "UER: the stream is learned by cosines over 0.1, the buffer by dot products, without a bias.", 6),
    _replay(
        "uer",
        "UER's ablation: cosines over 0.1 for stream, buffer and prediction alike.",
        6,
        name="cosine",
        replayed="cosine",
        predicts="cosine",
    ),
    _replay("pcr", "PCR: proxies of the classes in place of samples in a contrastive loss on batch and buffer.", 6),
    _replay("ewc", "Online EWC: weights that were important are held near what they were; no memory of events.", 4),
    _replay(
        "pec",
        "PEC: for each class a small network that imitates a fixed random one; the class whose network does it best.",
        0,
    ),
    Method(
        "recurrent",
        {"kind": "recurrent"},
        "The default of the service: a minGRU layer of 64 units with exact gradients, and the key's last label.",
        rate="optimizer.rate",
    ),
    Method(
        "recurrent-kalman",
        {"kind": "recurrent", "head": {"kind": "kalman"}},
        "The recurrent layer of the default with a bank of filters on top.",
    ),
    Method(
        "drift",
        {"kind": "drift"},
        "The default recurrent learner, watched by ADWIN; what it does about a drift is a field (`reaction`).",
    ),
    Method(
        "river-linear",
        _river({"path": "river.linear_model.LogisticRegression"}),
        "River: standard scaler and logistic regression (two classes).",
    ),
    Method(
        "river-tree",
        _river({"path": "river.tree.HoeffdingTreeClassifier"}),
        "River: standard scaler and Hoeffding tree.",
    ),
    Method(
        "river-bayes",
        _river({"path": "river.naive_bayes.GaussianNB"}),
        "River: Gaussian naive Bayes.",
    ),
    Method(
        "river-regression",
        _river({"path": "river.linear_model.LinearRegression"}),
        "River: standard scaler and linear regression, given the last label.",
    ),
)

METHODS = {method.name: method for method in _TABLE}

DEFAULT = ("nearest-mean", "lda", "ridge", "linear")
"""Run where the scenario has tests and no methods are named."""

DEFAULT_STREAM = ("recurrent", "kalman")
"""Run on a stream where no methods are named."""


def find(name: str) -> Method:
    """A method by name, with the changes that the name carries.

    Raises:
        UnknownMethod: saying what is known.
    """
    base, *changes = name.split("+")
    joint = base.startswith(JOINT)
    found = METHODS.get(base.removeprefix(JOINT))
    if found is None:
        known = ", ".join(METHODS)
        raise UnknownMethod(f"no method {name!r}; known: {known}, each also as {JOINT}NAME or NAME+field=value")
    learner: dict[str, Any] = deepcopy(dict(found.learner))
    for change in changes:
        path, equals, value = change.partition("=")
        if not equals:
            raise UnknownMethod(f"{name!r}: {change!r} changes nothing; accepted: field=value, e.g. rate=0.1")
        learner = put(learner, path, from_yaml(value))
    changed = tuple(change.partition("=")[0] for change in changes)
    note = found.note + (f" With {', '.join(changes)}." if changes else "")
    if joint:
        note += " Here on the events of all experiences in one random order: an upper bound."
    return replace(found, name=name, learner=learner, note=note, joint=joint, changed=changed)


def put(learner: Mapping[str, Any], path: str, value: Any) -> dict[str, Any]:
    """The learner part of a spec with the field at a path of dots set."""
    out = deepcopy(dict(learner))
    *above, last = path.split(".")
    inner = out
    for name in above:
        inner = inner.setdefault(name, {})
    if last == "rate" and above == ["optimizer"]:
        inner.setdefault("kind", "adam")
    inner[last] = value
    return out


def model(method: Method, scenario: Scenario, seed: int, name: str = "bench") -> ModelSpec:
    """The spec of a method for a scenario: what a service would be given.

    Raises:
        pydantic.ValidationError: the method does not go with the scenario, or a change is none.
    """
    target: dict[str, Any] = {"kind": scenario.target}
    if scenario.target == "multiclass":
        target["max_classes"] = max(2, len(scenario.labels))
    elif scenario.target == "binary":
        target["labels"] = scenario.labels
    learner = {**deepcopy(dict(method.learner)), "seed": seed}
    if scenario.tested:
        _stand_apart(learner)
        if method.closed:
            learner.setdefault("standardise", False)
    if len(scenario.shape) >= 2:
        for part in ("network", "features"):
            held = learner.get(part, {})
            if held.get("kind") in _SEE_IMAGES:
                learner[part] = {"image": [1, *scenario.shape][-3:], **held}
    features = [{"name": one, "missing": "mean"} if one in scenario.missing else one for one in scenario.features]
    return ModelSpec.model_validate({"name": name, "features": features, "target": target, "learner": learner})


def _stand_apart(learner: dict[str, Any]) -> None:
    """A test stands apart from the stream: the last label that was learned says nothing of it."""
    fields = LearnerSpec.known()[learner.get("kind", LearnerSpec.plain)].model_fields
    if "previous_label" in fields:
        learner.setdefault("previous_label", False)
    if "learner" in fields:
        _stand_apart(learner.setdefault("learner", {}))


def flops(method: Method, spec: ModelSpec, scenario: Scenario) -> float | None:
    """Floating-point operations to learn one event: passes x 2 x weights; None where weights do not tell.

    They tell of a perceptron and of a linear head on the inputs; a filter of a convolution is used many times.
    """
    learner: Any = spec.learner
    features, classes = len(scenario.features), max(2, len(scenario.labels))
    network = getattr(learner, "network", None)
    if not method.cost or (network is not None and network.kind != "mlp"):
        return None
    below = 0 if network is None else network.numbers(features)
    top = features if network is None else network.top(features)
    return method.cost * 2 * (below + classes * (top + 1))
