"""The description of a model: features, target, learner, deployment.

A spec is data (YAML or JSON), complete (every default is written out when it is saved) and strict (an unknown
field or a value out of range is refused with the field's name). Two folds with the same spec and the same log
give the same state.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, PrivateAttr, SerializeAsAny, ValidationInfo, WrapValidator, model_validator

from learners.yaml12 import from_yaml
from streams.connections import NAME_PATTERN, STORED, Strict
from streams.labels import INT64
from streams.mapping import MAX_ABS_TARGET, MAX_LABEL_BYTES, SHOWN, Mapping, twice
from streams.sinks.spec import Sink
from streams.sources.spec import FolderSource, Source, own_field

MAX_SPEC_BYTES = 8 << 20
"""Of a new model's spec as JSON. One that is held may be larger: its defaults are written out."""


class Registered(Strict):
    """Base of the families of specs that are told apart by their `kind`: learners, cells, heads.

    A subclass whose `kind` has a default is known by it from then on: a new one is a new file in the family's folder.
    """

    kind: str

    registry: ClassVar[dict[str, type[Registered]]]
    """Of the family: every kind that was imported."""
    family: ClassVar[str]
    """What one is called."""
    plain: ClassVar[str]
    """The kind that is meant where none is named."""

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        kind = cls.model_fields["kind"].default
        if isinstance(kind, str):  # a base of several kinds has none of its own
            cls.registry[kind] = cls

    @classmethod
    def load_all(cls) -> None:
        """Imports every file that defines one."""
        raise NotImplementedError(f"{cls.__name__} does not say where its kinds are")

    @classmethod
    def known(cls) -> dict[str, type[Any]]:
        """Every kind of the family."""
        cls.load_all()
        return cls.registry

    @classmethod
    def by_kind(cls, value: Any, handler: Any) -> Any:
        """Validates a spec as the subclass that its `kind` names; a validator for `WrapValidator`.

        Raises:
            ValueError: there is no such kind.
        """
        known = cls.known()
        if isinstance(value, cls):
            return value
        if not isinstance(value, dict):
            raise ValueError(f"{cls.family} must be a mapping with a 'kind', got {type(value).__name__}")
        kind = value.get("kind", cls.plain)
        if not isinstance(kind, str) or kind not in known:
            raise ValueError(f"unknown {cls.family} kind {kind!r}; known: {', '.join(sorted(known))}")
        return known[kind].model_validate(value)


class Feature(Strict):
    """One input column."""

    name: str = Field(min_length=1, max_length=200, description="Name of the column, unique in the spec.")
    missing: Literal["refuse", "mean"] = Field(
        "refuse",
        description="What a missing value (absent name, or NaN in a column) means: the event is refused, or the "
        "running mean stands in (after standardisation: zero).",
    )
    categories: int = Field(
        0,
        ge=0,
        le=65_536,
        description="0: the value is a number. Otherwise it is the number of a category, from 0 to one less than this; "
        "any other value names none.",
    )


class BinaryTarget(Strict):
    """Two classes; predictions are the probability of the second."""

    kind: Literal["binary"] = "binary"
    labels: tuple[int | str, int | str] = Field(
        (0, 1), description="The two labels as they appear in events: first the negative, then the positive one."
    )

    @model_validator(mode="after")
    def _distinct(self) -> BinaryTarget:
        if self.labels[0] == self.labels[1]:
            raise ValueError(f"labels must differ, both are {self.labels[0]!r}")
        for label in self.labels:
            if not (label in INT64 if isinstance(label, int) else len(label.encode()) <= MAX_LABEL_BYTES):
                raise ValueError(f"labels must be integers of 64 bits or text of at most {MAX_LABEL_BYTES} bytes")
        return self


class MulticlassTarget(Strict):
    """Any number of classes, integer or text; a new one may appear with any event."""

    kind: Literal["multiclass"] = "multiclass"
    max_classes: int = Field(
        1000, ge=2, le=100_000, description="Bound on the classes held; labels beyond it are counted, not learned."
    )


