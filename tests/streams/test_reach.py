"""What a spec may reach: each line of docs/reach.md, tried with values that harm nobody."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from pydantic import TypeAdapter, ValidationError

from learners.spec import ModelSpec
from service.errors import Refused
from service.shard.specs import check_reach
from streams import librdkafka
from streams.mapping import Mapping
from streams.opened import open_file, open_folder, opened
from streams.reach import CLOSED, OutOfReach, Reach
from streams.sinks.spec import Sink
from streams.sinks.target import open_target
from streams.sources.folder import FolderReader, Known
from streams.sources.reader import Lost, Unavailable, open_reader
from streams.sources.spec import FolderSource, Source

KAFKA = {"kind": "kafka", "bootstrap": "b:1", "topic": "t"}
REDIS = {"kind": "redis_stream", "stream": "s"}
NAMES_OF_FILES = ("ssl.ca.location", "ssl.key.location", "ssl.certificate.location", "ssl.crl.location")
NAMES_OF_CODE = ("plugin.library.paths", "ssl.engine.location", "ssl.providers", "sasl.kerberos.kinit.cmd")
OURS = ("bootstrap.servers", "enable.auto.commit", "auto.offset.reset", "transactional.id", "enable.idempotence")
OTHERS = ("debug", "log_level", "statistics.interval.ms", "test.mock.num.brokers", "on_delivery", "error_cb", "no such")


def source(**given):
    return TypeAdapter(Source).validate_python(given)


def sink(**given):
    return TypeAdapter(Sink).validate_python(given)


def spec_with(part, one):
    spec = {"name": "m", "features": ["a"], "target": {"kind": "binary"}, "deployment": {part: [one]}}
    return ModelSpec.model_validate(spec)


# Kafka


@pytest.mark.parametrize("name", [*NAMES_OF_FILES, *NAMES_OF_CODE, *OURS, *OTHERS])
@pytest.mark.parametrize("made", [source, sink])
def test_an_option_that_is_not_listed_is_refused_by_name(made, name) -> None:
    with pytest.raises(ValidationError, match=rf"options: '{name}' is not accepted; accepted: .*socket.timeout.ms"):
        made(**KAFKA, options={name: "x"})


@pytest.mark.parametrize("kind", ["consumer", "producer"])
def test_every_option_that_is_listed_is_one_of_librdkafka_with_a_value_that_it_takes(kind) -> None:
    """Otherwise a source would be accepted that cannot be opened; and a range wider than the library's would lie."""
    kafka = pytest.importorskip("confluent_kafka")
    accepted = librdkafka.CONSUMER if kind == "consumer" else librdkafka.PRODUCER
    made = kafka.Consumer if kind == "consumer" else kafka.Producer
    given = {"group.id": "g", "log_level": 0} if kind == "consumer" else {"log_level": 0}
    for name, rule in accepted.items():
        if isinstance(rule, librdkafka.Choice):
            values: list = list(rule.words)
        elif isinstance(rule, librdkafka.Whole):
            values = [rule.least, rule.most]
        else:
            values = ["true", False] if isinstance(rule, librdkafka.Flag) else ["abc"]
        for value in values:
            assert rule.fits(value), (name, value)
            try:
                made(given | {name: value})
            except kafka.KafkaException as error:  # it wants another setting beside it
                said = error.args[0].str()
                assert not any(why in said for why in ("No such", "Invalid value", "outside allowed range")), said


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("security.protocol", "SSL-ish", "accepted: plaintext, ssl"),
        ("sasl.mechanism", "GSSAPI", "accepted: PLAIN, SCRAM"),
        ("sasl.mechanism", "OAUTHBEARER", "accepted: PLAIN, SCRAM"),
        ("socket.timeout.ms", 5, "a whole number from 10 to 300000"),
        ("socket.timeout.ms", 1.5, "a whole number"),
        ("socket.timeout.ms", True, "a whole number"),
        ("socket.timeout.ms", "1e3", "a whole number"),
        ("check.crcs", 1, "true or false"),
        ("client.id", "a\nb", "printable text"),
        ("client.id", "", "printable text"),
    ],
)
def test_a_value_that_does_not_fit_is_named(name, value, said) -> None:
    with pytest.raises(ValidationError, match=rf"options: {name}: got .*; accepted: .*{said.split(': ')[-1]}"):
        source(**KAFKA, options={name: value})


