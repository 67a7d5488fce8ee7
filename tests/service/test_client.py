"""The clients against a real `grpc.aio` server over real channels, with faults."""

import threading

import grpc
import numpy as np
import pandas as pd
import pytest
from client_harness import SPEC, Server, applied

from service import channels, errors
from service.client import Refused
from service.client.core import Backoff


def test_predict_takes_arrays_events_and_frames(client):
    assert client.predict("m", x=[[1, 2], [3, 4]]).value.tolist() == [3.0, 7.0]
    assert client.predict("m", x=[1, 2], key="k").value.tolist() == [3.0]
    assert client.predict("m", event={"a": 5.0}).value.tolist() == [5.0]
    frame = pd.DataFrame({"b": [1.0, 2.0], "a": [0.5, 0.5], "key": [1, 2]})
    assert client.predict("m", frame=frame).value.tolist() == [1.5, 2.5]
    with pytest.raises(ValueError, match="exactly one"):
        client.predict("m", x=[1, 2], event={"a": 1.0})
    with pytest.raises(ValueError, match="columns `key` and `time` of the frame"):
        client.predict("m", frame=frame, key="k")


def test_predict_asks_for_the_uncertainty_where_it_is_wanted(client):
    sure = client.predict("m", x=[[1, 2], [3, 4]], uncertainty=True)
    assert (sure.variance, sure.epistemic, sure.interval.tolist()) == (None, None, [0.0, 1.0])
    assert client.predict("m", x=[[1, 2], [3, 4]]).interval is None


def test_a_refusal_arrives_whole(client):
    with pytest.raises(Refused) as caught:
        client.predict("m", x=[[1, 2], [np.nan, 1]])
    assert (caught.value.code, caught.value.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "MISSING_VALUE")
    assert caught.value.violations[0].field == "columns.x[1].a"
    with pytest.raises(Refused) as caught:
        client.predict("nobody", x=[1, 2])
    assert caught.value.reason == "MODEL_NOT_FOUND"


def test_update_and_label(client, service):
    reply = client.update("m", {"a": 1, "b": 2}, 7, key="k", time=5)
    assert (reply.position, reply.value.tolist(), reply.duplicate) == (0, [3.0], False)
    client.update("m", {"a": 1}, key="k", id="one")
    client.label("m", "one", "k", 2.5)
    assert [(key, y) for key, _, y in service.servicer.log][::2] == [(b"k", 7.0), (b"k", 2.5)]
    with pytest.raises(ValueError, match="features"):
        client.update("m", {}, 1.0)
    with pytest.raises(ValueError, match="id, label"):
        client.label("m", "", "k", 1.0)


def test_an_update_whose_reply_was_lost_counts_once(client, service):
    service.servicer.faults["Update after"] = [errors.unavailable("LOADING", "store is loading", 0.01)]
    reply = client.update("m", {"a": 1}, 1.0)
    assert reply.duplicate
    assert applied(service.servicer) == [1.0]
    assert service.servicer.calls.count("Update") == 2


def test_an_update_that_hangs_is_sent_again_with_its_id(client, service):
    service.servicer.faults["Update after"] = [30.0]
    assert client.update("m", {"a": 1}, 1.0, timeout=6.0).duplicate
    assert applied(service.servicer) == [1.0]


def test_waits_grow_and_are_never_shorter_than_the_server_asks():
    backoff = Backoff(1000.0)
    assert backoff.after(errors.unavailable("LOADING", "store", 7.5)) == 7.5
    waits = [backoff.after(errors.unavailable("LOADING", "store", 0.0)) for _ in range(20)]
    assert min(waits[10:]) >= 1.0 > waits[0]
    assert max(waits) <= 2.0


def test_a_delay_beyond_the_deadline_is_not_waited_for(client, service):
    service.servicer.faults["Predict"] = [errors.unavailable("LOADING", "store is loading", 100)]
    with pytest.raises(Refused) as caught:
        client.predict("m", x=[1, 2], timeout=5)
    assert (caught.value.reason, caught.value.retry_seconds) == ("LOADING", 100)


