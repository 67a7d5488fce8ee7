"""Many runs, each kept in a file of its own as soon as it is done: what is there is not run again.

A run is named by everything that decides it: scenario, sizes, spec, seed, protocol. So a bench that was killed goes on
where it stopped, and gives the numbers that it would have given; a run that was under way begins again.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from continual.bench.report import machine
from continual.scenarios import catalog, methods
from continual.scenarios.catalog import Sizes
from continual.scenarios.protocol import Examination, Protocol, Run
from continual.scenarios.scenario import Scenario
from continual.scenarios.splits import shuffled
from continual.scenarios.subjects import InProcess, Served
from learners.spec import ModelSpec

LEAST_FREE = 64 << 20
"""Bytes that must be free in the folder before anything is run."""

SAMPLE = 100
"""Events of each part whose features are in the digest of a run; of labels all are."""

VERSION, SERVED = 1, 2
"""Of what is written, of a run here and of one in a service; another one is run again."""


@dataclass(frozen=True)
class Task:
    """One run.

    Attributes:
        scenario: name in the catalog, or a file.
        sizes: what is cut.
        method: name, with its changes.
        seed: of the scenario's orders and of the learner.
        protocol: what is read.
        target: HOST:PORT of a service that learns in place of this process; "": none.
        tuning: a choice is made by it: the test sets are left alone (see `catalog.build`), and those that are held out
            in their place are asked after the last event only.
    """

    scenario: str
    sizes: Sizes
    method: str
    seed: int
    protocol: Protocol
    target: str = ""
    tuning: bool = False

    def build(self) -> tuple[Scenario, ModelSpec]:
        """The scenario and the spec."""
        method = methods.find(self.method)
        scenario = catalog.build(self.scenario, self.seed, self.sizes, tuning=self.tuning)
        spec = methods.model(method, scenario, self.seed)
        return (shuffled(scenario, self.seed) if method.joint else scenario), spec

    def key(self, scenario: Scenario, spec: ModelSpec) -> str:
        """Digest of everything that decides the run, the data among it."""
        served = SERVED if self.target else False
        decides = asdict(self) | {"spec": spec.digest(), "target": served, "version": VERSION}
        del decides["tuning"]  # what it changes is the data
        sha = hashlib.sha256(json.dumps(decides, sort_keys=True).encode())
        for one in scenario.experiences:
            for events in filter(None, (one.train, one.test)):
                sha.update(events.labels().tobytes())
                sha.update(events.batch(0, SAMPLE).x.tobytes())
        return sha.hexdigest()[:16]


@dataclass(frozen=True)
class Done:
    """A run that is done.

    Attributes:
        task: what it was.
        run: what came of it.
        spec: the complete spec, as JSON holds it.
        machine: where and with which versions.
        seconds: it took in all.
        kept: it was there already.
    """

    task: Task
    run: Run
    spec: dict[str, Any]
    machine: dict[str, Any]
    seconds: float
    kept: bool = False


class Failed(RuntimeError):  # noqa: N818 - it is collected, and told at the end
    """A run ended with an error; the others go on."""


class DiskFull(RuntimeError):  # noqa: N818 - it ends a bench
    """A run could not be kept: going on would lose every further one too."""


class Folder:
    """Where runs are kept, one file each.

    Raises:
        DiskFull: it has less than `LEAST_FREE` bytes left.
        OSError: it cannot be written to.
    """

    def __init__(self, path: Path) -> None:
        self.path = path / "runs"
        self.path.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.path).free
        if free < LEAST_FREE:
            raise DiskFull(f"{self.path}: {free >> 20} MiB are free, {LEAST_FREE >> 20} are needed to begin")
        probe = self.path / f".probe-{os.getpid()}"
        probe.write_bytes(b"0")
        probe.unlink()

    def file(self, task: Task, key: str) -> Path:
        """Of a run."""
        return self.path / f"{re.sub(r'[^A-Za-z0-9.=-]+', '_', task.method)}-{task.seed}-{key}.json"

    def read(self, task: Task, key: str) -> Done | None:
        """A run that is kept whole; None: it is not there, or was cut off."""
        try:
            held = json.loads(self.file(task, key).read_text())
            return Done(task, Run(**held["run"]), held["spec"], held["machine"], held["seconds"], kept=True)
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write(self, done: Done, key: str) -> None:
        """Keeps a run: the whole file appears at once, and after it is on the disk.

        Raises:
            DiskFull: it could not be written.
        """
        target = self.file(done.task, key)
        part = target.with_name(f".{target.name}.{os.getpid()}")
        document = {
            "task": asdict(done.task),
            "run": done.run.to_dict(),
            "spec": done.spec,
            "machine": done.machine,
            "seconds": done.seconds,
        }
        try:
            with part.open("w") as file:
                json.dump(document, file)
                file.flush()
                os.fsync(file.fileno())
            part.replace(target)
        except OSError as fault:
            raise DiskFull(f"{target}: {fault}; what was kept before is whole") from fault
        finally:
            part.unlink(missing_ok=True)


def perform(task: Task, folder: Path | None = None, say: Callable[[int], None] = lambda _: None) -> Done:
    """Runs a task, or reads it where it is kept.

    Args:
        task: what to run.
        folder: of the runs; None: nothing is kept.
        say: is told the events learned so far.

    Raises:
        DiskFull: the run could not be kept.
        Failed: anything else, with its reason.
    """
    try:
        scenario, spec = task.build()
        key = task.key(scenario, spec)
        kept = Folder(folder) if folder is not None else None
        held = kept.read(task, key) if kept is not None else None
        if held is not None:
            return held
        start = time.monotonic()
        run = _served(task, scenario, spec, key, say) if task.target else _here(task, scenario, spec, say)
        work = methods.flops(methods.find(task.method), spec, scenario)
        if work is not None:
            run.cost["flops_per_event"] = work
        dump = spec.model_dump(mode="json")
        done = Done(task, run, dump, machine(), time.monotonic() - start)
        if kept is not None:
            kept.write(done, key)
        return done
    except DiskFull:
        raise
    except Exception as fault:
        raise Failed(f"{task.method}, seed {task.seed}: {type(fault).__name__}: {fault}") from fault


def _here(task: Task, scenario: Scenario, spec: ModelSpec, say: Callable[[int], None]) -> Run:
    # A throw-away learner compiles what is compiled, outside of what is timed.
    warm = InProcess(spec, scenario.labels)
    few = scenario.experiences[0].train.batch(0, 3 * task.protocol.batch)
    warm.learn(few)
    if scenario.target != "regression":
        warm.predict(few)
    return Examination(InProcess(spec, scenario.labels), scenario, task.protocol, say, end=task.tuning)()


def _served(task: Task, scenario: Scenario, spec: ModelSpec, key: str, say: Callable[[int], None]) -> Run:
    from service.client import Client

    named = spec.model_copy(update={"name": f"bench-{key}"})
    with Client(task.target) as client, closing(Served(client, named, scenario.labels)) as subject:
        run = Examination(subject, scenario, task.protocol, say, end=task.tuning)()
        run.prequential.pop("log_loss", None)
        told = client.models.statistics(named.name).metrics
        if "log_loss" in told and task.protocol.cost <= 1:  # else it knows nothing of the events that were passed over
            run.prequential["log_loss"] = told["log_loss"]
        return run


def perform_all(
    tasks: Sequence[Task],
    folder: Path | None,
    jobs: int,
    step: Callable[[Task, int], None] = lambda task, events: None,
) -> Iterator[Done | Failed]:
    """Runs tasks, in order with one job, else as they come; a failure is yielded and the rest goes on.

    Args:
        tasks: what to run.
        folder: see `perform`.
        jobs: processes; with one, everything runs here.
        step: is told of events learned, where the run is here.

    Raises:
        DiskFull: see `perform`; what was done before is kept.
    """
    if jobs == 1:
        for task in tasks:
            try:
                yield perform(task, folder, lambda events, task=task: step(task, events))  # type: ignore[misc]
            except Failed as failed:
                yield failed
        return
    context = multiprocessing.get_context("spawn")  # numba and gRPC do not survive a fork
    with ProcessPoolExecutor(jobs, mp_context=context) as pool:
        running = {pool.submit(perform, task, folder): task for task in tasks}
        try:
            for future in as_completed(running):
                fault, task = future.exception(), running[future]
                if isinstance(fault, DiskFull):
                    raise fault
                if fault is not None and not isinstance(fault, Failed):
                    fault = Failed(f"{task.method}, seed {task.seed}: {type(fault).__name__}: {fault}")
                yield future.result() if fault is None else fault
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
