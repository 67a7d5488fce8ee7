"""Which tests run in one process where several share the work, and that no property test is timed."""

from __future__ import annotations

from contextlib import suppress

import pytest

with suppress(ImportError):  # the kernels and their tests do without
    from hypothesis import settings

    settings.register_profile("untimed", deadline=None)  # a busy machine is no failure
    settings.load_profile("untimed")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of one cell or head compile the same fold, tests of one module share its fixtures: one process for each."""
    for item in items:
        params = item.callspec.params if hasattr(item, "callspec") else {}
        names = [params[name] for name in ("cell", "head") if isinstance(params.get(name), str)]
        item.add_marker(pytest.mark.xdist_group(names[0] if names else str(item.path)))
