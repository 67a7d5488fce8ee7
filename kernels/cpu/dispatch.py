"""Functions that compiled code finds by the type of their first argument: one per cell, one per head."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

_FORMS: dict[tuple[Callable, type], Callable] = {}


def implements(function: Callable, kind: type) -> Callable[[Callable], Callable]:
    """Decorator: `function` for tuples of the type `kind`. It takes the arguments of `function`, by the same names."""

    def register(form: Callable) -> Callable:
        _FORMS[function, kind] = form
        return form

    return register


def form_of(function: Callable, kind: Any, default: Callable | None = None) -> Callable | None:
    """What implements `function` for a compiled tuple type; without that (None: the compiler says what is missing)."""
    return _FORMS.get((function, kind.instance_class), default)
