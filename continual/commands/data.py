"""`continual data`: which data sets there are, fetching them, checking those that are there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from continual import data as held
from continual.commands._shared import Problem, examples, json_option, show_json
from continual.datasets.fetch import FetchError, digest, fetch, problem
from continual.datasets.sources import SOURCES, File

SUMS = "SHA256SUMS"
"""A file of checksums in the data folder, as `sha256sum` writes it: it is checked, too."""


@click.group(epilog=examples("continual data list", "continual data fetch mnist --data data", "continual data verify"))
def data() -> None:
    """Data sets: what is there, what can be fetched, and whether it is whole."""


def folder_option(command: Any) -> Any:
    """The option `--data`."""
    return click.option("--data", "folder", type=click.Path(path_type=Path), help="Data folder, else CONTINUAL_DATA.")(
        command
    )


def _named(folder: Path | None) -> Path | None:
    try:
        return folder or held.folder()
    except held.NoData as wrong:
        raise Problem(str(wrong)) from wrong


def _folder(folder: Path | None) -> Path:
    found = _named(folder)
    if found is None:
        raise Problem("no data folder: name one with --data or CONTINUAL_DATA")
    return found


@data.command("list")
@folder_option
@json_option
def list_(folder: Path | None, as_json: bool) -> None:
    """List the data sets, and which files of them are there."""
    where, rows = _named(folder), []
    for source in SOURCES.values():
        there = sum(where is not None and (where / file.path).is_file() for file in source.files)
        fetched = all(file.url for file in source.files)
        state = "there" if there == len(source.files) else f"{there} of {len(source.files)} files" if there else "-"
        size = sum(file.size for file in source.files)
        rows.append(
            {
                "name": source.name,
                "state": state,
                "MB": round(size / 1e6, 1),
                "fetched": "yes" if fetched else "no",
                "what": source.title,
                "terms": source.terms,
            }
        )
    if as_json:
        show_json({"folder": str(where) if where else None, "datasets": rows})
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"Data folder: {where or 'none; set CONTINUAL_DATA or --data'}", title_justify="left")
    for column in rows[0]:
        table.add_column(column, justify="right" if column == "MB" else "left")
    for row in rows:
        table.add_row(*map(str, row.values()))
    Console().print(table)
    click.echo("digits, segments and shuttle come with scikit-learn and River, and need no file.")


@data.command("fetch")
@click.argument("names", nargs=-1, required=True, type=click.Choice(list(SOURCES)))
@folder_option
@json_option
def fetch_(names: tuple[str, ...], folder: Path | None, as_json: bool) -> None:
    """Fetch data sets into the data folder; one that broke off goes on where it stopped."""
    where, rows = _folder(folder), []
    for name in names:
        for file in SOURCES[name].files:
            try:
                with _bar(file, as_json) as progress:
                    path = fetch(file, where, progress)
            except FetchError as fault:
                raise Problem(str(fault)) from fault
            checked = "checked" if file.digest else "no checksum is known"
            rows.append({"file": str(path), "bytes": path.stat().st_size, "state": checked})
            if not as_json:
                click.echo(f"{path}: {path.stat().st_size:,} bytes, {checked}")
    if as_json:
        show_json(rows)


@data.command()
@click.argument("names", nargs=-1, type=click.Choice(list(SOURCES)))
@folder_option
@json_option
def verify(names: tuple[str, ...], folder: Path | None, as_json: bool) -> None:
    """Check the files that are there against the table, and against SHA256SUMS of the folder.

    Without names everything is checked. Ends with 1 if a file is wrong, or of a named data set missing.
    """
    where = _folder(folder)
    rows = [row for name in names or SOURCES for row in _check(where, name, bool(names))]
    if not names:
        rows += list(_sums(where))
    wrong = [row for row in rows if row["state"] not in ("right", "no checksum is known")]
    if as_json:
        show_json(rows)
    else:
        for row in rows:
            click.echo(f"{row['file']}: {row['state']}")
        click.echo(f"{len(rows)} files, {len(wrong)} wrong")
    if wrong:
        raise Problem(f"{len(wrong)} files are not what they should be")


def _check(where: Path, name: str, named: bool) -> Iterator[dict[str, str]]:
    for file in SOURCES[name].files:
        if (where / file.path).is_file():
            good = "right" if file.digest else "no checksum is known"
            yield {"file": file.path, "state": problem(where / file.path, file) or good}
        elif named:
            yield {"file": file.path, "state": "missing"}


def _sums(where: Path) -> Iterator[dict[str, str]]:
    """Files that the folder's own checksums name."""
    sums = where / SUMS
    if not sums.is_file():
        return
    for number, line in enumerate(sums.read_text().splitlines(), 1):
        expected, _, name = line.partition(" ")
        name = name.lstrip(" *")
        if len(expected) != 64 or not name:
            yield {"file": f"{SUMS}, line {number}", "state": f"{line[:80]!r}: accepted: 64 hexadecimal digits, a name"}
        elif not (where / name).is_file():
            yield {"file": name, "state": f"missing, named by {SUMS}"}
        else:
            found = digest(where / name, "sha256")
            good = found == f"sha256:{expected}"
            yield {"file": name, "state": "right" if good else f"{found}, accepted: sha256:{expected}"}


@contextmanager
def _bar(file: File, silent: bool) -> Iterator[Any]:
    if silent:
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    form = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*form, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(Path(file.path).name, total=file.size or None)
        yield lambda done, total: bar.update(task, completed=done, total=total or None)
