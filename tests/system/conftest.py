from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from continual.bench._faults_poison import PLUGIN
from continual.bench._faults_served import Served


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A deployment of real processes that knows the poisoned learner."""
    with Served(tmp_path_factory.mktemp("served"), env=PLUGIN) as deployment:
        yield deployment


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Of a store that a test starts and ends itself."""
    return tmp_path / "store"