class RegressionTarget(Strict):
    """A real number, at most 1e100 in magnitude."""

    kind: Literal["regression"] = "regression"


Target = Annotated[BinaryTarget | MulticlassTarget | RegressionTarget, Field(discriminator="kind")]


class LabelPolicy(Strict):
    """When labels come and what is done with irregular ones."""

    arrive: Literal["immediate", "delayed"] = Field(
        "immediate",
        description="`immediate`: events usually carry their label. `delayed`: the label follows by id; the "
        "previous label's age becomes an input.",
    )
    pending: int = Field(
        0,
        ge=0,
        le=100_000,
        description="Observations per key that wait for their label, each with what `credit` needs of its prediction; "
        "oldest out first. 0 with immediate labels: labels by id are answered UNKNOWN_ID.",
    )
    credit: Literal["exact", "head"] = Field(
        "exact",
        description="What a label by id teaches. `exact`: everything, by hidden state and traces as they stood at the "
        "prediction. `head`: the head alone, by features and inputs as they stood, which are far smaller.",
    )
    horizon: int = Field(
        0, ge=0, description="Events of the log after which a pending observation expires; 0: never by their number."
    )
    horizon_time: int = Field(
        0,
        ge=0,
        le=2**62,
        description="Microseconds of event time after which a pending observation expires, at an event or label of its "
        "key that is so much later; 0, or an observation without a time: never by time.",
    )
    default_label: int | str | float | None = Field(
        None,
        description="What is learned of an observation that expires, or is pushed out, without a label: this label, at "
        "the next observation of its key, the oldest first and one at each. None: it is dropped.",
    )
    out_of_order: Literal["learn", "ignore"] = Field(
        "learn",
        description="An event older than its key's last: `learn` folds it as it comes, `ignore` predicts and "
        "changes nothing. Both are counted and answered OUT_OF_ORDER.",
    )

    @model_validator(mode="after")
    def _room_for_delay(self) -> LabelPolicy:
        if self.arrive == "delayed" and self.pending == 0:
            raise ValueError("labels that arrive delayed need pending >= 1, got 0")
        if self.pending == 0:
            for name, plain in (("credit", "exact"), ("horizon_time", 0), ("default_label", None)):
                if getattr(self, name) != plain:
                    raise ValueError(f"{name} {getattr(self, name)!r} needs pending >= 1, got 0")
        if self.default_label is not None and not (self.horizon or self.horizon_time):
            raise ValueError("default_label needs horizon or horizon_time: after that an observation expires")
        return self


class ExchangePolicy(Strict):
    """Partitions give each other what they have learned, from time to time."""

    every: int = Field(ge=1, description="Events of a partition between two of its exchanges.")
    weights: Literal["mean", "sum"] = Field(
        "mean",
        description="Of weights that are trained by gradients: the `mean` over the partitions, or the `sum` of what "
        "each has changed, which learns as fast as one partition if exchanges are frequent, and overshoots if not.",
    )


class Deployment(Strict):
    """Bounds and durability of the served model."""

    slots: int = Field(
        65_536, ge=1, le=100_000_000, description="Keys held in memory per partition; colder ones live in the store."
    )
    snapshot_every: int = Field(
        50_000,
        ge=100,
        description="Events between snapshots, which take a quarter of the time at most and are a second apart; a "
        "restart replays at most about this many, or what came between.",
    )
    dedupe_window: int = Field(
        10_000, ge=1, le=10_000_000, description="Unary updates whose ids are remembered for retries."
    )
    durability: Literal["fsync", "everysec", "memory"] = Field(
        "fsync",
        description="What an acknowledged event survives: `fsync` power loss; `everysec` a process crash, and "
        "power loss but for the last second or so; `memory` nothing beyond the store's process. The store must offer "
        "least this.",
    )
    sources: tuple[Source, ...] = Field((), max_length=16, description="Queues and folders that events are taken from.")
    sinks: tuple[Sink, ...] = Field((), max_length=16, description="Queues that predictions are written to.")
    exchange: ExchangePolicy | None = Field(
        None, description="Once it is split: the partitions exchange what they have learned. None: they do not."
    )

    @model_validator(mode="after")
    def _queues_fit(self) -> Deployment:
        sources, sinks = [one.producer for one in self.sources], [one.identity for one in self.sinks]
        for what, names in (("sources", sources), ("sinks", sinks)):
            if again := twice(names):
                raise ValueError(f"{what} must differ, these are there twice: {', '.join(again)}")
        if self.exchange and self.sinks:
            raise ValueError("exchange is between partitions, and a model with sinks stays one: remove one of the two")
        return self


