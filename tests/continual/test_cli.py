"""The command line: against one running service, and what works without one."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
import yaml
from click.testing import CliRunner, Result

from continual.cli import main
from continual.data import shuttle_file
from learners.cells.base import CellSpec
from learners.spec import LearnerSpec, ModelSpec
from learners.yaml12 import from_yaml
from service.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))
START_SECONDS = 120
BAD_CSV = "a,b,label\n1,2,0\n2,x,1\n3,4,1\n5,inf,0\n7,8,0\n"


def run(*arguments: Any, code: int = 0) -> Result:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == code, (result.output, result.exception)
    return result


def run_json(*arguments: Any, code: int = 0) -> Any:
    return json.loads(run(*arguments, "--json", code=code).stdout)



class Service:
    """`continual serve` in a process group of its own, as a terminal would start it."""

    folder: Path

    def __init__(self, data: Path, *arguments: str) -> None:
        self.port = free_port()
        command = [sys.executable, "-m", "continual.cli", "serve", "--data", data, "--port", self.port, "--json"]
        self.process = subprocess.Popen(
            [*map(str, command), *arguments],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self.process.stdout is not None
        watchdog = threading.Timer(START_SECONDS, self.process.kill)
        watchdog.start()
        text = ""
        for line in self.process.stdout:
            text += line
            if line == "}\n":
                break
        watchdog.cancel()
        self.state = json.loads(text or "{}")

    def interrupt(self) -> tuple[int, str]:
        """Ctrl-C: SIGINT to the whole group; returns the exit code and what else was printed."""
        os.killpg(self.process.pid, signal.SIGINT)
        out, err = self.process.communicate(timeout=60)
        return self.process.returncode, out + err


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("serve")
    opened = ("--folders", str(folder / "open"), "--sources-allow", "127.0.0.1:1", "--source-secret", "QUEUE_PASSWORD")
    started = Service(folder / "data", "--model", str(ROOT / "examples" / "shuttle.yaml"), *opened)
    started.folder = folder
    assert started.state, started.process.communicate()
    yield started
    if started.process.poll() is None:
        started.interrupt()


@pytest.fixture
def target(service: Service, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("CONTINUAL_TARGET", service.state["address"])
    return service.state["address"]


@pytest.fixture
def small(target: str, tmp_path: Path) -> Iterator[Path]:
    """A file with two bad rows, and a model for it named `small`."""
    path = tmp_path / "small.csv"
    path.write_text(BAD_CSV)
    spec = tmp_path / "small.yaml"
    spec.write_text("name: small\nfeatures: [a, b]\ntarget: {kind: binary}\n")
    run("models", "create", spec)
    yield path
    run("models", "delete", "small", "--yes")


# Without a service


def test_help_imports_no_command() -> None:
    code = (
        "import sys\n"
        "from continual.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'numpy', 'grpc', 'ray', 'torch', 'numba', 'rich'} & set(sys.modules)))"
    )
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in ("serve", "demo", "bench", "models", "events", "doctor"):
        assert f"\n  {name} " in shown
    assert shown.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    "command",
    [
        ["serve"],
        ["demo"],
        ["doctor"],
        *(["models", name] for name in ("create", "list", "get", "predict", "delete", "snapshot", "stats", "schema")),
        ["events", "send"],
        ["events", "fold"],
    ],
    ids=" ".join,
)
def test_every_command_explains_itself_and_speaks_json(command: list[str]) -> None:
    shown = run(*command, "--help").output
    assert "--json" in shown
    assert len(shown.splitlines()) > 5


def test_fold_needs_neither_ray_nor_grpc_nor_torch() -> None:
    code = (
        "import sys\n"
        "from continual.cli import main\n"
        f"try: main(['events', 'fold', {str(shuttle_file())!r}, 'examples/shuttle.yaml', '--json'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'grpc', 'ray', 'torch', 'river', 'redis', 'pandas'} & set(sys.modules)))"
    )
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert shown.splitlines()[-1] == "[]"


def test_fold_is_the_same_however_it_is_read() -> None:
    spec = ROOT / "examples" / "shuttle.yaml"
    whole = run_json("events", "fold", shuttle_file(), spec)
    cut = run_json("events", "fold", shuttle_file(), spec, "--rows", 777)
    assert whole["events"] == 49_097
    assert (whole["digest"], whole["prequential"]) == (cut["digest"], cut["prequential"])
    assert whole["prequential"]["kappa"] > 0.95


def test_a_parquet_file_is_folded_as_the_csv_file_that_it_was(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(500, 2)).astype(np.float32)
    table = pa.table({"a": x[:, 0], "b": x[:, 1], "k": rng.integers(0, 5, 500), "label": (x[:, 0] > 0).astype(int)})
    pyarrow.csv.write_csv(table, tmp_path / "e.csv")
    pyarrow.parquet.write_table(table, tmp_path / "e.parquet", row_group_size=100)
    spec = tmp_path / "spec.yaml"
    spec.write_text("name: p\nfeatures: [a, b]\ntarget: {kind: binary}\n")
    folds = [run_json("events", "fold", tmp_path / f"e.{kind}", spec, "--key", "k") for kind in ("csv", "parquet")]
    assert folds[0]["digest"] == folds[1]["digest"]
    assert folds[1]["events"] == 500
    cut = tmp_path / "cut.parquet"
    cut.write_bytes(b"PAR1")
    assert "not a Parquet file, or damaged" in run("events", "fold", cut, spec, code=1).output


@pytest.mark.parametrize(
    ("source", "spec"),
    [("river:ImageSegments", "segments"), ("river:TrumpApproval", "approval"), ("river:ImageSegments", "rehearsal")],
)
def test_fold_of_every_kind_of_target(source: str, spec: str) -> None:
    held = run_json("events", "fold", source, ROOT / "examples" / f"{spec}.yaml")
    assert held["events"] == held["prequential"]["events"]
    assert "digest" in run("events", "fold", source, ROOT / "examples" / f"{spec}.yaml").output


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_are_complete_specs(path: Path) -> None:
    assert run_json("models", "create", path, "--dry-run") == ModelSpec.load(path).model_dump(mode="json")


def _blocks() -> list[Any]:
    """Every spec, or part of one, that a page shows."""
    found = [
        pytest.param(block, id=f"{path.stem}-{number}")
        for path in sorted((ROOT / "docs").glob("*.md"))
        for number, block in enumerate(re.findall(r"```yaml\n(.*?)```", path.read_text(), re.DOTALL))
    ]
    assert len(found) > 5
    return found


@pytest.mark.parametrize("block", _blocks())
def test_specs_of_the_pages_are_accepted(block: str, tmp_path: Path) -> None:
    shown = from_yaml(block)
    path = tmp_path / "spec.yaml"
    rest = {"name": "page", "features": ["a", "b"], "target": {"kind": "binary"}}
    lacks = [f"{name}: {json.dumps(value)}\n" for name, value in rest.items() if name not in shown]
    path.write_text(block + "".join(lacks))
    held = run_json("models", "create", path, "--dry-run")
    assert held == ModelSpec.load(path).model_dump(mode="json")
    for name in ("learner", "labels", "deployment"):
        assert set(shown.get(name, {})) <= set(held[name])


def test_words_that_yaml_once_took_for_booleans_are_text() -> None:
    text = "{on: loss, labels: [yes, no], y: off, truth: [true, False], truely: null}"
    held = {"on": "loss", "labels": ["yes", "no"], "y": "off", "truth": [True, False], "truely": None}
    assert from_yaml(text) == held
    assert from_yaml(yaml.safe_dump(held)) == from_yaml(json.dumps(held)) == held


def test_schema_names_every_field_of_a_spec() -> None:
    document = run_json("models", "schema")
    assert set(document["properties"]) == set(ModelSpec.model_fields)
    kind = document["$defs"]["RecurrentSpec"]["properties"]
    assert {"cell", "optimizer", "window"} <= set(kind)
    assert {one["$ref"].rpartition("/")[2] for one in document["$defs"]["CellSpec"]["oneOf"]} == {
        cell.__name__ for cell in CellSpec.known().values()
    }
    assert "gate_bias" in document["$defs"]["ELSTM"]["properties"]
    undocumented = [
        f"{name}.{field}"
        for name, part in document["$defs"].items()
        for field, held in part.get("properties", {}).items()
        if field != "kind" and not held.get("description")
    ]
    assert not undocumented
    assert "residual_clip" in run("models", "schema").output


def test_two_parts_of_the_schema_have_two_names() -> None:
    document, families = run_json("models", "schema"), {"CellSpec", "HeadSpec", "LearnerSpec", "CompiledSpec"}
    for learner in LearnerSpec.known().values():
        for name, part in learner.model_json_schema().get("$defs", {}).items():
            assert name in families or document["$defs"][name] == part, f"{learner.__name__}: {name}"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["models", "list", "--target", "127.0.0.1:1"], "nobody answers at 127.0.0.1:1"),
        (["models", "create", "nowhere.yaml"], "nowhere.yaml: no such spec file"),
        (["models", "create", "m", "--from", "nowhere.csv", "--label", "y", "--dry-run"], "nowhere.csv: no such file"),
        (["models", "create", "m", "--from", "river:Nothing", "--dry-run"], "River has no such data set"),
        (["events", "fold", "nowhere.csv", "examples/shuttle.yaml"], "nowhere.csv: no such file"),
        (["serve", "--redis", "http://127.0.0.1", "--port", str(free_port())], "a URL that begins with redis:"),
        (["serve", "--redis", "redis://127.0.0.1:1", "--port", str(free_port())], "Connection refused"),
    ],
    ids=lambda value: " ".join(value[:3]) if isinstance(value, list) else "",
)
def test_mistakes_end_in_one_line(arguments: list[str], words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code not in (0, None)
    assert words in result.stderr
    assert len(result.stderr.splitlines()) == 1


GOOD = {"name": "bad", "features": ["a"], "target": {"kind": "binary"}}


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (GOOD | {"deployment": {"slots": 0}}, "deployment.slots: got 0; accepted: greater than or equal to 1"),
        (GOOD | {"featurs": ["a"]}, "featurs: got ['a']; accepted: the fields that `continual models schema` lists"),
        ({"name": "bad", "features": ["a"]}, "target: got nothing; accepted: a value: it has no default"),
        (GOOD | {"target": {"kind": "binry"}}, "accepted: kind 'binary', 'multiclass', 'regression'"),
        (GOOD | {"learner": {"kind": "recurent"}}, "learner: unknown learner kind 'recurent'; known: "),
        ("a,b,label", "to propose one for a data file: models create NAME --from"),
    ],
)
def test_a_bad_spec_names_the_field_and_what_is_accepted(spec: Any, words: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(spec if isinstance(spec, str) else yaml.safe_dump(spec))
    result = CliRunner().invoke(main, ["models", "create", str(path), "--dry-run"])
    assert result.exit_code not in (0, None)
    assert words in result.stderr


def test_doctor_finds_what_this_suite_needs() -> None:
    held = run_json("doctor")
    states = {finding["what"]: finding["state"] for finding in held["findings"]}
    assert states["Redis"] == states["Ray"] == states["Python"] == "ok"
    assert all(finding["do"] for finding in held["findings"] if finding["state"] != "ok")


def test_the_readme_shows_the_quickstart_as_it_is() -> None:
    code = (ROOT / "examples" / "quickstart.py").read_text().split('"""', 2)[2].strip()
    assert f"```python\n{code}\n```" in (ROOT / "README.md").read_text()


