"""The buffer: a bounded sample of the labels learned so far, as arrays; every draw is keyed by (seed, event number)."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from kernels.cpu.draws import distinct
from kernels.cpu.replay import bounds, places
from kernels.cpu.replay.places import FILLED, SEEN
from learners.spec import Strict


class Buffer(Strict):
    """What is kept of the past."""

    kind: Literal["reservoir", "balanced", "fifo"] = Field(
        "reservoir",
        description="`reservoir`: every event seen is as likely to be held as every other. `balanced`: the same within "
        "each class, and the classes have equal shares as far as they have events. `fifo`: the last ones.",
    )
    size: int = Field(200, ge=1, le=1_000_000, description="Events held at the most.")


_KINDS = {"reservoir": places.RESERVOIR, "fifo": places.FIFO, "balanced": places.BALANCED}


class Memory:
    """The buffer of a learner.

    Attributes:
        x, y: inputs [size, J] and classes int64 [size] of what is held, in no order.
        notes: what a method keeps beside: [size, classes] and int64 [size].
    """

    def __init__(self, spec: Buffer, inputs: int, seed: int, dtype: np.dtype, noted: bool = False) -> None:
        self.spec = spec
        self._seed = seed
        self._noted = noted
        self.x = np.zeros((spec.size, inputs), dtype)
        self.y = np.zeros(spec.size, np.int64)
        self._counters = np.zeros(2, np.int64)
        self._per_class = np.zeros((0, 3), np.int64)
        self.notes = np.zeros((spec.size if noted else 0, 0), dtype)
        self.noted_classes = np.zeros(len(self.notes), np.int64)
        self.reserve(2)

    def __len__(self) -> int:
        return int(self._counters[FILLED])

    @property
    def seen(self) -> int:
        """Events offered so far."""
        return int(self._counters[SEEN])

    def reserve(self, classes: int) -> None:
        """Room for so many classes."""
        more = classes - len(self._per_class)
        if more > 0:
            self._per_class = np.pad(self._per_class, ((0, more), (0, 0)))
            self.notes = np.pad(self.notes, ((0, 0), (0, more)))

    def draw(self, count: int, purpose: int) -> np.ndarray:
        """int64 [min(count, held)]: different rows, every set of them as likely.

        Args:
            count: how many.
            purpose: draws of one step for different purposes do not depend on each other.
        """
        chosen = np.empty(min(count, len(self)), np.int64)
        distinct(self._seed, purpose << 48 | self.seen, len(self), chosen)
        return chosen

    def insert(self, x: np.ndarray, y: np.ndarray, notes: np.ndarray | None = None) -> None:
        """Offers the events of a mini-batch in order, with notes [n, known classes] where the method keeps them."""
        notes = self.notes[:0] if notes is None else notes
        held = self.x, self.y, self.notes, self.noted_classes
        places.offer(_KINDS[self.spec.kind], self._seed, self._counters, self._per_class, x, y, notes, *held)

    def limit(self, bound: np.ndarray) -> None:
        """Keeps what is held within a bound on inputs; notes of inputs that this changes count no more."""
        held = self.x[: len(self)]
        before = held.copy()
        bounds.limit(bound, held)
        if self._noted:
            self.noted_classes[: len(self)][(held != before).any(axis=1)] = 0

    def arrays(self, known: int) -> dict[str, np.ndarray]:
        """State by name, without rows that are not in use."""
        held = slice(0, len(self))
        arrays = {"buffer.x": self.x[held], "buffer.y": self.y[held], "buffer.counters": self._counters}
        if self.spec.kind == "balanced":
            arrays["buffer.classes"] = self._per_class[:known]
        if self._noted:
            arrays |= {"buffer.notes": self.notes[held, :known], "buffer.noted": self.noted_classes[held]}
        return arrays

    def load(self, arrays: dict[str, np.ndarray], known: int) -> None:
        """Takes on a state."""
        self.reserve(known)
        self._counters[:] = arrays["buffer.counters"]
        held = slice(0, len(self))
        self.x[held], self.y[held] = arrays["buffer.x"], arrays["buffer.y"]
        if self.spec.kind == "balanced":
            self._per_class[:] = 0
            self._per_class[:known] = arrays["buffer.classes"]
        if self._noted:
            self.notes[held, :known] = arrays["buffer.notes"]
            self.noted_classes[held] = arrays["buffer.noted"]