class LearnerSpec(Registered):
    """Base of the learners' own specs."""

    seed: int = Field(0, ge=0, lt=2**63, description="Key of the counter-based random numbers.")

    registry: ClassVar[dict[str, type[Registered]]] = {}
    family: ClassVar[str] = "learner"
    plain: ClassVar[str] = "recurrent"
    signed: ClassVar[bool] = False
    """Whether its state holds what must be signed to be loaded."""
    default_labels: ClassVar[bool] = True
    """Whether it takes `labels.default_label`."""

    @classmethod
    def load_all(cls) -> None:
        """See `Registered`."""
        from learners.registry import load_learners

        load_learners()

    def build(self, model: ModelSpec) -> Any:
        """Returns a fresh learner (see `learners.base.Learner`) for `model`, whose `learner` is this spec."""
        raise NotImplementedError(f"learner kind {self.kind!r} has no build method")

    def uses_seed(self) -> bool:
        """Whether anything about the learner is random: another seed then gives another state."""
        return True

    def rehearsal(self) -> int:
        """Labelled events after which a fold has compiled all that it will ever run."""
        return 1

    def numerics(self) -> dict[str, str]:
        """What the bits of a fold depend on beside the compiled kernels; see `learners.fingerprint`."""
        return {}

    def check(self, model: ModelSpec) -> None:
        """Refuses what only the whole model shows, such as a state too large to be held.

        Raises:
            ValueError: saying what is too large, and what is accepted.
        """

    def check_exchange(self, model: ModelSpec) -> None:
        """Refuses `deployment.exchange` where partitions of this learner cannot exchange what they have learned.

        A learner that does not refuse offers what `learners.exchange.Exchanging` says.

        Raises:
            ValueError: saying why.
        """
        raise ValueError(f"learner {self.kind!r} does not say how partitions exchange what it has learned")