# Against a service


def test_a_file_that_is_sent_twice_adds_nothing_and_its_state_is_that_of_the_fold(target: str) -> None:
    first = run_json("events", "send", shuttle_file(), "--model", "shuttle", "--limit", 20_000)
    assert (first["sent"], first["new"]) == (20_000, 20_000)
    for metric in ("accuracy", "calibration_error"):
        assert first["prequential"][metric] == pytest.approx(first["model_metrics"][metric])
    # The rest, in messages that are cut elsewhere: what is there is passed over, also within a message.
    rest = run_json("events", "send", shuttle_file(), "--model", "shuttle", "--rows", 999)
    assert (rest["sent"], rest["new"], rest["already_there"]) == (49_097, 29_097, 20_000)
    again = run_json("events", "send", shuttle_file(), "--model", "shuttle")
    assert (again["new"], again["already_there"]) == (0, 49_097)
    assert "0 new, 49,097 already there" in run("events", "send", shuttle_file(), "--model", "shuttle").output
    stats = run_json("models", "stats", "shuttle", "--digest")
    fold = run_json("events", "fold", shuttle_file(), ROOT / "examples" / "shuttle.yaml")
    assert (stats["position"], stats["digest"]) == (49_097, fold["digest"])
    assert {"kernels", "fold"} <= set(stats["fingerprint"])


