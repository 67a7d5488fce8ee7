"""Which file of a folder has which number: entered once, before its first row is logged, and never forgotten."""

from __future__ import annotations

import json

from service.store.errors import StoreUnavailable
from service.store.scripting import PartitionBase, Script
from streams.sources.folder import Known

# Not fenced: who reads a folder owns no partition. Two readers that enter one name at once get one number.
# The field of a producer alone holds how many it has; NUL is in no name of a file.
_ENTER = Script("""
if redis.call('EXISTS', KEYS[2]) == 0 then return false end
local field = ARGV[1] .. '\\0' .. ARGV[2]
local held = redis.call('HGET', KEYS[1], field)
if held then return held end
local number = redis.call('HINCRBY', KEYS[1], ARGV[1], 1) - 1
held = string.format('%d', number) .. ' ' .. ARGV[3]
redis.call('HSET', KEYS[1], field, held)
return held
""")


class Files(PartitionBase):
    """The files that the folders of a model's sources hold; a `streams.sources.folder.FileTable`."""

    def files(self, producer: str) -> list[Known]:
        """Returns every file of a producer.

        Raises:
            StoreUnavailable: if Redis cannot serve now.
        """
        reply = iter(self._command(b"HGETALL", self.keys.files))
        prefix = producer.encode() + b"\0"
        return [_known(field[len(prefix) :], held) for field, held in zip(reply, reply) if field.startswith(prefix)]

    def enter(self, producer: str, name: str, size: int, digest: str) -> Known:
        """Gives a file the next number of its producer, unless it has one; returns what is held of it.

        Raises:
            StoreUnavailable: if Redis cannot serve now, or the model is gone.
        """
        field, content = name.encode(errors="surrogateescape"), json.dumps([size, digest])
        held = _ENTER.run(self.client, (self.keys.files, self.keys.owner), (producer, field, content))
        if held is None:
            raise StoreUnavailable("CONNECTION", f"model {self.keys.prefix} has no owner")
        return _known(field, held)


def _known(name: bytes, held: bytes) -> Known:
    number, _, content = held.partition(b" ")
    size, digest = json.loads(content)
    return Known(int(number), name.decode(errors="surrogateescape"), size, digest)
