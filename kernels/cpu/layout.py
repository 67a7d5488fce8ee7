"""What a compiled fold works on: named groups of arrays and scalars, and the integer codes they use.

Sizes: N units, J = D + 1 inputs (the last is the constant 1), K classes of capacity, F standardised columns,
C = 2 J N (the parameters of a minGRU: gate rows first, then candidate rows, units contiguous), P pending
observations per key. T is the dtype of weights and traces (float32 or float64).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

BINARY, MULTICLASS, REGRESSION = 0, 1, 2
SGD, ADAM = 0, 1

LEARNED, OBSERVED, UNKNOWN_ID, OUT_OF_ORDER, NONFINITE, CLASS_LIMIT, QUARANTINED = 1, 2, 4, 8, 16, 32, 64
"""Outcome flags, as in the wire format."""

# Columns of `Rows.head`: observations, largest event time, labels, last label, its change from the one before, the
# observation it belongs to, next place of the pending ring, position + 1 of the last event folded into the row.
H_SEEN, H_TIME, H_LABELS, H_LABEL, H_CHANGE, H_LABEL_AT, H_PENDING, H_POSITION = range(8)
HEAD = 8

# Columns of `Rows.pending_head`: position + 1 of the observation (0: free), the key's last label then (the base of a
# regression), the prediction as it was made, its class, and the key's count of observations.
P_AT, P_BASE, P_VALUE, P_CODE, P_SEEN = range(5)
PENDING_HEAD = 5

# Entries of `Shared.target`: events and second moment of the change, events and mean of the label.
T_CHANGES, T_CHANGE_SQ, T_LABELS, T_LABEL_MEAN = range(4)

# Entries of `Shared.counters`.
C_POSITION, C_STEPS, C_CLASSES = range(3)


class Config(NamedTuple):
    """Scalars of a spec; the same for the life of a model."""

    units: int
    features: int
    """Columns of `Batch.x`."""
    width: int
    """J, inputs of the cell including the constant."""
    task: int
    label_inputs: int
    """Inputs that carry the previous label: 0 without; binary 1, regression 2, multi-class one per class slot."""
    age_input: int
    """1 when the age of the previous label is an input."""
    optimizer: int
    rate: float
    beta1: float
    beta2: float
    epsilon: float
    window: float
    """Events over which means and deviations run."""
    clip: float
    """Bound on a standardised input."""
    residual_clip: float
    """Bound on a regression residual in running deviations (Huber's loss)."""
    ignore_out_of_order: int
    pending: int
    horizon: float
    max_classes: int


class Shared(NamedTuple):
    """Arrays that every key shares. `m_*` and `v_*` are Adam's moments."""

    cell: np.ndarray
    """T [C]."""
    m_cell: np.ndarray
    v_cell: np.ndarray
    out: np.ndarray
    """T [K, N]: hidden state to logits or change."""
    m_out: np.ndarray
    v_out: np.ndarray
    skip: np.ndarray
    """T [K, J]: inputs to logits or change; the last column is the bias."""
    m_skip: np.ndarray
    v_skip: np.ndarray
    scaler: np.ndarray
    """float64 [F, 3]: count, mean, variance; the features, then for regression the level of the previous label."""
    target: np.ndarray
    """float64 [4]."""
    decay: np.ndarray
    """float64 [2]: beta1^t and beta2^t."""
    counters: np.ndarray
    """int64 [3]."""


class Rows(NamedTuple):
    """Arrays with one row per key slot."""

    head: np.ndarray
    """float64 [S, 8]."""
    body: np.ndarray
    """T [S, N + C]: hidden state, then the traces dh/dcell."""
    pending_id: np.ndarray
    """uint64 [S, P, 2]."""
    pending_head: np.ndarray
    """float64 [S, P, 5]."""
    pending_body: np.ndarray
    """T [S, P, J + N + C]: inputs, hidden state and traces as they stood at the prediction."""


class Events(NamedTuple):
    """A batch, with the slot of each key and the class of each label resolved."""

    x: np.ndarray
    """float32 [n, d]."""
    kind: np.ndarray
    y: np.ndarray
    """float64 [n]; for multi-class an index into `classes`."""
    slot: np.ndarray
    """int64 [n]; -1: the key has no row (only for a label by id)."""
    time: np.ndarray
    id: np.ndarray
    classes: np.ndarray
    """int64 [m]: the model's index of each class of the batch, -1 until the fold learns it; the fold fills it in."""


class Out(NamedTuple):
    """What a fold says of each event."""

    value: np.ndarray
    """float64 [n]."""
    code: np.ndarray
    """int32 [n]."""
    outcome: np.ndarray
    """uint8 [n]."""
    scored: np.ndarray
    """float64 [n, 4]: for a label that met its prediction, as that was made: the prediction (multi-class: the
    probability given to this label, NaN for a label by id), its class, the key's label before (NaN: none), and the
    label itself (multi-class: the model's index of its class). NaN rows elsewhere."""


class Scratch(NamedTuple):
    """Working memory of one call; holds nothing between calls."""

    x: np.ndarray
    """T [J]."""
    gate: np.ndarray
    """T [N]: z."""
    candidate: np.ndarray
    """T [N]: c."""
    h: np.ndarray
    """T [N]."""
    keep: np.ndarray
    """T [N]: dh/dh_ = 1 - z."""
    d_gate: np.ndarray
    """T [N]: dh / d(gate pre-activation)."""
    d_candidate: np.ndarray
    """T [N]."""
    error: np.ndarray
    """T [N]: dL/dh."""
    logits: np.ndarray
    """float64 [K]."""
    d_logits: np.ndarray
    """float64 [K]: dL/dlogits."""


def plain(array: np.ndarray) -> np.ndarray:
    """The array itself if it is contiguous, aligned and writeable, else a copy that is.

    Arrays over received bytes are read-only and may be misaligned; to the compiler each such kind is another type,
    for which it would compile the whole fold anew, in the middle of serving.
    """
    return array if array.flags.carray else array.copy()
