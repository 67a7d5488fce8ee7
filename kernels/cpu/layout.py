"""What a compiled fold works on: named groups of arrays and scalars, and the integer codes they use.

Sizes: L layers of N units and H features each, J inputs (the last is the constant 1), K classes of capacity,
F standardised columns, C weights of all layers (see `kernels.cpu.cells`), B numbers of state and traces per key, P
pending observations per key. T is the dtype of weights and traces (float32 or float64). Layer l > 0 has H + 1 inputs;
W is the larger of J and H + 1.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

BINARY, MULTICLASS, REGRESSION = 0, 1, 2
SGD, ADAM, RMSPROP, OBGD, EKF = range(5)

LEARNED, OBSERVED, UNKNOWN_ID, OUT_OF_ORDER, NONFINITE, CLASS_LIMIT, QUARANTINED, OUTLIER = (1 << i for i in range(8))
"""Outcome flags, as in the wire format."""

LATE = UNKNOWN_ID | OUT_OF_ORDER
"""Outcome of a label whose observation is still held, but past the horizon: neither flag alone."""

# Columns of `Rows.head`: observations, largest event time, labels, last label, its change from the one before, the
# observation it belongs to, next place of the pending ring, position + 1 of the last event folded into the row, labels
# that were refused as outliers since the last one that was not; whether the newest label was too far away to be taken
# for the last one, and that label.
H_SEEN, H_TIME, H_LABELS, H_LABEL, H_CHANGE, H_LABEL_AT, H_PENDING, H_POSITION, H_REFUSED = range(9)
H_AWAY, H_AWAY_LABEL = range(9, 11)
HEAD = 11
OLDER_HEADS = (9,)
"""Columns of it in earlier versions; what they lacked is 0."""

# Rows of `Rows.own`, running moments as in `Shared.scaler` of a key's own changes and labels (`kernels.cpu.heads.own`).
OWN_CHANGE, OWN_LEVEL = range(2)
OWN = 2

# Columns of `Rows.unit`, of a regression: what the key's changes are divided by, and the centre and deviation of its
# labels, each 0 while those of all keys count; the mean square of its latest changes.
U_SCALE, U_CENTRE, U_DEVIATION, U_LATEST = range(4)
UNIT = 4

# Columns of `Rows.pending_head`: position + 1 of the observation (0: free; negative: it has expired), the key's last
# label then (the base of a regression), the prediction as it was made, its class, the key's count of observations, how
# sure the prediction was (column 4 of `Out.scored`), the number of the observation in the log, and its time.
P_AT, P_BASE, P_VALUE, P_CODE, P_SEEN, P_SURE, P_DRAW, P_TIME = range(8)
PENDING_HEAD = 8

# Columns of `Shared.scaler`, the running moments of a column (`kernels.cpu.inputs.standardise`): values seen, mean and
# variance, values of the present level, and of the run of values that are far from it how many they are (more than the
# values that were not, since it began), their mean, and their variance (-1: of a constant column, see `_returned`); of
# a target how many such runs there were, older ones fading, and the count of values at the last of them.
S_COUNT, S_MEAN, S_VARIANCE, S_SPAN, S_FAR, S_FAR_MEAN, S_FAR_VARIANCE, S_RUNS, S_RUN_AT = range(9)
SCALER = 9
POOLED_COLUMNS = 3
"""Of those the first, which are what is pooled where partitions exchange, and all that earlier versions kept."""

LAST_LEVEL, CHANGE, LEVEL = range(3)
"""Columns of `Shared.scaler` after those of the features, of a regression: the key's last label at every event, and of
every label the change from the one before and the label itself. Earlier versions had the first alone."""
TARGET_COLUMNS = 3

# Entries of `Shared.target`: events and second moment of the change, events and mean of the label; of the read-out's
# output o and the change z that it should have said, in deviations, the means of o z, o o, |z - a o| with a the slope
# (see `heads.linear.slope`), and |z|; the time of the last update, 0 for none; of the clock (`kernels.cpu.clock`) its
# time, the pace, the time of the event before, and how many in a row were away; how many keys have a label, and how far
# apart the scales of keys lie (`kernels.cpu.heads.own`); the mean norm of the read-out's gradient.
T_CHANGES, T_CHANGE_SQ, T_LABELS, T_LABEL_MEAN, T_AGREEMENT, T_POWER, T_MISSED, T_MOVED, T_UPDATED_AT = range(9)
T_CLOCK, T_PACE, T_LAST_TIME, T_AWAY, T_KEYS, T_APART, T_GRADIENT = range(9, 16)
TARGET = 16

# Columns of `Scratch.plan`: inputs of a layer, where its weights and those of its output stage begin in `Shared.cell`,
# rows and columns of the latter, where its state begins in a key's row and its inputs in what is held for a label.
L_WIDTH, L_WEIGHTS, L_OUT, L_OUT_ROWS, L_OUT_COLUMNS, L_BODY, L_HELD = range(7)

LINE = 64
"""Bytes of a cache line."""

WORK_ROWS = 8
"""Rows of working memory that the forward step of any cell gets by with."""

# Entries of `Shared.counters`: events, updates applied, classes known, observations (labelled or not), and how many of
# those there were at the last update.
C_POSITION, C_STEPS, C_CLASSES, C_OBSERVED, C_UPDATED = range(5)
COUNTERS = 5


AWAY = OBSERVED | UNKNOWN_ID
"""Outcome of an event whose clock is far from that of the others: it counts as one without a time."""

AVERAGED, SUMMED, POOLED, KEPT = "averaged", "summed", "pooled", "kept"
"""What becomes of an array of state where the partitions of a model exchange what they have learned
(`learners.exchange`): the mean over the partitions, weighted by what each has learned since; the sum of what each has
learned by itself, in coordinates in which evidence adds up; running means over a window, pooled; or each its own."""


class Config(NamedTuple):
    """Scalars of a spec; the same for the life of a model."""

    layers: int
    units: int
    hidden: int
    """H."""
    features: int
    """Columns of `Batch.x`."""
    width: int
    """J, inputs of the first layer including the constant."""
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
    kappa: float
    """ObGD's factor of overshooting."""
    decay: float
    """Weight decay of read-out and output stages, per step and unit of `rate`."""
    clip_norm: float
    """Bound on the norm of the gradient; 0: none."""
    recurrent_rate: float
    """Rate of the weights of the recurrence as a share of `rate`."""
    gap_unit: float
    """What counts as one unit of time between two events of a key; 0: every gap is 1."""
    least_gap: float
    """Shorter gaps count as this many units."""
    forget_unit: float
    """Event time that counts as one step of forgetting between two updates; 0: every observation is one."""
    scaled: int
    """1: features are standardised; 0: they are taken as they come."""
    window: float
    """Events over which means and deviations run."""
    clip: float
    """Bound on an input."""
    residual_clip: float
    """Bound on a regression residual in running deviations (Huber's loss)."""
    gradient_clip: float
    """Bound on the gradient of a regression's linear read-out, in mean sizes of those of late; 0: none."""
    ignore_out_of_order: int
    pending: int
    """P; with a default label one more than wait, so that the oldest can be learned before its place is taken."""
    head_credit: int
    """1: a label by id teaches the head alone, from the features of its prediction; 0: everything, exactly."""
    horizon: float
    """Events of the log after which a pending observation expires; 0: never."""
    horizon_time: float
    """The same in event time."""
    defaults: int
    """1: an observation that expires is learned with `default_label`."""
    default_label: float
    """Not of a multi-class target, where the last of `Events.classes` is the default one."""
    max_classes: int
    encoded: int
    """U, outputs of the encoder of inputs; 0: the first layer sees the inputs themselves."""
    encoder_tanh: int
    filter: Any = None
    """What the optimizer `EKF` needs beside: a `kernels.cpu.ekf.Filter`. With None a gradient is descended."""