def test_a_stored_spec_with_an_option_of_before_is_served_and_its_source_says_why_it_waits() -> None:
    text = spec_with("sources", KAFKA).to_json().replace('"options":{}', '"options":{"ssl.ca.location":"/none"}')
    with pytest.raises(ValidationError, match=r"ssl\.ca\.location"):
        ModelSpec.model_validate_json(text)
    kept = ModelSpec.stored(text)
    assert kept.to_json() == text
    with pytest.raises(Unavailable, match=r"options: 'ssl.ca.location' is not accepted; accepted"):
        open_reader(kept.deployment.sources[0], 1, "g", "", Mapping(("a",), None), None, CLOSED)


# Redis


@pytest.mark.parametrize("more", ["?ssl_certfile=none", "?db=1&host=h", "?path=none", "#x", "?db=x"])
@pytest.mark.parametrize("made", [source, sink])
def test_the_query_of_a_url_gives_no_further_arguments(made, more) -> None:
    with pytest.raises(ValidationError, match=r"accepted: nothing after the path but \?db=NUMBER"):
        made(**REDIS, url=f"redis://h/0{more}")
    assert made(**REDIS, url="redis://h:7/?db=2").url.endswith("2")


@pytest.mark.parametrize("made", [source, sink])
@pytest.mark.parametrize("url", ["", "redis://h"])
def test_keys_of_the_service_are_no_streams(made, url) -> None:
    one = made(kind="redis_stream", url=url, stream="continual:{continual/m/0}:log")
    with pytest.raises(OutOfReach, match=r"stream: got 'continual:.*keys that do not begin with 'continual:'"):
        CLOSED.check(one)


@pytest.mark.parametrize("made", [source, sink])
def test_a_socket_of_the_machine_is_one_that_the_operator_names(made) -> None:
    one = made(**REDIS, url="unix:///run/a.sock?db=1")
    for reach in (CLOSED, Reach(hosts=("h", "unix:///run/b.sock"))):
        with pytest.raises(OutOfReach, match="--sources-allow"):
            reach.check(one)
    Reach(hosts=("unix:///run/a.sock",)).check(one)


# Hosts and secrets


@pytest.mark.parametrize(
    ("hosts", "inside", "outside"),
    [
        ((), ["redis://anywhere", "redis://10.0.0.1:1"], []),
        (("a",), ["redis://a", "redis://A:1", "rediss://u@a:2/3"], ["redis://b", "redis://a.b", "redis://ab", "redis://"]),
        (("a:1", "b:6379"), ["redis://a:1", "redis://b"], ["redis://a", "redis://a:11", "redis://b:1"]),
        (("[::1]:5", "::2"), ["redis://[::1]:5", "redis://[::2]:9"], ["redis://[::1]:6", "redis://[::3]"]),
    ],
)
def test_servers_are_those_that_the_operator_names(hosts, inside, outside) -> None:
    for url in inside:
        Reach(hosts=hosts).check(source(**REDIS, url=url))
    for url in outside:
        with pytest.raises(OutOfReach, match=r"url: got .*--sources-allow HOST\[:PORT\]`: "):
            Reach(hosts=hosts).check(source(**REDIS, url=url))
    Reach(hosts=("a",)).check(source(**REDIS))  # the deployment's own store


@pytest.mark.parametrize("made", [source, sink])
def test_every_broker_is_one_that_the_operator_names(made) -> None:
    reach = Reach(hosts=("a:9092", "b"))
    for fits in ("a:9092", "a:9092, b:1", "SASL_SSL://b:1"):
        reach.check(made(kind="kafka", topic="t", bootstrap=fits))
    for not_ in ("a:9092,c:1", "a:1", "a", "SASL_SSL://c:1", "a:9092,", "c:1/b:1"):
        with pytest.raises(OutOfReach, match="bootstrap"):
            reach.check(made(kind="kafka", topic="t", bootstrap=not_))


