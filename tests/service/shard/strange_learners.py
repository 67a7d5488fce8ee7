"""Learners that do what one should not while they are checked."""

from __future__ import annotations

import os
import time
from typing import Literal

import numpy as np
from pydantic import Field

from learners.methods.static import StaticSpec
from learners.spec import ModelSpec


class StrangeSpec(StaticSpec):
    """Does something when it is built, and more when it is checked."""

    kind: Literal["strange"] = "strange"  # type: ignore[assignment]
    checked: Literal["plain", "sleeps", "grows", "ends"] = "plain"
    built: Literal["plain", "sleeps", "raises"] = "plain"
    seconds: float = Field(60.0, description="Of sleep.")

    def check(self, model: ModelSpec) -> None:
        if self.checked == "sleeps":
            time.sleep(self.seconds)
        if self.checked == "grows":
            np.ones(1 << 33)
        if self.checked == "ends":
            print("the last words", flush=True)
            os._exit(3)
        super().check(model)

    def build(self, model: ModelSpec):
        if self.built == "sleeps":
            time.sleep(self.seconds)
        if self.built == "raises":
            raise RuntimeError("it cannot be built")
        return super().build(model)