def test_a_bad_row_is_named_and_the_rows_before_it_are_sent(small: Path) -> None:
    result = run("events", "send", small, "--model", "small", code=1)
    assert "row 1, column 'b': 'x' does not fit" in result.stderr
    assert run_json("models", "get", "small")["position"] == 1
    skipped = run_json("events", "send", small, "--model", "small", "--skip-bad")
    assert (skipped["sent"], skipped["new"], skipped["already_there"], skipped["bad"]) == (3, 2, 1, 2)
    assert [bad["row"] for bad in skipped["bad_rows"]] == [1, 3]
    assert "bad rows" in run("events", "send", small, "--model", "small", "--skip-bad").output


def test_the_label_must_be_plain(small: Path) -> None:
    small.write_text("a,b,one,two\n1,2,0,1\n")
    assert "which column is the label?" in run("events", "send", small, "--model", "small", code=1).stderr
    assert run_json("events", "send", small, "--model", "small", "--label", "two")["new"] == 1


def test_a_model_from_the_look_of_a_file(target: str, tmp_path: Path) -> None:
    path = tmp_path / "look.csv"
    path.write_text("a,b,name,y\n1,2,x,no\n2,,y,yes\n3,4,z,no\n")
    proposed = run("models", "create", "look", "--from", path, "--label", "y", "--dry-run").output
    assert "# not used (not numeric): name" in proposed
    run("models", "create", "look", "--from", path, "--label", "y")
    spec = run_json("models", "get", "look")["spec"]
    assert spec["target"] == {"kind": "binary", "labels": ["no", "yes"]}
    assert [feature["missing"] for feature in spec["features"]] == ["refuse", "mean"]
    assert run_json("events", "send", path, "--model", "look", "--label", "y")["new"] == 3
    assert "ALREADY_EXISTS" in run("models", "create", "look", "--from", path, "--label", "y", code=1).stderr
    predicted = run_json("models", "predict", "look", "a=1", "b=2")
    assert predicted["position"] == 3
    assert sum(predicted["probabilities"].values()) == pytest.approx(1)
    assert predicted["variance"] == pytest.approx(np.prod(list(predicted["probabilities"].values())), abs=1e-6)
    assert (predicted["epistemic"], predicted["interval"]) == (None, None)
    shown = run("models", "predict", "look", "a=1").output
    assert "after 3 events" in shown
    assert "variance" in shown
    assert "interval" not in shown
    assert "event.features.a" in run("models", "predict", "look", "b=1", code=1).stderr
    assert "accepted: NAME=NUMBER" in run("models", "predict", "look", "a:1", code=2).stderr
    assert run_json("models", "snapshot", "look")["position"] == 3
    assert {"look", "shuttle"} <= {model["name"] for model in run_json("models", "list")["models"]}
    assert "look" in run("models", "list").output
    assert run_json("models", "delete", "look") == {"deleted": "look", "events": 3}
    assert "`continual models list` shows those there are" in run("models", "stats", "look", code=1).stderr


