"""Learners that do what one should not while they are checked."""

from __future__ import annotations

import os
import time
from typing import Literal

import numpy as np
from pydantic import Field

from learners.methods.static import StaticSpec
from learners.spec import ModelSpec


def _work(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


class StrangeSpec(StaticSpec):
    """Does something when it is built, and more when it is checked."""

    kind: Literal["strange"] = "strange"  # type: ignore[assignment]
    checked: Literal["plain", "sleeps", "works", "grows", "ends"] = "plain"
    built: Literal["plain", "sleeps", "works", "raises"] = "plain"
    seconds: float = Field(60.0, description="Of sleep, or of work by the processor's time.")

    def check(self, model: ModelSpec) -> None:
        if self.checked == "sleeps":
            time.sleep(self.seconds)
        if self.checked == "works":
            _work(self.seconds)
        if self.checked == "grows":
            np.ones(1 << 33)
        if self.checked == "ends":
            print("the last words", flush=True)
            os._exit(3)
        super().check(model)

    def build(self, model: ModelSpec):
        if self.built == "sleeps":
            time.sleep(self.seconds)
        if self.built == "works":
            _work(self.seconds)
        if self.built == "raises":
            raise RuntimeError("it cannot be built")
        return super().build(model)
