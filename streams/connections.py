"""What a spec says of a queue's server, whether it is read or written: where it is, and how to be let in."""

from __future__ import annotations

from typing import ClassVar
from urllib.parse import parse_qs, urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"


class Strict(BaseModel):
    """Immutable, unknown fields refused, NaN and infinity refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


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
        if references := {"password_env", "password_file"} & set(parse_qs(urlsplit(url).query)):
            got = ", ".join(sorted(references))
            raise ValueError(f"url: got {got} in its query; accepted: the field password_env beside it")
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
