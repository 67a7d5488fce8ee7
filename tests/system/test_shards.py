"""Several shards under Ray: changes of partitions, the death of a node: a bounded run of `continual bench shards`."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from continual.bench._shards_load import spec_of
from continual.bench._shards_nodes import node_killed
from continual.bench.shards import changes
from continual.cli import main
from service.client import Client
from service.ports import free_port
from service.serve import Deployment, ServeOptions

pytestmark = pytest.mark.slow


@pytest.mark.timeout(300)
def test_nothing_is_lost_or_doubled_through_split_move_and_merge() -> None:
    details: dict = {}
    rows = {row["figure"]: row["ours"] for row in changes(1, details)}
    assert rows["of these not in any log"] == rows["in the logs more than once"] == 0
    assert details["changes"]["events"] > 1000
    assert all(len(times) == 1 for times in details["changes"]["stood_s"].values())


@pytest.mark.timeout(400)
def test_a_node_of_three_dies_and_then_all_of_them() -> None:
    outcome = node_killed(1)
    assert (outcome["lost"], outcome["doubled"], outcome["lost_anew"]) == (0, 0, 0)
    assert outcome["events"] > 1000
    assert len(outcome["gaps"]) == 1


@pytest.mark.timeout(300)
def test_partitions_from_the_command_line_and_another_number_of_shards(tmp_path) -> None:
    def command(target: str, *arguments: str) -> dict:
        result = CliRunner().invoke(main, ["models", *arguments, "--target", target, "--json"])
        assert result.exit_code == 0, (result.output, result.exception)
        return json.loads(result.stdout)

    def owners(held: dict) -> list[str]:
        return [part["shard"] for part in held["partitions"]]

    with Deployment(ServeOptions(data=tmp_path, port=free_port(), shards=2)) as deployment:
        with Client(deployment.address) as client:
            client.models.create(spec_of("m", 4))
            x = [[float(i)] * 8 for i in range(400)]
            list(client.learn("m", [{"x": x, "y": ["UP"] * 400, "key": [f"k{i}" for i in range(400)]}]))
        at = deployment.address
        assert sorted(owners(command(at, "split", "m"))) == ["shard-0", "shard-1"]
        assert owners(command(at, "split", "m", "--partition", "1", "--to", "shard-0"))[:2] == ["shard-0", "shard-0"]
        command(at, "move", "m", "3", "--to", "shard-1")
        assert {part["id"]: part["shard"] for part in command(at, "get", "m")["partitions"]}["3"] == "shard-1"
        command(at, "merge", "m", "3", "4")
        found = command(at, "stats", "m", "--digest")
        assert (found["position"], found["counts"]["events"], len(found["partitions"])) == (400, 400, 2)
        digests = {one["partition"]: one["digest"] for one in found["partitions"]}
        assert all(digests.values())
    with Deployment(ServeOptions(data=tmp_path, port=free_port(), shards=1)) as deployment:
        found = command(deployment.address, "stats", "m", "--digest")
        assert {one["partition"]: one["digest"] for one in found["partitions"]} == digests
        assert owners(command(deployment.address, "get", "m")) == ["shard-0", "shard-0"]
    with Deployment(ServeOptions(data=tmp_path, port=free_port(), shards=2)) as deployment:
        assert len(command(deployment.address, "rebalance", "m")["moved"]) == 1
        assert sorted(owners(command(deployment.address, "get", "m"))) == ["shard-0", "shard-1"]
        assert command(deployment.address, "stats", "m")["position"] == 400
