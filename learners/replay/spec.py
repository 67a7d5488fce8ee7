"""The fields that the specs of learners from mini-batches share."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import BeforeValidator, Field

from learners.filters import FilterFields, Image, RandomFilters, check_image
from learners.replay.classifier import Body, Classifier
from learners.replay.learner import MiniBatchLearner
from learners.replay.memory import Buffer, Memory
from learners.replay.method import Method, Model, Replaying
from learners.replay.network import Mlp
from learners.spec import LearnerSpec, ModelSpec, MulticlassTarget, Strict

MAX_BYTES = 1 << 30
"""Bound on the weights, and on the buffer."""

Units = Annotated[int, Field(ge=1, le=65_536)]

Encoder = Callable[[np.ndarray], np.ndarray]
"""From prepared features [n, F] to what is learned from and kept [n, J], each row on its own."""


class Perceptron(Strict):
    """Rectified layers under the rows of the classes."""

    kind: Literal["mlp"] = "mlp"
    hidden: tuple[Units, ...] = Field((256, 256), max_length=16, description="Units of each layer; none: linear.")

    def inputs(self, features: int) -> int:
        """J, how many numbers of an event are learned from and kept."""
        return features

    def encoder(self, seed: int, dtype: np.dtype) -> Encoder:
        """What is learned from and kept of events."""
        return lambda x: x

    def body(self, features: int, seed: int, dtype: np.dtype) -> Body:
        """The network with its initial weights."""
        return Mlp(self.inputs(features), self.hidden, seed, dtype)

    def numbers(self, features: int) -> int:
        """How many weights there are below the head."""
        sizes = [self.inputs(features), *self.hidden]
        return sum(a * b + b for a, b in pairwise(sizes))

    def top(self, features: int) -> int:
        """H, how many numbers the head sees."""
        return self.hidden[-1] if self.hidden else self.inputs(features)

    def numerics(self) -> dict[str, str]:
        """What its bits depend on beside the compiled kernels."""
        return {}

    def check(self, model: ModelSpec, batch: int) -> None:
        """Refuses a model that it does not fit.

        Raises:
            ValueError: naming the field, its value, and what is accepted.
        """


class RandomConvolution(FilterFields, Perceptron):
    """Fixed random filters over an image, rectified and averaged over a grid; a perceptron or a line on top learns."""

    kind: Literal["random_conv"] = "random_conv"  # type: ignore[assignment]
    hidden: tuple[Units, ...] = Field((), max_length=16, description="Units of each layer on top; none: linear.")

    def inputs(self, features: int) -> int:
        """See `Perceptron`."""
        return self.size

    def encoder(self, seed: int, dtype: np.dtype) -> Encoder:
        """See `Perceptron`."""
        return RandomFilters(self, seed, dtype)

    def check(self, model: ModelSpec, batch: int) -> None:
        """See `Perceptron`."""
        self.check_filters(len(model.features), "network")


class ResNet18(Strict):
    """The reduced ResNet-18 of the online literature, trained from its first event on."""

    kind: Literal["resnet18"] = "resnet18"
    image: Image
    width: int = Field(20, ge=1, le=256, description="Channels of the first stage.")

    def inputs(self, features: int) -> int:
        """See `Perceptron`."""
        return features

    def encoder(self, seed: int, dtype: np.dtype) -> Encoder:
        """See `Perceptron`."""
        return lambda x: x

    def body(self, features: int, seed: int, dtype: np.dtype) -> Body:
        """See `Perceptron`."""
        from learners.replay.resnet import ResNet  # PyTorch is imported by those who need it

        return ResNet(self.image, self.width, seed, dtype)

    def numbers(self, features: int) -> int:
        """See `Perceptron`: of the convolutions, about."""
        return 9 * self.width * self.image[0] + 1232 * self.width**2

    def top(self, features: int) -> int:
        """See `Perceptron`."""
        return 8 * self.width

    def numerics(self) -> dict[str, str]:
        """See `Perceptron`."""
        from learners.replay.resnet import numerics

        return numerics()

    def check(self, model: ModelSpec, batch: int) -> None:
        """See `Perceptron`."""
        check_image(self.image, len(model.features), "network.image")
        if batch < 2:
            raise ValueError(f"batch {batch}: batch normalisation of network 'resnet18' accepts 2 or more")


def _plain_kind(value: Any) -> Any:
    """A network without a kind is a perceptron."""
    return {"kind": "mlp", **value} if isinstance(value, dict) else value


Network = Annotated[
    Perceptron | RandomConvolution | ResNet18, Field(discriminator="kind"), BeforeValidator(_plain_kind)
]


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

    default_labels: ClassVar[bool] = False

    def model(self, features: int) -> Model:
        """What is trained, fresh."""
        raise NotImplementedError(f"learner kind {self.kind!r} has no model")

    def encoded(self, features: int) -> int:
        """J, how many numbers of an event are learned from and kept."""
        return features

    def encoder(self) -> Encoder:
        """From prepared features to what is learned from and kept."""
        return lambda x: x

    def rehearsal(self) -> int:
        """See `learners.spec.LearnerSpec`: up to a step."""
        return self.batch

    def build(self, model: ModelSpec) -> MiniBatchLearner:
        """A fresh learner for `model`."""
        return MiniBatchLearner(model)

    def check(self, model: ModelSpec) -> None:
        """See `learners.spec.LearnerSpec`.

        Raises:
            ValueError: the target is a number, features have categories, labels are to be learned in a way that it
                cannot, or the state would be too large.
        """
        if model.target.kind == "regression":
            raise ValueError(f"learner {self.kind!r} learns classes; accepted targets: binary, multiclass")
        categorical = [feature.name for feature in model.features if feature.categories]
        if categorical:
            raise ValueError(
                f"features {categorical[:10]} have categories, learner {self.kind!r} accepts numbers only: give one "
                "feature of 0 or 1 for each category"
            )
        if model.labels.credit != "exact":
            raise ValueError(f"labels.credit {model.labels.credit!r}: learner {self.kind!r} accepts 'exact' only")
        if model.labels.default_label is not None:
            raise ValueError(
                f"labels.default_label {model.labels.default_label!r}: learner {self.kind!r} learns labels that came, "
                "null is accepted"
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

    def encoder(self) -> Encoder:
        """See `MiniBatchSpec`."""
        return self.network.encoder(self.seed, np.dtype(self.dtype))

    def numerics(self) -> dict[str, str]:
        """See `learners.spec.LearnerSpec`."""
        return self.network.numerics()

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
        self.network.check(model, self.batch)
        features, size = len(model.features), np.dtype(self.dtype).itemsize
        weights = size * (self.network.numbers(features) + classes_of(model) * (self.network.top(features) + 1))
        if weights > MAX_BYTES:
            raise ValueError(f"the network takes {weights} bytes with all classes, at most {MAX_BYTES} are accepted")


class ReplaySpec(NetworkSpec):
    """A network that is trained, and a buffer of what it has seen."""

    buffer: Buffer = Field(default_factory=Buffer, description="Events of the past that are kept to be replayed.")
    replay: int = Field(10, ge=1, le=4096, description="Events of the buffer that are learned again at a step.")

    method: ClassVar[type[Replaying]]  # type: ignore[assignment]

    def rehearsal(self) -> int:
        """See `learners.spec.LearnerSpec`: up to a step that has more to choose from than it replays."""
        return self.batch * (self.replay // self.batch + 2)

    def model(self, features: int) -> Model:
        """See `MiniBatchSpec`."""
        net = self.classifier(features)
        memory = Memory(self.buffer, self.encoded(features), self.seed, np.dtype(self.dtype), self.method.NOTED)
        return self.method(self, net, memory)

    def check(self, model: ModelSpec) -> None:
        """See `MiniBatchSpec`."""
        super().check(model)
        if self.buffer.size < self.replay:
            raise ValueError(f"buffer.size {self.buffer.size}: accepted: replay ({self.replay}) or more")
        notes = classes_of(model) if self.method.NOTED else 0
        held = np.dtype(self.dtype).itemsize * self.buffer.size * (self.encoded(len(model.features)) + notes)
        if held > MAX_BYTES:
            raise ValueError(f"buffer.size {self.buffer.size} takes {held} bytes, at most {MAX_BYTES} are accepted")
