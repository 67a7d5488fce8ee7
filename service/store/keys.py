"""Names of the keys in Redis.

Everything of a partition carries one hash tag, everything of the deployment another, so that each set lives
in one slot of a Redis Cluster and a script may touch all of it.
"""

from __future__ import annotations

import re

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}\Z")


def _check(field: str, value: str) -> str:
    if not _NAME.match(value):
        raise ValueError(
            f"{field}: got {value!r}; accepted: 1 to 100 letters, digits, '.', '_', '-', the first not a mark"
        )
    return value


class PartitionKeys:
    """Keys of one partition: `continual:{deployment/model/partition}:...`.

    Attributes:
        owner: hash, who owns the partition.
        log: stream, the events.
        head: hash, where the log ends.
        rows: three hashes, the versions of keyed rows.
        snapshots: hash, the manifests.
        attempts: hash, there while a replay is under way.
        quarantine: hash, positions that are skipped.
        dead: stream, the events that were skipped.
        letters: stream, the messages of sources that do not fit.
        letter_marks: hash, the last number kept there by producer.
        sources: hash, what each source says of itself.
        files: hash, the files of folders that are read, by source and name.
        answers: stream, what the fold said of events, for sinks.
        answered: hash, where that ends, and the classes.
        sinks: hash, by sink how far it is and what it says of itself.
        exchange: hash, what the partition has learned, for others of its model.

    Raises:
        ValueError: if a name holds a character that a key or a hash tag cannot.
    """

    def __init__(self, deployment: str, model: str, partition: str) -> None:
        names = [_check("deployment", deployment), _check("model", model), _check("partition", partition)]
        prefix = "continual:{" + "/".join(names) + "}:"
        self.prefix = prefix
        self.owner = prefix + "owner"
        self.log = prefix + "log"
        self.head = prefix + "head"
        self.rows = (prefix + "rows:0", prefix + "rows:1", prefix + "rows:2")
        self.snapshots = prefix + "snapshots"
        self.attempts = prefix + "attempts"
        self.quarantine = prefix + "quarantine"
        self.dead = prefix + "dead"
        self.letters = prefix + "letters"
        self.letter_marks = prefix + "letter-marks"
        self.sources = prefix + "sources"
        self.files = prefix + "files"
        self.answers = prefix + "answers"
        self.answered = prefix + "answered"
        self.sinks = prefix + "sinks"
        self.exchange = prefix + "exchange"

    def arrays(self, position: int, nonce: str) -> str:
        """Key of the shared arrays of a snapshot at `position`; `nonce` tells it from others there."""
        return f"{self.prefix}snapshot:{position}:{nonce}"

    def all(self) -> list[str]:
        """Every key with a fixed name."""
        return [
            self.owner,
            self.log,
            self.head,
            *self.rows,
            self.snapshots,
            self.attempts,
            self.quarantine,
            self.dead,
            self.letters,
            self.letter_marks,
            self.sources,
            self.files,
            self.answers,
            self.answered,
            self.sinks,
            self.exchange,
        ]


class DeploymentKeys:
    """Keys of the deployment: `continual:{deployment}:...`.

    Attributes:
        id: string, the deployment's random identity.
        models: hash, specs by model name.
        maps: hash, partition maps by model name.
        shards: hash, where each shard answers.
        generation: string, a number that rises with every change of `maps` and `shards`.
        pulse: hash, when each shard last saw that the store takes writes.

    Raises:
        ValueError: if the name holds a character that a key or a hash tag cannot.
    """

    def __init__(self, deployment: str) -> None:
        prefix = "continual:{" + _check("deployment", deployment) + "}:"
        self.id = prefix + "id"
        self.models = prefix + "models"
        self.maps = prefix + "maps"
        self.shards = prefix + "shards"
        self.generation = prefix + "generation"
        self.pulse = prefix + "pulse"