@pytest.mark.parametrize(("made", "one"), [(source, KAFKA), (sink, KAFKA), (source, REDIS), (sink, REDIS)])
def test_variables_are_those_that_the_operator_names(made, one) -> None:
    named = made(**one, password_env="QUEUE_PASSWORD")
    with pytest.raises(OutOfReach, match=r"password_env: got 'QUEUE_PASSWORD'.*--source-secret NAME`: none so far"):
        CLOSED.check(named)
    Reach(secrets=("QUEUE_PASSWORD",)).check(named)


def test_creation_names_every_field_that_is_out_of_reach() -> None:
    spec = {"name": "m", "features": ["a"], "target": {"kind": "binary"}}
    spec["deployment"] = {
        "sources": [{"kind": "folder", "path": "/in"}, REDIS],
        "sinks": [KAFKA | {"password_env": "HOME"}],
    }
    made = ModelSpec.model_validate(spec)
    with pytest.raises(Refused) as refused:
        check_reach(made, CLOSED)
    assert refused.value.reason == "OUT_OF_REACH"
    fields = [violation.field for violation in refused.value.violations]
    assert fields == ["spec.deployment.sources.0.path", "spec.deployment.sinks.0.password_env"]
    assert "continual serve --folders PATH" in refused.value.violations[0].accepted
    check_reach(made, Reach(folders=("/in",), secrets=("HOME",)))


def test_a_sink_waits_for_what_it_may_not_open() -> None:
    with pytest.raises(Unavailable, match="--source-secret"):
        open_target(sink(**KAFKA, password_env="HOME"), "m", "", CLOSED)


@pytest.mark.parametrize("part", ["learner", "head", "cell"])
def test_kinds_are_those_that_are_registered(part) -> None:
    named = {"kind": "os.path"}
    learner = named if part == "learner" else {"kind": "recurrent", part: named}
    with pytest.raises(ValidationError, match=r"os\.path"):
        ModelSpec.model_validate({"name": "m", "features": ["a"], "target": {"kind": "binary"}, "learner": learner})


# Folders


class Table:
    """A table of files in memory."""

    def __init__(self) -> None:
        self.held: list[Known] = []

    def files(self, producer: str) -> list[Known]:
        return list(self.held)

    def enter(self, producer: str, name: str, size: int, digest: str) -> Known:
        self.held.append(Known(len(self.held), name, size, digest))
        return self.held[-1]


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """`open/in` is a folder below the root `open`, `closed` one that is not."""
    (tmp_path / "open" / "in").mkdir(parents=True)
    (tmp_path / "closed").mkdir()
    (tmp_path / "closed" / "a.csv").write_text("a\n7\n")
    (tmp_path / "open" / "b.csv").write_text("a\n2\n")
    return tmp_path


def reader(house: Path, path: Path | None = None, root: str = "open") -> FolderReader:
    one = FolderSource(path=str(path or house / "open" / "in"), settle=0)
    made = open_reader(one, 10, "g", "", Mapping(("a",), None), Table(), Reach(folders=(str(house / root),)))
    assert isinstance(made, FolderReader)
    return made


def rows(made: FolderReader) -> list[float]:
    made.producers()
    return [float(v) for read in made.read() if read.batch for v in read.batch.x[:, 0]]


@pytest.mark.parametrize("path", ["closed", "open/../closed", "openly", "open/in/../../closed", ""])
def test_a_folder_outside_the_roots_is_refused(house, path) -> None:
    with pytest.raises(Unavailable, match=r"path: got .*--folders PATH`: .*open"):
        reader(house, house / path)


def test_without_roots_no_folder_is_read(house) -> None:
    with pytest.raises(OutOfReach, match="none so far"):
        CLOSED.check(FolderSource(path=str(house / "open")))
    Reach(folders=("/",)).check(FolderSource(path=str(house / "open")))