def test_what_is_sent_is_scored_as_the_service_scores_it(target: str, tmp_path: Path) -> None:
    """Beside the error of no change over the same events, the first of each key among them."""
    rows = np.random.default_rng(0).normal(40, 3, (60, 2)).round(3)
    path, spec = tmp_path / "numbers.csv", tmp_path / "numbers.yaml"
    lines = [f"{a},k{i % 7},{y}" for i, (a, y) in enumerate(rows)]
    path.write_text("\n".join(["a,card,label", *lines[:30], "39.1,k1,", *lines[30:]]))
    learner = {"kind": "static", "head": {"kind": "kalman"}}
    held = {"name": "numbers", "features": ["a"], "target": {"kind": "regression"}, "learner": learner}
    spec.write_text(yaml.safe_dump(held))
    run("models", "create", spec)
    sent = run_json("events", "send", path, "--model", "numbers", "--key", "card")
    for name in ("mae", "no_change_mae"):
        assert sent["prequential"][name] == pytest.approx(sent["model_metrics"][name], rel=1e-12)
    again = run("events", "send", path, "--model", "numbers", "--key", "card").output
    assert "nothing new" in again
    assert "61 already there" in again
    run("models", "delete", "numbers", "--yes")


def test_late_labels_are_counted(target: str) -> None:
    from service.client import Client

    run("models", "create", ROOT / "examples" / "payments.yaml")
    with Client(target) as client:
        client.update("payments", {"amount": 129.0, "hour": 3.0, "abroad": 1.0}, key="card-17", id="payment-1")
        client.label("payments", id="payment-1", key="card-17", label="fraud")
        client.label("payments", id="payment-2", key="card-17", label="fraud")
    counts = run_json("models", "stats", "payments")["counts"]
    assert (counts["observed"], counts["learned"], counts["unknown_id"]) == (1, 1, 1)


