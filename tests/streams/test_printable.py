"""Texts of others never control the terminal or the log that they are printed to."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
import unicodedata

import pytest
import yaml
from click.testing import CliRunner

from continual.cli import main
from continual.commands._shared import Problem, say, show_json, show_table, show_yaml
from streams.printable import LineFormatter, printable, printable_json

BIDI = [chr(code) for code in range(0x110000) if unicodedata.bidirectional(chr(code)) in
        {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}]  # fmt: skip
MARKS = ["\u061c", "\u200e", "\u200f"]
CONTROLS = [chr(code) for code in range(0x110000) if unicodedata.category(chr(code)) in {"Cc", "Zl", "Zp", "Cs"}]
HOSTILE = "a\x1b[31mred\x1b[0m\r\nb\x9b2J\x7f\u202ec\u2066[bold]d[/bold]"


@pytest.mark.parametrize("kind", [BIDI, MARKS, CONTROLS], ids=["directions", "marks", "controls"])
def test_every_control_is_shown_as_an_escape(kind) -> None:
    assert len(kind) >= 3
    for one in kind:
        shown = printable(f"a{one}b")
        assert shown.isascii(), ascii(one)
        assert shown.isprintable(), ascii(one)
        assert json.loads(f'"{shown}"' if shown.startswith("a\\u") else '""') in (f"a{one}b", "")


def test_every_script_stays_as_it_is() -> None:
    text = "Zürich 東京 مرحبا עברית नमस्ते 👩\u200d🔬 a\\b €"
    assert printable(text) == text


def shown_by(capsys, show) -> str:
    show()
    out = capsys.readouterr().out
    assert not set(out.replace("\n", "")) & {*BIDI, *MARKS, *CONTROLS}, ascii(out)
    return out


def test_what_commands_print_for_people(capsys) -> None:
    assert shown_by(capsys, lambda: say(HOSTILE)).count("\n") == 1
    table = shown_by(capsys, lambda: show_table(["a"], [[HOSTILE]], title=HOSTILE))
    assert "[bold]d[/bold]" in table  # nor is it markup
    with pytest.raises(Problem) as problem:
        raise Problem(HOSTILE)
    assert shown_by(capsys, lambda: print(problem.value.message)).count("\n") == 1


def test_json_and_yaml_say_the_same(capsys) -> None:
    value = {"label": HOSTILE, HOSTILE: [1, None, "東京"]}
    assert json.loads(shown_by(capsys, lambda: show_json(value))) == value
    assert yaml.safe_load(shown_by(capsys, lambda: show_yaml(value))) == value
    assert json.loads(printable_json(json.dumps("\x7f\x85\ud800\u202e", ensure_ascii=False))) == "\x7f\x85\ud800\u202e"


def test_a_log_has_one_line_for_each_record() -> None:
    stream = io.StringIO()
    log = logging.getLogger("test-printable")
    log.propagate = False
    handler = logging.StreamHandler(stream)
    handler.setFormatter(LineFormatter("%(levelname)s %(name)s: %(message)s"))
    log.addHandler(handler)
    forged = "x\nERROR test-printable: forged\x1b]0;title\x07"
    log.error("label %s", forged)
    try:
        raise ValueError(forged)
    except ValueError:
        log.exception("failed")
    log.removeHandler(handler)
    lines = stream.getvalue().split("\n")
    assert [line for line in lines if line.startswith("ERROR")] == [
        r"ERROR test-printable: label x\nERROR test-printable: forged\x1b]0;title\x07", "ERROR test-printable: failed"
    ]  # fmt: skip
    assert not set(stream.getvalue().replace("\n", "")) & set(CONTROLS)


def test_shards_and_sources_log_so(tmp_path) -> None:
    code = "import logging, sys; from service.shard.actor import configure_logging; configure_logging(sys.argv[1])"
    code += "; logging.getLogger('x').warning('model %s', sys.argv[2])"
    subprocess.run([sys.executable, "-c", code, tmp_path / "log", HOSTILE], check=True)
    assert (tmp_path / "log").read_bytes().count(b"\n") == 1


def test_what_a_command_is_told_is_printed_so_too() -> None:
    result = CliRunner().invoke(main, ["models", "create", f"no-{HOSTILE}.yaml", "--dry-run"])
    assert result.exit_code != 0
    assert "\x1b" not in result.output
