"""What `models create --from` and `events` read: a file, or a River data set as `river:NAME`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from streams.batch import Batch
from streams.mapping import Mapping as Columns
from streams.mapping import OnBad, some

RIVER = "river:"
COUNTED_BYTES = 256 << 20
"""Larger files are not counted before they are sent."""

_LABEL_NAMES = ("label", "target", "class", "y")


@dataclass(frozen=True)
class Source:
    """Events with an identity.

    Attributes:
        name: as the user named it.
        mapping: which column is what.
        dataset: the River data set, None for a file.
    """

    name: str
    mapping: Columns
    dataset: Any = None

    def read(self, rows: int, on_bad: OnBad | None = None) -> Iterator[tuple[int, Batch]]:
        """`(rows read so far, batch)`, parsed ahead in a thread; see `streams.files.read_file`."""
        from streams.files import read_file
        from streams.prefetch import prefetch
        from streams.river_source import read_river

        if self.dataset is not None:
            return read_river(self.dataset, self.mapping, rows=rows, on_bad=on_bad)
        return prefetch(read_file(self.name, self.mapping, rows=rows, on_bad=on_bad))

    def identity(self) -> str:
        """Producer name of these events: the same events, the same name."""
        from streams.files import identity

        return self.name if self.dataset is not None else identity(self.name)

    def count(self) -> int | None:
        """Events, where that is quickly known."""
        if self.dataset is not None:
            return getattr(self.dataset, "n_samples", None)
        return count_rows(Path(self.name))


def count_rows(path: Path) -> int | None:
    """Rows of a file: lines without the header, None where a large one would have to be read for that."""
    import pyarrow as pa

    from streams.files import format_of
    from streams.tables import open_parquet

    if format_of(path) == "parquet":
        with open_parquet(path) as file:
            return int(file.metadata.num_rows)
    if path.stat().st_size > COUNTED_BYTES:
        return None
    lines = 0
    with pa.input_stream(str(path), compression="detect") as stream:
        while chunk := stream.read(1 << 20):
            lines += chunk.count(b"\n")
    return lines - (format_of(path) == "csv")


def river_dataset(name: str) -> Any:
    """The River data set that `river:NAME` names, downloaded by River if it does not ship.

    Raises:
        ValueError: River has none of that name.
    """
    from river import datasets
    from river.datasets import base

    found = getattr(datasets, name.removeprefix(RIVER), None)
    if not (isinstance(found, type) and issubclass(found, base.Dataset)):
        known = [one for one in dir(datasets) if isinstance(getattr(datasets, one), type)]
        raise ValueError(f"{name}: River has no such data set; it has {', '.join(known)}")
    dataset: Any = found()  # type: ignore[call-arg]
    if not getattr(dataset, "is_downloaded", True):
        dataset.download()
    return dataset


def named_file(name: str) -> None:
    """Refuses a name that is no file.

    Raises:
        ValueError: with what is accepted.
    """
    if not Path(name).is_file():
        raise ValueError(f"{name}: no such file; accepted: a CSV, JSON Lines or Parquet file, or river:NAME")


def propose(name: str, source: str, label: str | None, key: str | None, time: str | None) -> tuple[dict[str, Any], Any]:
    """A spec for a model named `name` that fits a source.

    Returns:
        The spec, only what differs from the defaults; and what was found in the file (None for River).

    Raises:
        ValueError: the source cannot be read as events.
    """
    from streams.river_source import river_mapping
    from streams.sniff import sniff

    found = None
    if source.startswith(RIVER):
        mapping = river_mapping(river_dataset(source))
    else:
        named_file(source)
        found = sniff(source, label=label, key=key, time=time)
        mapping = found.mapping
    missing = frozenset(mapping.missing)
    features = [{"name": one, "missing": "mean"} if one in missing else one for one in mapping.features]
    target: dict[str, Any] = {"kind": mapping.target}
    if mapping.target == "binary" and mapping.labels != (0, 1):
        target["labels"] = list(mapping.labels)
    return {"name": name, "features": features, "target": target}, found


def open_source(name: str, spec: Mapping[str, Any], roles: Mapping[str, str | None]) -> Source:
    """The events of a source for a model.

    Args:
        name: a file, or `river:NAME`.
        spec: of the model, complete.
        roles: column of `label`, `key` and `time` as the user named them; None: not named; "": none. A part that was
            not named is played by the column of that name; the label also by "target", "class", "y", or the only
            column that is left. `time_unit` is the unit of numeric times, "s" if it is not there.

    Raises:
        ValueError: a column is not there, or the label cannot be told.
    """
    target = spec["target"]
    features = tuple(one["name"] for one in spec["features"])
    missing = tuple(one["name"] for one in spec["features"] if one["missing"] == "mean")
    roles = dict(roles)
    more: dict[str, Any] = {"target": target["kind"], "missing": missing, "time_unit": roles.pop("time_unit", "s")}
    if target["kind"] == "binary":
        more["labels"] = tuple(target["labels"])
    if name.startswith(RIVER):
        from streams.river_source import LABEL

        chosen: dict[str, Any] = {part: column or None for part, column in roles.items()}
        if roles.get("label") is None:
            chosen["label"] = LABEL
        return Source(name, Columns(features, **chosen, **more), river_dataset(name))
    named_file(name)
    inputs = frozenset(features)
    left = [column for column in columns_of(name) if column not in inputs]
    chosen = {part: _play(part, roles.get(part), left) for part in ("label", "key", "time")}
    if roles.get("label") is None and chosen["label"] is None:
        rest = [column for column in left if column not in chosen.values()]
        if len(rest) != 1:
            raise ValueError(
                f"{name}: which column is the label? Name it with --label (--label '' for none); "
                f"beside the features there are: {some(rest) or 'no columns'}"
            )
        chosen["label"] = rest[0]
    return Source(name, Columns(features, **chosen, **more))


def columns_of(path: str) -> list[str]:
    """Names of the columns of a file, or of the fields in the first objects of JSON Lines."""
    import json

    from streams.files import format_of, head_of
    from streams.tables import open_parquet

    if format_of(path) == "parquet":
        with open_parquet(path) as file:
            return list(file.schema_arrow.names)
    header, sample = head_of(path, None, None, 100)
    if header is not None:
        return header
    held = []
    for line in sample:
        try:
            held.append(json.loads(line))
        except ValueError:
            continue  # a bad row, which reading will name
    return list(dict.fromkeys(field for one in held if isinstance(one, dict) for field in one))


def _play(part: str, named: str | None, left: list[str]) -> str | None:
    if named is not None:
        return named or None
    names = _LABEL_NAMES if part == "label" else (part,)
    return next((one for one in names if one in left), None)
