"""Which tests run in one process where several share the work."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of one cell or head compile the same fold, tests of one module share its fixtures: one process for each."""
    for item in items:
        params = item.callspec.params if hasattr(item, "callspec") else {}
        names = [params[name] for name in ("cell", "head") if isinstance(params.get(name), str)]
        item.add_marker(pytest.mark.xdist_group(names[0] if names else str(item.path)))
