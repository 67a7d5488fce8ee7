"""What a spec says of a queue's server, whether it is read or written: where it is, and how to be let in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from pydantic_core import to_jsonable_python

from streams import librdkafka

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"


class Strict(BaseModel):
    """Immutable, unknown fields refused, NaN and infinity refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    def decided(self) -> dict[str, Any]:
        """What this decides, as JSON holds it: fields at their default are left out, but for `kind`."""
        content = {}
        for name, field in type(self).model_fields.items():
            held = getattr(self, name)
            kept = name == "kind" or isinstance(held, Strict)  # a default of these may come to mean another kind
            if kept or held != field.get_default(call_default_factory=True, validated_data={}):
                content[name] = _decided(held)
        return content


STORED = {"stored": True}
"""Validation context of a spec that was accepted once: what is refused since is told where it is opened, so that a
model with an option of an older version is served while its source or sink waits."""


def _is_stored(info: ValidationInfo) -> bool:
    return bool(info.context and info.context.get("stored"))


class RedisServer(Strict):
    """A Redis."""

    url: str = Field("", description="redis://, rediss:// or unix://; empty: the deployment's own store.")
    password_env: str | None = Field(
        None,
        description="Environment variable that holds the password, so that no spec holds it; the operator names those "
        "that may be used (`continual serve --source-secret`).",
    )

    @field_validator("url")
    @classmethod
    def _is_redis(cls, url: str, info: ValidationInfo) -> str:
        if url and not url.startswith(("redis://", "rediss://", "unix://")):
            raise ValueError(f"url must begin with redis://, rediss:// or unix://, got {url!r}")
        parts = urlsplit(url)
        if parts.password is not None:
            raise ValueError("url: a password does not belong in a spec; name a variable with password_env")
        if not _is_stored(info):
            cls._check_url(url)
        return url

    @staticmethod
    def _check_url(url: str) -> None:
        """The query of a URL gives any argument of redis-py's connection, files of certificates among them."""
        parts = urlsplit(url)
        if parts.fragment or (parts.query and not re.fullmatch(r"db=\d{1,5}", parts.query)):
            raise ValueError(f"url: got {url!r}; accepted: nothing after the path but ?db=NUMBER")

    def check_options(self) -> None:
        """Refuses what a new spec may not have; one that was stored before may still have it.

        Raises:
            ValueError: naming the field and what is accepted.
        """
        self._check_url(self.url)


class KafkaCluster(Strict):
    """A Kafka cluster, reached through librdkafka."""

    accepted: ClassVar[Mapping[str, librdkafka.Kind]]
    """Settings of librdkafka that are free to choose."""

    bootstrap: str = Field(min_length=1, description="host:port of one or more brokers, separated by commas.")
    options: dict[str, str | int | float | bool] = Field(
        default_factory=dict,
        description="Further settings of librdkafka (security.protocol, sasl.mechanism, ...): those that "
        "`streams/librdkafka.py` lists. Secrets: give `password_env`.",
    )
    password_env: str | None = Field(
        None,
        description="Environment variable that holds `sasl.password`, so that no spec holds it; the operator names "
        "those that may be used (`continual serve --source-secret`).",
    )

    @field_validator("options")
    @classmethod
    def _are_accepted(cls, options: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        if not _is_stored(info):
            librdkafka.check(options, cls.accepted)
        return options

    def check_options(self) -> None:
        """See `RedisServer.check_options`."""
        librdkafka.check(self.options, self.accepted)


def _decided(value: Any) -> Any:
    if isinstance(value, Strict):
        return value.decided()
    if isinstance(value, tuple | list):
        return [_decided(item) for item in value]
    return to_jsonable_python(value)
