"""A Ray cluster of three nodes on this machine, and the death of one, then of all, under load."""

from __future__ import annotations

import os
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from continual.bench._helpers import until
from continual.bench._shards_load import Load, logged, lost_and_doubled, spec_of
from service.client import Client
from service.ports import free_port
from service.serve import Deployment, ServeOptions
from service.store.embedded import EmbeddedRedis

NAME = "nodes"
SHARDS = ("shard-0", "shard-1")
NODE: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 80 << 20}
CHECKS = {"health_check_initial_delay_ms": 1000, "health_check_period_ms": 500, "health_check_failure_threshold": 3}
RECOVERY_SECONDS = 120.0


class Nodes:
    """Three nodes; use as a context manager."""

    def __enter__(self) -> Nodes:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_worker_niceness", "0")
        from ray.cluster_utils import Cluster

        head = {**NODE, "include_dashboard": False, "_system_config": CHECKS}
        self.cluster: Any = Cluster(initialize_head=True, head_node_args=head)
        self.workers = [self.cluster.add_node(**NODE) for _ in range(2)]
        self.cluster.wait_for_nodes()
        return self

    def __exit__(self, *exception: object) -> None:
        import ray

        ray.shutdown()
        self.cluster.shutdown()

    @property
    def address(self) -> str:
        """Of the cluster."""
        return self.cluster.address

    def kill(self, deployment: Deployment) -> None:
        """Kills a node that has a shard and is not the head, and puts an empty one in its place."""
        import ray

        shards = ray.get([actor.ready.remote() for actor in deployment.actors.values()], timeout=RECOVERY_SECONDS)
        parents = {psutil.Process(pid).ppid() for pid in shards}  # a raylet starts the processes of its node
        victim = next(node for node in self.workers if _raylet(node) in parents)
        self.workers.remove(victim)
        self.cluster.remove_node(victim, allow_graceful=False)
        self.workers.append(self.cluster.add_node(**NODE))

    def kill_all(self) -> None:
        """Ends every process of the cluster with SIGKILL, the head's too."""
        processes = [
            psutil.Process(info.process.pid)
            for node in self.cluster.list_all_nodes()
            for infos in node.all_processes.values()
            for info in infos
        ]
        whole = [child for process in processes for child in process.children(recursive=True)] + processes
        for process in whole:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(whole, timeout=20)


def _raylet(node: Any) -> int:
    return node.all_processes["raylet"][0].process.pid


def node_killed(kills: int) -> dict[str, Any]:
    """Kills nodes under load, then all of them; what was answered must be in the logs, and served by a new cluster.

    Returns:
        events: answered; lost, doubled: see `lost_and_doubled`; gaps: seconds, of each kill the longest time without an
        answer of any key; lost_anew: events that a new cluster over the same Redis does not have.
    """
    with tempfile.TemporaryDirectory() as folder, EmbeddedRedis(Path(folder) / "store") as store:
        gaps = []
        with Nodes() as nodes:
            options = ServeOptions(
                data=Path(folder) / "one", port=free_port(), shards=2, redis=store.url, ray=nodes.address
            )
            deployment = Deployment(options)
            deployment.start()
            with Client(deployment.address) as client:
                client.models.create(spec_of(NAME))
                client.models.split(NAME, shards=SHARDS)
            with Load(deployment.address, NAME) as load:
                for _ in range(kills):
                    start = time.perf_counter()
                    nodes.kill(deployment)
                    _answered_after(load, time.perf_counter())
                    gaps.append(max(load.gaps(start, time.perf_counter())))
            found = logged(store.url, NAME)
            lost, doubled = lost_and_doubled(load.sent, found)
            nodes.kill_all()
        with Nodes() as nodes:
            options = ServeOptions(
                data=Path(folder) / "two", port=free_port(), shards=2, redis=store.url, ray=nodes.address
            )
            with Deployment(options) as deployment, Client(deployment.address) as client:
                served = client.models.statistics(NAME).counts["events"]
    outcome = {"events": len(load.sent), "lost": lost, "doubled": doubled, "gaps": gaps}
    return outcome | {"lost_anew": len(found) - served}


def _answered_after(load: Load, moment: float) -> None:
    """Waits until every key was answered again."""

    def done() -> bool:
        return all(times[-1] > moment + 0.1 for times in load.answers)

    until(done, RECOVERY_SECONDS, "an answer to every key after a node died", every=0.05)
