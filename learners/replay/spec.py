"""The fields that the specs of learners from mini-batches share."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from learners.replay.classifier import Body, Classifier
from learners.replay.learner import MiniBatchLearner
from learners.replay.memory import Buffer, Memory
from learners.replay.method import Method, Model, Replaying
from learners.replay.network import Mlp
from learners.spec import LearnerSpec, ModelSpec, MulticlassTarget, Strict

MAX_BYTES = 1 << 30
"""Bound on the weights, and on the buffer."""

Units = Annotated[int, Field(ge=1, le=65_536)]


class Perceptron(Strict):
    """Rectified layers under the rows of the classes."""

    kind: Literal["mlp"] = "mlp"
    hidden: tuple[Units, ...] = Field((256, 256), max_length=16, description="Units of each layer; none: linear.")

    def inputs(self, features: int) -> int:
        """J, how many numbers of an event are learned from and kept."""
        return features

    def encode(self, x: np.ndarray) -> np.ndarray:
        """[n, J]: what is learned from and kept of events."""
        return x

    def body(self, features: int, seed: int, dtype: np.dtype) -> Body:
        """The network with its initial weights."""
        return Mlp(self.inputs(features), self.hidden, seed, dtype)

    def numbers(self, features: int) -> int:
        """How many weights there are below the head."""
        sizes = [self.inputs(features), *self.hidden]
        return sum(a * b + b for a, b in zip(sizes, sizes[1:]))

    def top(self, features: int) -> int:
        """H, how many numbers the head sees."""
        return self.hidden[-1] if self.hidden else self.inputs(features)

    def check(self, model: ModelSpec) -> None:
        """Refuses a model that it does not fit.

        Raises:
            ValueError: naming the field, its value, and what is accepted.
        """


Network = Perceptron


class MiniBatchSpec(LearnerSpec):
    """What all of them share."""

    batch: int = Field(10, ge=1, le=4096, description="Labels of the log to a mini-batch: a step is taken at the last.")
    rate: float = Field(0.05, gt=0, le=100, description="Step size of the descent.")
    standardise: bool = Field(
        False,
        description="Inputs are standardised by running moments of the features. Without it they are taken as they "
        "are, which suits pixels in [0, 1]; features of very different sizes need it.",
    )
    window: int = Field(5000, ge=2, description="Events over which means and deviations run.")
    clip: float = Field(5.0, gt=0, le=1e3, description="Bound on a standardised input, in deviations.")
    dtype: Literal["float32", "float64"] = Field("float32", description="Type of weights and buffer.")

    def model(self, features: int) -> Model:
        """What is trained, fresh."""
        raise NotImplementedError(f"learner kind {self.kind!r} has no model")

    def encoded(self, features: int) -> int:
        """J, how many numbers of an event are learned from and kept."""
        return features

    def encode(self, x: np.ndarray) -> np.ndarray:
        """[n, J]: what is learned from and kept of events, each row on its own."""
        return x

    def build(self, model: ModelSpec) -> MiniBatchLearner:
        """A fresh learner for `model`."""
        return MiniBatchLearner(model)

    def check(self, model: ModelSpec) -> None:
        """See `learners.spec.LearnerSpec`.

        Raises:
            ValueError: the target is a number, features have categories, or the state would be too large.
        """
        if model.target.kind == "regression":
            raise ValueError(f"learner {self.kind!r} learns classes; accepted targets: binary, multiclass")
        categorical = [feature.name for feature in model.features if feature.categories]
        if categorical:
            raise ValueError(
                f"features {categorical[:10]} have categories, learner {self.kind!r} accepts numbers only: give one "
                "feature of 0 or 1 for each category"
            )
        held = np.dtype(self.dtype).itemsize * model.labels.pending * self.encoded(len(model.features))
        if held > 64 << 20:
            raise ValueError(
                f"labels.pending {model.labels.pending}: the observations held for a key take {held} bytes, at most "
                f"{64 << 20} are accepted"
            )


def classes_of(model: ModelSpec) -> int:
    """The most classes that a model may have."""
    return model.target.max_classes if isinstance(model.target, MulticlassTarget) else 2


class NetworkSpec(MiniBatchSpec):
    """A network that is trained, without a buffer."""

    network: Network = Field(default_factory=Perceptron, description="What is trained.")
    bias: bool = Field(True, description="Whether logits by products have a bias.")

    method: ClassVar[type[Method]]

    def encoded(self, features: int) -> int:
        """See `MiniBatchSpec`."""
        return self.network.inputs(features)

    def encode(self, x: np.ndarray) -> np.ndarray:
        """See `MiniBatchSpec`."""
        return self.network.encode(x)

    def classifier(self, features: int) -> Classifier:
        """The network with its head, fresh."""
        body = self.network.body(features, self.seed, np.dtype(self.dtype))
        return Classifier(body, self.seed, self.bias, self.predicts_by_angles())

    def predicts_by_angles(self) -> float:
        """The temperature of predictions by angles; 0: they are by products."""
        return 0.0

    def model(self, features: int) -> Model:
        """See `MiniBatchSpec`."""
        return self.method(self, self.classifier(features))

    def check(self, model: ModelSpec) -> None:
        """See `MiniBatchSpec`."""
        super().check(model)
        self.network.check(model)
        features, size = len(model.features), np.dtype(self.dtype).itemsize
        weights = size * (self.network.numbers(features) + classes_of(model) * (self.network.top(features) + 1))
        if weights > MAX_BYTES:
            raise ValueError(f"the network takes {weights} bytes with all classes, at most {MAX_BYTES} are accepted")


class ReplaySpec(NetworkSpec):
    """A network that is trained, and a buffer of what it has seen."""

    buffer: Buffer = Field(default_factory=Buffer, description="What is kept of the past.")
    replay: int = Field(10, ge=1, le=4096, description="Events of the buffer that are learned again at a step.")

    method: ClassVar[type[Replaying]]  # type: ignore[assignment]

    def model(self, features: int) -> Model:
        """See `MiniBatchSpec`."""
        net = self.classifier(features)
        memory = Memory(self.buffer, self.encoded(features), self.seed, np.dtype(self.dtype), self.method.NOTED)
        return self.method(self, net, memory)

    def check(self, model: ModelSpec) -> None:
        """See `MiniBatchSpec`."""
        super().check(model)
        needed, field = self.least_held()
        if self.buffer.size < needed:
            raise ValueError(f"buffer.size {self.buffer.size}: accepted: {field} ({needed}) or more")
        notes = classes_of(model) if self.method.NOTED else 0
        held = np.dtype(self.dtype).itemsize * self.buffer.size * (self.encoded(len(model.features)) + notes)
        if held > MAX_BYTES:
            raise ValueError(f"buffer.size {self.buffer.size} takes {held} bytes, at most {MAX_BYTES} are accepted")

    def least_held(self) -> tuple[int, str]:
        """How many events the buffer must have room for, and the field that says so."""
        return self.replay, "replay"