class Shared(NamedTuple):
    """Arrays that every key shares. `m_*` and `v_*` are moments, empty where the optimizer has none."""

    cell: np.ndarray
    """T [C]."""
    m_cell: np.ndarray
    v_cell: np.ndarray
    out: np.ndarray
    """T [K, H]: features of the top layer to logits or change."""
    m_out: np.ndarray
    v_out: np.ndarray
    skip: np.ndarray
    """T [K, J]: inputs to logits or change; the last column is the bias."""
    m_skip: np.ndarray
    v_skip: np.ndarray
    scaler: np.ndarray
    """float64 [F, 9]: running moments; the features, then of a regression `TARGET_COLUMNS`."""
    target: np.ndarray
    """float64 [16]."""
    decay: np.ndarray
    """float64 [2]: beta1^t and beta2^t; of the filter of all weights the noise scale of a regression, and 1."""
    counters: np.ndarray
    """int64 [5]."""


READ_OUT = ("out", "m_out", "v_out", "skip", "m_skip", "v_skip")
"""Arrays of `Shared` with a row per class."""

WEIGHTS = ("cell", "out", "skip")
"""Arrays of `Shared` that an optimizer trains."""

EXCHANGED: dict[str, str] = {
    **dict.fromkeys(("cell", "m_cell", "v_cell", *READ_OUT), AVERAGED),
    **dict.fromkeys(("scaler", "target"), POOLED),
    **dict.fromkeys(("decay", "counters"), KEPT),
}
"""Of each array of `Shared`; a spec may have `WEIGHTS` SUMMED. Moments are running means of gradients, and averaged."""