class ModelSpec(Strict):
    """A model: what it sees, what it predicts, how it learns, how it is deployed."""

    name: str = Field(pattern=NAME_PATTERN, description="Name of the model, unique in a deployment.")
    features: tuple[Feature, ...] = Field(min_length=1, max_length=100_000, description="Input columns, in order.")
    target: Target = Field(description="What is predicted.")
    learner: Annotated[SerializeAsAny[LearnerSpec], WrapValidator(LearnerSpec.by_kind)] = Field(
        default_factory=lambda: LearnerSpec.by_kind({}, None), description="How it learns."
    )
    labels: LabelPolicy = Field(default_factory=LabelPolicy, description="When labels come.")
    deployment: Deployment = Field(default_factory=Deployment, description="Bounds and durability.")

    _text: str = PrivateAttr("")
    """Of the store that it comes from."""

    @model_validator(mode="before")
    @classmethod
    def _names_as_features(cls, value: Any) -> Any:
        """A feature may be written as just its name."""
        if isinstance(value, dict) and isinstance(value.get("features"), (list, tuple)):
            features = [{"name": item} if isinstance(item, str) else item for item in value["features"]]
            value = {**value, "features": features}
        return value

    @model_validator(mode="after")
    def _unique_features(self) -> ModelSpec:
        if again := twice(feature.name for feature in self.features):
            raise ValueError(f"feature names must be unique, these appear twice: {again}")
        return self

    @model_validator(mode="after")
    def _default_label_fits(self) -> ModelSpec:
        label, target = self.labels.default_label, self.target
        if label is None:
            return self
        if isinstance(target, RegressionTarget):
            fits, accepted = not isinstance(label, str) and abs(label) <= MAX_ABS_TARGET, "a number, at most 1e100"
        elif isinstance(target, BinaryTarget):
            fits, accepted = label in target.labels, f"one of {list(target.labels)}"
        elif isinstance(label, str):
            fits, accepted = len(label.encode()) <= MAX_LABEL_BYTES, f"text of at most {MAX_LABEL_BYTES} bytes"
        else:
            fits, accepted = isinstance(label, int) and label in INT64, "an integer of 64 bits, or text"
        if not fits:
            raise ValueError(f"labels.default_label {label!r}: a {target.kind} target accepts {accepted}")
        return self

    @model_validator(mode="after")
    def _can_be_held(self, info: ValidationInfo) -> ModelSpec:
        if info.context == STORED:
            return self
        self.learner.check(self)
        if self.deployment.exchange:
            try:
                self.learner.check_exchange(self)
            except ValueError as why:
                raise ValueError(f"deployment.exchange: {why}") from why
        return self

    @model_validator(mode="after")
    def _sources_fit(self) -> ModelSpec:
        names = {feature.name for feature in self.features}
        for source in self.deployment.sources:
            unknown = sorted(set(source.fields.features) - names)[:SHOWN]
            if unknown:
                raise ValueError(f"deployment.sources: fields.features names {unknown}, which are no features")
            source_mapping(self, source)
        return self

    @classmethod
    def load(cls, path: str | Path) -> ModelSpec:
        """Reads a spec from a YAML or JSON file.

        Raises:
            pydantic.ValidationError: naming every field that does not fit.
        """
        return cls.model_validate(from_yaml(Path(path).read_text()))

    @classmethod
    def stored(cls, text: str) -> ModelSpec:
        """A spec from the text that a store keeps of it: it was accepted once, and maybe by an earlier version.

        What is dear to check is not checked again; what options of queues are refused since is told by the queue, so
        that the model is served meanwhile.

        Raises:
            pydantic.ValidationError: naming every field that does not fit.
        """
        spec = cls.model_validate_json(text, context=STORED)
        spec._text = text
        return spec

    def model_copy(self, *, update: Any = None, deep: bool = False) -> ModelSpec:
        """See pydantic; one that is changed is no longer what the text of a store says."""
        made = super().model_copy(update=update, deep=deep)
        if update:
            made._text = ""
        return made

    @property
    def text(self) -> str:
        """What a store keeps of it."""
        return self._text or self.to_json()

    def to_json(self) -> str:
        """The complete spec, defaults written out, keys sorted."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))

    def digest(self) -> str:
        """SHA-256 (hex) of what decides the fold: everything but `deployment`, without fields at their default.

        So a version that adds a field still knows the specs of those before it. This is rule 2. Under rule 1, up to
        version 0.1, defaults were written out.
        """
        content = self.decided()
        del content["deployment"]
        return hashlib.sha256(b"spec 2 " + json.dumps(content, sort_keys=True).encode()).hexdigest()

    def digests(self) -> tuple[str, ...]:
        """Every digest that state of this spec may carry: today's, then that of rule 1."""
        content = json.loads(self.text)
        content.pop("deployment", None)
        return self.digest(), hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def source_mapping(model: ModelSpec, source: Source) -> Mapping:
    """Which field of a source's messages is what.

    Raises:
        ValueError: a field stands for two things.
    """
    fields, names = source.fields, source.fields.features
    target = model.target
    rows = isinstance(source, FolderSource)  # of messages the parser tells which names are no fields
    own = (lambda name: name and own_field(name)) if rows else (lambda name: name)
    return Mapping(
        features=tuple(names.get(feature.name, feature.name) for feature in model.features),
        label=fields.label,
        key=own(fields.key),
        time=own(fields.time),
        id=own(fields.id),
        target=target.kind,
        labels=target.labels if isinstance(target, BinaryTarget) else (0, 1),
        missing=tuple(names.get(one.name, one.name) for one in model.features if one.missing == "mean"),
        time_unit=fields.time_unit,
        late=model.labels.pending > 0 and fields.id is not None and fields.label is not None,
    )