@pytest.mark.parametrize("refused", [errors.conflict("i"), errors.exhausted("FULL", "full", 0.01)])
def test_nothing_else_is_retried(client, service, refused):
    service.servicer.faults["Predict"] = [refused]
    with pytest.raises(Refused) as caught:
        client.predict("m", x=[1, 2])
    assert caught.value.reason == refused.reason
    assert service.servicer.calls.count("Predict") == 1


def test_a_deadline_ends_a_predict(client, service):
    client.partition_map()
    service.servicer.faults["Predict"] = [30.0]
    with pytest.raises(Refused) as caught:
        client.predict("m", x=[1, 2], timeout=0.3)
    assert caught.value.code is grpc.StatusCode.DEADLINE_EXCEEDED


def test_nobody_there(connect):
    client = connect("127.0.0.1:1")
    with pytest.raises(Refused) as caught:
        client.predict("m", x=[1, 2], timeout=0.5)
    assert caught.value.code is grpc.StatusCode.UNAVAILABLE
    with pytest.raises(Refused):
        client.health(timeout=0.5)


def test_calls_outlive_a_restart_of_the_server(client, service):
    client.update("m", {"a": 1}, 1.0)
    service.kill()
    threading.Timer(0.5, service.start).start()
    client.update("m", {"a": 1}, 2.0, timeout=20)
    assert applied(service.servicer) == [1.0, 2.0]


def test_a_new_map_in_a_refusal_is_taken(client, service):
    client.predict("m", x=[1, 2])
    service.servicer.map.partitions[0].map_version = 2
    client.predict("m", x=[1, 2])
    assert client.core.map.partitions[0].map_version == 2
    assert service.servicer.calls.count("GetPartitionMap") == 1


def test_another_deployment_is_refused(service, connect):
    with pytest.raises(Refused) as caught:
        connect(service.address, "elsewhere").predict("m", x=[1, 2])
    assert caught.value.reason == "WRONG_MAP"


def test_calls_go_to_the_owner_and_fall_back_to_the_target(servers, connect):
    target, owner = Server(), Server()
    door, home = servers(target), servers(owner)
    target.map.partitions[0].address = owner.map.partitions[0].address = home.address
    client = connect(door.address)
    client.predict("m", x=[1, 2])
    client.update("m", {"a": 1}, 1.0)
    client.models.snapshot("m")
    assert [call for call in target.calls if call != "GetPartitionMap"] == []
    assert owner.calls == ["Predict", "Update", "Update after"]
    home.kill()
    client.update("m", {"a": 1}, 2.0)
    assert applied(target) == [2.0]
    home.start()


def test_management(client):
    other = SPEC.replace('"m"', '"other"')
    assert client.models.create(other).name == "other"
    with pytest.raises(Refused) as caught:
        client.models.create(other)
    assert caught.value.reason == "MODEL_EXISTS"
    client.models.create(other, exist_ok=True)
    assert client.models.get("other").spec_json == other
    assert [model.name for model in client.models.list()] == ["m", "other"]
    client.models.delete("other")
    with pytest.raises(Refused):
        client.models.get("other")
    assert client.models.snapshot("m").digest == "x"
    assert client.models.statistics("m", digest=True).digest == "d"
    assert client.partition_map().deployment == "d"
    assert client.health() == "SERVING"


def test_the_server_allows_the_pings_of_a_call_that_takes_its_time():
    """Else it ends the connection, and a model that takes minutes to compile is never made."""
    for ours in (channels.CLIENT, channels.FORWARDING):
        pings = dict(ours)["grpc.keepalive_time_ms"]
        assert dict(channels.SERVER)["grpc.http2.min_ping_interval_without_data_ms"] < pings
