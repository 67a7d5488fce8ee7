"""A model that is being opened is not a model that does not exist."""

from __future__ import annotations

import asyncio

import pytest

from service.errors import Refused
from service.shard.config import ShardConfig
from service.shard.shard import Shard


def reason_of(shard: Shard, model: str) -> str:
    with pytest.raises(Refused) as refused:
        shard.owned(model, "0")
    return refused.value.reason


def test_before_the_catalog_was_read_no_model_is_missing() -> None:
    async def check() -> None:
        shard = Shard(ShardConfig(redis="unix:///nowhere.sock"))
        assert reason_of(shard, "any") == "PARTITION_STARTING"
        shard._listed = True
        assert reason_of(shard, "any") == "MODEL_NOT_FOUND"
        shard._opening.add(("any", "0"))
        assert reason_of(shard, "any") == "PARTITION_STARTING"

    asyncio.run(check())