TARGET_MEANS = (
    (T_CHANGES, T_CHANGE_SQ),
    *((T_LABELS, mean) for mean in (T_LABEL_MEAN, T_AGREEMENT, T_POWER, T_MISSED, T_MOVED)),
)
"""Running means in `Shared.target`, each with the count of what it is over."""


class Rows(NamedTuple):
    """Arrays with one row per key slot."""

    head: np.ndarray
    """float64 [S, 11]."""
    body: np.ndarray
    """T [S, B]: of each layer the state, then the traces."""
    pending_id: np.ndarray
    """uint64 [S, P, 2]."""
    pending_head: np.ndarray
    """float64 [S, P, 8]."""
    pending_body: np.ndarray
    """T [S, P, ...]: inputs and factors of each layer, then `body`, as they stood at the prediction; with credit to the
    head alone, the features of the top layer and the inputs [H + J]."""
    own: np.ndarray
    """float64 [S, 2, 9] of a regression, else [S, 0, 9]."""
    unit: np.ndarray
    """float64 [S, 4] of a regression, else [S, 0]."""


ADDED = ("own", "unit")
"""Columns of `Rows` that rows of earlier versions lack; they are 0 then."""


def own_shapes(task: int) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Shape and dtype of the columns `ADDED` of a row."""
    own, unit = (OWN, UNIT) if task == REGRESSION else (0, 0)
    return {"own": ((own, SCALER), np.dtype(np.float64)), "unit": ((unit,), np.dtype(np.float64))}


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
    """float64 [n, 5]: for a label that met its prediction, as that was made: the prediction (multi-class: the
    probability given to this label, NaN for a label by id), its class, the key's label before (NaN: none), the label
    itself (multi-class: the model's index of its class), and how sure the prediction was: the probability of its class,
    or the half-width of a regression's 90 % interval (NaN: unknown). NaN rows elsewhere."""
    expired: np.ndarray
    """float64 [n, 5], [0, 5] where none can wait: the same of the observation that left without a label at this event,
    with the default label that was learned in its place, or NaN where it was dropped."""


class Scratch(NamedTuple):
    """Working memory of one call; holds nothing between calls. That of one layer lacks the axis L."""

    plan: np.ndarray
    """int64 [L + 1, 7]: where a layer has what; the last row holds the ends."""
    x: np.ndarray
    """T [L, W]: what each layer sees."""
    work: np.ndarray
    """T [R, N, or what the cell asks for]: rows for a cell's own use."""
    h: np.ndarray
    """T [L, ORDER N]."""
    phi: np.ndarray
    """T [L, H]."""
    jac: np.ndarray
    """T [L, ORDER^2, N]: dh/dh_."""
    factor: np.ndarray
    """T [L, MATRICES ORDER, N]: dh/d(pre-activation)."""
    vec: np.ndarray
    """T [L, VECTORS ORDER, N]: dh/d(vector)."""
    error: np.ndarray
    """T [L, ORDER N]: dL/dh."""
    d_phi: np.ndarray
    """T [L, H]: dL/dphi."""
    out_inputs: np.ndarray
    """T [L, rows of the output stage]: what multiplies its rows."""
    out_gate: np.ndarray
    """T [L, columns of the output stage]."""
    d_out: np.ndarray
    """T [L, columns of the output stage]: dL/d(its pre-activation)."""
    row: np.ndarray
    """T [longest row]: the gradient of one row of weights."""
    logits: np.ndarray
    """float64 [K], at least 2."""
    spread: np.ndarray
    """float64 [3]: of a prediction, see `kernels.cpu.heads.predict`."""
    unit: np.ndarray
    """float64 [1]: of a regression what the changes of the event's key are divided by."""
    d_logits: np.ndarray
    """float64 [K]: dL/dlogits."""
    inputs: np.ndarray
    """T [J]: of the event; the memory of `x[0]` where there is no encoder."""
    tables: np.ndarray
    """int64 [D, 2]: of each feature its categories (0: a number), and the encoder's row of the first of them."""
    code: np.ndarray
    """int64 [D]: the encoder's row of a feature's category, -1: none."""
    d_encoded: np.ndarray
    """T [U]: dL/de, then dL/d(pre-activation of the encoder)."""


class Model(NamedTuple):
    """What a fold needs beside rows and events."""

    cell: Any
    """The map below the head, see `kernels.cpu.cells`."""
    head: Any
    """See `kernels.cpu.heads`."""
    config: Config
    shared: Shared
    scratch: Scratch


def whole_target(target: np.ndarray) -> np.ndarray:
    """`Shared.target` float64 [16], also from the shorter ones that earlier versions stored."""
    made = np.zeros(TARGET)
    made[: len(target)] = target
    return made


def whole_scaler(scaler: np.ndarray, target: np.ndarray | None = None) -> np.ndarray:
    """`Shared.scaler` float64 [F, 9], also from the [., 3] that earlier versions stored: every value is at the level.

    Args:
        scaler: as stored.
        target: `Shared.target` of a regression, from which earlier versions had the moments of changes and labels.
    """
    made = np.zeros((len(scaler), SCALER))
    made[:, : scaler.shape[1]] = scaler
    if scaler.shape[1] == POOLED_COLUMNS:
        made[:, S_SPAN] = scaler[:, S_COUNT]
        if target is not None:
            changes, labels, spread = target[T_CHANGES], target[T_LABELS], made[-1, S_VARIANCE]
            of = np.array([(changes, 0.0, target[T_CHANGE_SQ]), (labels, target[T_LABEL_MEAN], spread)])
            made = np.concatenate([made, np.column_stack([of, of[:, 0], np.zeros((2, SCALER - S_SPAN - 1))])])
    return made


def zeros(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Zeros that begin on a cache line: vectors of eight numbers then lie on one line each, not across two."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    room = np.zeros(size + LINE, np.uint8)
    start = -room.ctypes.data % LINE
    return room[start : start + size].view(dtype).reshape(shape)


def on_lines(array: np.ndarray) -> np.ndarray:
    """A copy that begins on a cache line, see `zeros`."""
    copy = zeros(array.shape, array.dtype)
    copy[...] = array
    return copy


def plain(array: np.ndarray) -> np.ndarray:
    """The array itself if it is contiguous, aligned and writeable, else a copy that is.

    Arrays over received bytes are read-only and may be misaligned; to the compiler each such kind is another type,
    for which it would compile the whole fold anew, in the middle of serving.
    """
    return array if array.flags.carray else array.copy()