def test_a_folder_that_is_a_link_counts_as_what_it_leads_to(house) -> None:
    (house / "open" / "out").symlink_to(house / "closed")
    (house / "link").symlink_to(house / "open")
    with pytest.raises(Unavailable, match="--folders"):
        reader(house, house / "open" / "out")
    reader(house, house / "link" / "in")
    reader(house, root="link")


def test_a_folder_that_becomes_a_link_is_not_followed(house) -> None:
    made = reader(house)
    (house / "open" / "in").rmdir()
    (house / "open" / "in").symlink_to(house / "closed")
    with pytest.raises(Unavailable, match="--folders"):
        made.producers()


def test_links_are_read_where_they_lead_below_a_root_and_else_passed_over_and_told(house) -> None:
    made = reader(house)
    (house / "open" / "in" / "a.csv").symlink_to(house / "closed" / "a.csv")
    (house / "open" / "in" / "b.csv").symlink_to("../b.csv")
    assert rows(made) == [2.0]
    assert made.trouble() == "leads to what may not be read: a.csv"
    assert [known.name for known in made._table.files("")] == ["b.csv"]


def test_a_pipe_or_a_device_is_passed_over(house) -> None:
    made = reader(house)
    os.mkfifo(house / "open" / "in" / "a.csv")
    (house / "open" / "in" / "c.csv").symlink_to("/dev/zero")
    assert rows(made) == []
    with open_folder(str(house / "open" / "in"), Reach(folders=("/",))) as folder:  # nor does one that came since wait
        for name in ("a.csv", "c.csv"):
            with pytest.raises(OutOfReach, match="regular files"):
                open_file(folder, name, name, Reach(folders=("/",)))


def test_a_file_that_becomes_a_link_while_it_is_read_is_not_followed(house) -> None:
    """What was opened is what was judged, and what is read is what was opened."""
    name = house / "open" / "in" / "a.csv"
    name.write_text("a\n" + "1\n" * 100)
    made = reader(house)
    assert rows(made) == [1.0] * 10
    name.unlink()
    name.symlink_to(house / "closed" / "a.csv")
    with pytest.raises(Lost, match=r"is not there any more|was changed") as lost:
        rows(made)
    assert lost.value.wanted == 10
    made.close()
    reach = Reach(folders=(str(house / "open"),))
    with open_folder(str(house / "open"), reach) as folder:
        held = open_file(folder, "b.csv", "b.csv", reach)
        (house / "open" / "b.csv").unlink()
        (house / "open" / "b.csv").symlink_to(house / "closed" / "a.csv")
        assert Path(opened(held)).read_text() == "a\n2\n"
        held.close()


def test_dead_letters_hold_nothing_from_outside(house) -> None:
    (house / "closed" / "d.csv").write_text("z\nsecret\n")
    (house / "open" / "in" / "d.csv").symlink_to(house / "closed" / "d.csv")
    (house / "open" / "in" / "e.csv").write_text("a\nno number\n")
    made = reader(house)
    made.producers()
    bad = [one for read in made.read() for one in read.bad]
    assert [one[1].original for one in bad] == [b"no number\n"]


def test_descriptors_are_let_go(house) -> None:
    for number in range(5):
        (house / "open" / "in" / f"{number}.csv").write_text("a\n1\n")
    made = reader(house)
    before = len(os.listdir("/proc/self/fd"))
    assert sum(len(rows(made)) for _ in range(6)) == 5
    made.close()
    assert len(os.listdir("/proc/self/fd")) <= before


def test_the_page_names_tests_that_are_there() -> None:
    root = Path(__file__).resolve().parents[2]
    page = (root / "docs" / "reach.md").read_text()
    table = page[page.index("| a spec can |") :].split("\n\n")[0].splitlines()[2:]
    assert len(table) >= 12
    for line in table:
        for part in line.rstrip("| ").rsplit(" | ", 1)[1].split(";"):
            name = part.strip().partition(":")[0]
            (file,) = (root / "tests").rglob("test_reach.py" if name == "reach" else f"{name}.py")
            text = file.read_text()
            assert all(f"def test_{one}" in text for one in re.findall(r"`(\w+)`", part)), part
