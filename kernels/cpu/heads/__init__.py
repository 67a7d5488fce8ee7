"""Heads of a compiled fold: from features and inputs to a prediction, and from a label to what is learned.

A head is a named tuple: its settings, and, where it keeps more than the weights in `kernels.cpu.layout.Shared`,
`state` (a named tuple of arrays, carried by snapshots) and `work` (scratch, holds nothing between events). Compiled
code finds its functions by its type (`kernels.cpu.dispatch.implements`); a new head is a new file. Its class says

    PER_CLASS   {array of `state` or `work`: axis} whose size is the room for classes; the learner grows it by zeros
    EXCHANGED   {array of `state`: what becomes of it} where partitions exchange what they have learned (constants of
                `kernels.cpu.layout`; without it they cannot). What is SUMMED goes through two methods of the head:
                `coordinates(classes)` gives it as evidence that adds up, by name, and beside it what is averaged in
                such coordinates; `take_on(summed, averaged)` writes it back, or says that it cannot be. A name that
                is in PER_CLASS too has its classes along the same axis

A head sees the features phi [H] of the map below and the inputs x [J] of the event, the last of which is constant. In a
regression it predicts (y - base) / scale, with base the key's last label and scale, `s.unit[0]`, the running
deviation of the key's changes (`kernels.cpu.heads.target`).
"""

from __future__ import annotations

from numba.extending import overload

from kernels.cpu.dispatch import form_of
from kernels.cpu.numerics import INLINE

REFUSED = 0.1
"""A label with a smaller squared weight is an outlier: nothing is learned from it, and it is no one's last label."""


def predict(head, config, shared, base, phi, x, draw, elapsed, s):
    """Returns (value, code) and leaves more in `s` (compiled code only); changes no state.

    Binary: the probability of class 1, and 1 from one half. Multi-class: `s.logits` are the probabilities of the known
    classes, the largest of them and its class are returned, (0, -1) before the first class. Regression: the target
    and -1. `s.spread` becomes the total variance of the prediction, its epistemic part and the half-width of the
    central 90 % interval of a regression, NaN for what the head does not know.

    `draw` counts observations, for random numbers; `elapsed` is how many steps of forgetting have passed since the
    head's last update.
    """
    raise NotImplementedError("predict is for compiled code")


@overload(predict, jit_options=INLINE)  # type: ignore[arg-type]
def _predict_of(head, config, shared, base, phi, x, draw, elapsed, s):
    return form_of(predict, head)


def weight(head, config, shared, base, y, s):
    """After `predict`: the squared weight in (0, 1] that the label `y` deserves (compiled code only)."""
    raise NotImplementedError("weight is for compiled code")


@overload(weight, jit_options=INLINE)  # type: ignore[arg-type]
def _weight_of(head, config, shared, base, y, s):
    return form_of(weight, head, lambda head, config, shared, base, y, s: 1.0)


def error(head, config, shared, base, y, phi, x, draw, elapsed, d_phi, s):
    """After `predict` for the same event: writes dL/dphi to `d_phi` (compiled code only).

    Returns (rows, finite): the logits whose dL/do it left in `s.d_logits` for the optimizer (0: none), and whether
    everything is finite.
    """
    raise NotImplementedError("error is for compiled code")


@overload(error, jit_options=INLINE)  # type: ignore[arg-type]
def _error_of(head, config, shared, base, y, phi, x, draw, elapsed, d_phi, s):
    return form_of(error, head)


def step(head, config, shared, base, y, phi, x, elapsed, rows, r, q, s):
    """After `error`: learns the label `y` (compiled code only); (r, q) are `optimizers.step_scalars`."""
    raise NotImplementedError("step is for compiled code")


@overload(step, jit_options=INLINE)  # type: ignore[arg-type]
def _step_of(head, config, shared, base, y, phi, x, elapsed, rows, r, q, s):
    return form_of(step, head)
