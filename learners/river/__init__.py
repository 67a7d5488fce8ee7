"""River in both directions: `kind: river` serves River's estimators, `AsRiver` gives River our learners."""

from __future__ import annotations

from typing import Any

__all__ = ["AsRiver"]


def __getattr__(name: str) -> Any:
    """`AsRiver`, when it is asked for: a shard that serves no River model need not import River."""
    if name in __all__:
        from learners.river import as_river

        return getattr(as_river, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
