"""Queues read by actors under Ray, and what reads and folds them killed: a bounded run of `continual bench streams`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from continual.bench._faults_served import Served
from continual.bench._streams_faults import KINDS, run_source_kills
from continual.bench._streams_peers import MockKafka

pytestmark = pytest.mark.slow


@pytest.fixture
def kafka() -> Iterator[MockKafka]:
    cluster = MockKafka()
    yield cluster
    cluster.close()


def test_every_message_is_in_the_log_once_through_five_kills(served: Served, kafka: MockKafka) -> None:
    outcome = run_source_kills(served, kafka, kills=5, events=10_000, seed=3)
    assert (outcome.logged, outcome.lost, outcome.doubled, outcome.disordered) == (10_000, 0, 0, 0)
    assert outcome.digest
    assert outcome.kept == outcome.poison > 100
    assert set(outcome.kills) == set(KINDS)
    with served.client() as client:
        assert len(client.models.statistics("queues").sources) == 2
        client.models.delete("queues")