def test_what_a_spec_may_reach_is_what_serve_was_told(service: Service, target: str, tmp_path: Path) -> None:
    """A source reads a folder that was opened; others, other hosts and other variables are refused by name."""
    spec = {"name": "reaching", "features": ["a"], "target": {"kind": "binary"}}
    path = tmp_path / "reaching.yaml"

    def create(part: str, one: dict[str, Any], code: int) -> str:
        path.write_text(json.dumps(spec | {"deployment": {part: [one]}}))
        return run("models", "create", path, code=code).stderr

    folder, kafka = {"kind": "folder", "settle": 0}, {"kind": "kafka", "topic": "t"}
    other_host = kafka | {"bootstrap": "h:1"}
    secret = kafka | {"bootstrap": "127.0.0.1:1", "password_env": "HOME"}
    for part, one, said in [
        ("sources", folder | {"path": str(service.folder / "data")}, "--folders PATH"),
        ("sources", other_host, "--sources-allow HOST[:PORT]"),
        ("sinks", other_host, "--sources-allow HOST[:PORT]"),
        ("sources", secret, "--source-secret NAME`: QUEUE_PASSWORD"),
        ("sinks", kafka | {"bootstrap": "127.0.0.1:1", "options": {"plugin.library.paths": "x"}}, "is not accepted"),
    ]:
        assert said in create(part, one, 1)
    within = service.folder / "open" / "in"
    within.mkdir(parents=True)
    (within / "a.csv").write_text("a,label\n1,0\n2,1\n")
    create("sources", folder | {"path": str(within)}, 0)
    deadline = time.monotonic() + 60
    while run_json("models", "stats", "reaching")["position"] < 2:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    run("models", "delete", "reaching", "--yes")


def test_the_folder_and_the_port_belong_to_one(service: Service) -> None:
    data = service.state["data"]
    folder = run("serve", "--data", data, "--port", free_port(), code=4).stderr
    assert f"in use by process {service.process.pid}" in folder
    assert "is taken" in run("serve", "--data", data, "--port", service.port, code=3).stderr


def test_a_command_that_is_printed_reaches_the_same_service(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CONTINUAL_TARGET", raising=False)
    address = service.state["address"]
    path = tmp_path / "small.csv"
    path.write_text("a,label\n1,0\n2,1\n")
    try:
        said = run("models", "create", "near", "--from", path, "--label", "label", "--target", address).output
        (following,) = [line for line in said.splitlines() if line.startswith("Next:  continual ")]
        assert "2 new" in run(*following.removeprefix("Next:  continual ").split()).output
    finally:
        run("models", "delete", "near", "--yes", "--target", address)


def test_a_ray_cluster_that_is_not_there_is_told_at_once(tmp_path: Path) -> None:
    nobody = f"127.0.0.1:{free_port()}"
    error = run("serve", "--data", tmp_path / "data", "--ray", nobody, "--port", free_port(), code=1).stderr
    assert f"no Ray cluster answers at {nobody}" in error


def test_an_unfit_redis_is_refused(tmp_path: Path) -> None:
    from service.store.connect import connect
    from service.store.embedded import EmbeddedRedis

    with EmbeddedRedis(tmp_path / "redis") as redis:
        connect(redis.url).config_set("maxmemory-policy", "allkeys-lru")
        error = run("serve", "--data", tmp_path / "data", "--redis", redis.url, "--port", free_port(), code=5).stderr
    assert "maxmemory-policy: got allkeys-lru; accepted: noeviction" in error


def test_ctrl_c_stops_cleanly_and_the_next_start_goes_on(service: Service, target: str) -> None:
    """The last of the module: it ends the service that the others use."""
    before = run_json("models", "stats", "shuttle", "--digest")
    code, printed = service.interrupt()
    assert code == 0
    assert "Traceback" not in printed
    assert "raylet" not in printed
    again = Service(Path(service.state["data"]))
    try:
        assert again.state["deployment"] == service.state["deployment"]
        assert again.state["models"]["shuttle"] == before["position"]
        after = run_json("models", "stats", "shuttle", "--digest", "--target", again.state["address"])
        assert after["digest"] == before["digest"]
        assert after["metrics"] == before["metrics"]
    finally:
        again.interrupt()
