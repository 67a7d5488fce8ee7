"""The recurrent learner: element-wise recurrences trained by exact RTRL, on every event, and a head.

    inputs      features standardised by running moments, the key's previous label, the constant 1
    cell        one of `learners.cells`: hidden state and traces per key, weights shared; one or several layers
    head        one of `learners.heads`; by default o = V phi + U x with phi the features of the top layer; V and U are
                zero at the start, so that a regression starts as the no-change forecast
    optimizer   one of `learners.optimizers`, one step per label

The gradient of every parameter is exact for frozen weights (element-wise recurrence); under online updates a trace
also carries terms of earlier weights, as in every online RTRL (Irie et al., ICLR 2024, arXiv 2305.19044). With
several layers that of the top one is exact, that of a lower one leaves out the paths through the past of the layers
above it (Zucchet et al., NeurIPS 2023, arXiv 2305.15947).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, SerializeAsAny, WrapValidator

from learners import recurrence as build
from learners.cells.base import CellSpec, Draws
from learners.compiled import CompiledSpec
from learners.spec import ModelSpec, Strict

MAX_WEIGHTS_BYTES = 256 << 20
"""Bound on the weights of the recurrence, of output stages and of the encoder with its tables."""

class Encoder(Strict):
    """A dense layer that the first recurrent layer sees instead of the inputs; its rows for a category embed it."""

    units: int = Field(32, ge=1, le=65_536, description="Outputs of the encoder.")
    activation: Literal["tanh", "linear"] = Field("tanh", description="What follows the weighted sum.")


class RecurrentSpec(CompiledSpec):
    """Recurrent layers with exact RTRL, and a head."""

    kind: Literal["recurrent"] = "recurrent"
    cell: Annotated[SerializeAsAny[CellSpec], WrapValidator(CellSpec.by_kind)] = Field(
        default_factory=lambda: CellSpec.by_kind({}, None), description="The recurrent map."
    )
    encoder: Encoder | None = Field(
        None, description="A trained dense layer between inputs and recurrence; features with categories need it."
    )
    layers: int = Field(
        1, ge=1, le=16, description="Layers of the cell; with more than one only the top one's gradient is exact."
    )
    recurrent_rate: float = Field(
        1.0, ge=0, le=100, description="Rate of the recurrence's weights as a share of `rate`; 0 freezes them."
    )
    gap_unit: float = Field(
        0.0, ge=0, description="Event time that counts as one step of a cell that knows time; 0: every step is one."
    )
    least_gap: float = Field(
        0.01, gt=0, description="Shorter gaps count as this many units, so that two events at one time are both heard."
    )
    def map(self, model: ModelSpec) -> Any:
        """See `CompiledSpec`."""
        return self.cell.compiled()

    def shape(self) -> build.Shape:
        """See `CompiledSpec`."""
        encoded, tanh = (self.encoder.units, self.encoder.activation == "tanh") if self.encoder else (0, False)
        return build.Shape(
            layers=self.layers,
            units=self.cell.compiled().units,
            hidden=self.cell.hidden,
            encoded=encoded,
            encoder_tanh=tanh,
            recurrent_rate=self.recurrent_rate,
            gap_unit=self.gap_unit,
            least_gap=self.least_gap,
        )

    def initial(self, layer: int, width: int) -> np.ndarray:
        """See `CompiledSpec`."""
        return self.cell.initial(Draws(self.seed, layer), width)

    def check(self, model: ModelSpec) -> None:
        """See `CompiledSpec`; the weights too are bounded.

        Raises:
            ValueError: they would take more than `MAX_WEIGHTS_BYTES`; or time, or categories, are given to a learner
                that has no use for them; or `CompiledSpec.check`.
        """
        timed = self.cell.timed
        if self.gap_unit > 0 and not timed:
            known = ", ".join(sorted(kind for kind, cell in CellSpec.known().items() if cell.timed))
            raise ValueError(f"gap_unit {self.gap_unit:g}: cell {self.cell.kind!r} knows no time; these do: {known}")
        categorical = [feature.name for feature in model.features if feature.categories]
        if categorical and self.encoder is None:
            raise ValueError(
                f"features {categorical[:10]} have categories, which reach a recurrent learner through an encoder: "
                "set learner.encoder, e.g. {units: 32}"
            )
        c, size = build.config(model, self), np.dtype(self.dtype).itemsize
        weights, _, _ = build.ends(build.plan(self.cell.compiled(), c))
        weights += c.encoded * (c.width + sum(feature.categories for feature in model.features))
        if size * weights > MAX_WEIGHTS_BYTES:
            raise ValueError(
                f"{c.features} features, {c.layers} layers of {c.units} units and an encoder of {c.encoded} take "
                f"{size * weights} bytes of weights, at most {MAX_WEIGHTS_BYTES} are accepted"
            )
        super().check(model)
