"""What a spec says of a queue's server, whether it is read or written: where it is, and how to be let in."""

from __future__ import annotations

from typing import Any, ClassVar
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator
from pydantic_core import to_jsonable_python

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


class RedisServer(Strict):
    """A Redis."""

    url: str = Field("", description="redis://, rediss:// or unix://; empty: the deployment's own store.")
    password_env: str | None = Field(
        None, description="Environment variable that holds the password, so that no spec holds it."
    )

    @field_validator("url")
    @classmethod
    def _is_redis(cls, url: str) -> str:
        if url and not url.startswith(("redis://", "rediss://", "unix://")):
            raise ValueError(f"url must begin with redis://, rediss:// or unix://, got {url!r}")
        if urlsplit(url).password is not None:
            raise ValueError("url: a password does not belong in a spec; name a variable with password_env")
        return url


class KafkaCluster(Strict):
    """A Kafka cluster, reached through librdkafka."""

    ours: ClassVar[frozenset[str]]
    """Settings of librdkafka that are not free to choose."""

    bootstrap: str = Field(min_length=1, description="host:port of one or more brokers, separated by commas.")
    options: dict[str, str | int | float | bool] = Field(
        default_factory=dict,
        description="Further settings of librdkafka (security.protocol, sasl.mechanism, ...). Secrets: give "
        "`password_env`.",
    )
    password_env: str | None = Field(
        None, description="Environment variable that holds `sasl.password`, so that no spec holds it."
    )

    @field_validator("options")
    @classmethod
    def _are_free(cls, options: dict[str, str | int | float | bool]) -> dict[str, str | int | float | bool]:
        taken = sorted(cls.ours & set(options))
        if taken:
            raise ValueError(f"options: {', '.join(taken)} are not free to choose")
        if "sasl.password" in options:
            raise ValueError("options: sasl.password does not belong in a spec; name a variable with password_env")
        return options


def _decided(value: Any) -> Any:
    if isinstance(value, Strict):
        return value.decided()
    if isinstance(value, tuple | list):
        return [_decided(item) for item in value]
    return to_jsonable_python(value)
