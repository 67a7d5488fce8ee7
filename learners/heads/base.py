"""What a head says of itself to the learners that have one."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from kernels.cpu.layout import REGRESSION, Config, on_lines
from learners.registry import import_all
from learners.spec import Registered


class HeadSpec(Registered):
    """Base of the heads' specs."""

    registry: ClassVar[dict[str, type[Registered]]] = {}
    family: ClassVar[str] = "head"
    plain: ClassVar[str] = "linear"
    targets: ClassVar[tuple[str, ...]] = ("binary", "multiclass", "regression")
    """Kinds of target that it can learn."""
    teaches: ClassVar[bool] = True
    """Whether it passes an error on to the map below."""

    @classmethod
    def load_all(cls) -> None:
        """See `Registered`."""
        import learners.heads as package

        import_all(package)

    def compiled(self, config: Config, classes: int, seed: int) -> Any:
        """The head as compiled code takes it: a fresh named tuple of `kernels.cpu.heads`.

        Args:
            config: sizes of the learner.
            classes: room for so many classes (2 for a binary target, 1 for a regression).
            seed: key of its random numbers.
        """
        raise NotImplementedError(f"head kind {self.kind!r} has no compiled form")

    @property
    def optimized(self) -> bool:
        """Whether the learner's optimizer trains a linear read-out."""
        return False

    def uses_seed(self) -> bool:
        """Whether the head draws random numbers."""
        return False

    def knows(self, task: int) -> tuple[bool, bool, bool]:
        """Whether it knows the variance of a prediction, its epistemic part, the interval of a regression."""
        return task != REGRESSION, False, False

    def check(self, config: Config) -> None:
        """Refuses what only the sizes of the learner show.

        Raises:
            ValueError: saying what is too large, and what is accepted.
        """

    @property
    def step_of_forgetting(self) -> float:
        """Event time that counts as one step of forgetting; 0: every observation is one."""
        return 0.0


MAX_STATE_BYTES = 256 << 20
"""Bound on the state of a head with all its classes."""


class SelfTaught(HeadSpec):
    """Base of the heads that learn by themselves, without the learner's optimizer."""

    inputs: bool = Field(
        True, description="The head sees the inputs of the event beside the features of the map below it."
    )

    def size(self, config: Config) -> int:
        """m, how many numbers the head sees, the constant among them."""
        return config.hidden + (config.width if self.inputs else 1)

    def numbers(self, size: int, classes: int) -> int:
        """Numbers of state for m = `size` and so many classes."""
        raise NotImplementedError(f"head kind {self.kind!r} does not say how much it holds")

    def check(self, config: Config) -> None:
        """See `HeadSpec`."""
        if not self.inputs and config.hidden == 0:
            raise ValueError("inputs: false leaves the head nothing to see; raw features are the inputs")
        size, classes = self.size(config), max(2, config.max_classes)
        held = 8 * self.numbers(size, classes)
        if held > MAX_STATE_BYTES:
            raise ValueError(
                f"head {self.kind!r} of {size} features and {classes} classes takes {held} bytes, at most "
                f"{MAX_STATE_BYTES} are accepted"
            )


# The arrays of a compiled head


def state_arrays(head: Any, classes: int) -> dict[str, np.ndarray]:
    """The state of a head by name, trimmed to so many classes."""
    if not hasattr(head, "state"):
        return {}
    arrays = {}
    for name, array in head.state._asdict().items():
        axis = head.PER_CLASS.get(name)
        arrays[name] = array if axis is None else np.take(array, range(classes), axis)
    return arrays


def with_state(head: Any, arrays: dict[str, np.ndarray]) -> Any:
    """The head with the state `arrays` by name, which may be trimmed to fewer classes than it has room for.

    Raises:
        KeyError: an array is missing.
        ValueError: an array does not fit.
    """
    if not hasattr(head, "state"):
        return head
    state = {}
    for name, empty in head.state._asdict().items():
        given = arrays[name]
        axis = head.PER_CLASS.get(name)
        sizes = list(empty.shape)
        if axis is not None and given.ndim == empty.ndim:
            sizes[axis] = min(sizes[axis], given.shape[axis])
        if given.shape != tuple(sizes):
            raise ValueError(f"array head.{name}: shape {given.shape}, this version holds {empty.shape}")
        filled = on_lines(np.zeros_like(empty))
        filled[tuple(slice(size) for size in given.shape)] = given
        state[name] = filled
    return head._replace(state=type(head.state)(**state))


def with_room(head: Any, classes: int) -> Any:
    """The head with room for so many classes, its arrays grown by zeros."""
    if not hasattr(head, "state"):
        return head

    def grown(group: Any) -> Any:
        arrays = group._asdict()
        for name in arrays.keys() & head.PER_CLASS.keys():
            old, axis = arrays[name], head.PER_CLASS[name]
            shape = list(old.shape)
            shape[axis] = classes
            arrays[name] = on_lines(np.zeros(shape, old.dtype))
            arrays[name][tuple(slice(size) for size in old.shape)] = old
        return type(group)(**arrays)

    return head._replace(state=grown(head.state), work=grown(head.work))


def beside(head: Any) -> Any:
    """The same head, state and all, with working memory of its own."""
    if not hasattr(head, "state"):
        return head
    return head._replace(work=type(head.work)(*(on_lines(np.zeros_like(array)) for array in head.work)))
