"""A Ray cluster that others run, and that goes away."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_ray_lost import Serving

from service.client import Client
from service.store.embedded import EmbeddedRedis


@pytest.mark.long
@pytest.mark.timeout(240)
def test_serve_ends_with_a_reason_when_the_cluster_is_gone(tmp_path: Path) -> None:
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    try:
        with EmbeddedRedis(tmp_path / "redis") as store:
            serving = Serving(tmp_path / "data", "--redis", store.url, "--ray", cluster.address).ready()
            with Client(serving.address) as client:
                assert client.health() == "SERVING"
            for node in cluster.list_all_nodes():
                for processes in node.all_processes.values():
                    for one in processes:
                        one.process.kill()
            assert serving.process.wait(120) == 1
            assert "does not answer" in serving.said.splitlines()[-1]
    finally:
        cluster.shutdown()
