"""`continual serve`: the service in the foreground."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from continual.commands._shared import (
    DEFAULT_PORT,
    INTERRUPTED,
    Problem,
    connected,
    examples,
    explain,
    json_option,
    show_json,
    target_note,
)
from streams.printable import printable

PORT_TAKEN, FOLDER_IN_USE, STORE_UNFIT = 3, 4, 5


@click.command(
    epilog=examples(
        "continual serve                                  # 127.0.0.1:50051, data in ./.continual",
        "continual serve --model examples/shuttle.yaml    # with a model from the start",
        "continual serve --redis redis://10.0.0.5:6379    # an external store; its durability is read and reported",
    )
)
@click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(".continual"),
    show_default=True,
    help="Folder of the embedded store and the logs; the same folder continues the same models.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Interface to listen on.")
@click.option(
    "--port", type=click.IntRange(1, 65535), default=DEFAULT_PORT, show_default=True, help="Public port of all shards."
)
@click.option(
    "--shards", type=click.IntRange(0), default=0, show_default=True, help="Shard processes; 0: one per core but one."
)
@click.option(
    "--redis",
    metavar="URL",
    envvar="CONTINUAL_REDIS",
    help="Use this Redis (redis://, rediss://, unix://) and start none. Others can read a command line: give a "
    "password by --redis-password-file, $CONTINUAL_REDIS_PASSWORD, or a URL in $CONTINUAL_REDIS.",
)
@click.option(
    "--redis-password-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="File with the password of --redis, the same on every node. It is read, never stored or printed.",
)
@click.option("--ray", metavar="ADDRESS", help="Use this Ray cluster and start none; with it, give --redis.")
@click.option(
    "--appendfsync",
    type=click.Choice(["always", "everysec", "no"]),
    default="always",
    show_default=True,
    help="When the embedded store syncs: before every reply, every second, or when the system likes.",
)
@click.option(
    "--signing-key",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Key that signs pickled state (models of kind river and drift): 32 random bytes or more, the same on every "
    "node. Default: $CONTINUAL_SIGNING_KEY, or with the embedded store a file in its folder.",
)
@click.option(
    "--folders",
    multiple=True,
    type=click.Path(file_okay=False, path_type=Path),
    metavar="PATH",
    help="Folders below this one may be sources of models; may be repeated. Default: no folder may.",
)
@click.option(
    "--sources-allow",
    "hosts",
    multiple=True,
    metavar="HOST[:PORT]",
    help="Sources and sinks of models may be on this server (or unix:///path of a Redis), and on no other that is not "
    "named so; may be repeated. Default: on every host.",
)
@click.option(
    "--source-secret",
    "secrets",
    multiple=True,
    metavar="NAME",
    help="Environment variable that `password_env` of sources and sinks may name; may be repeated. Default: none.",
)
@click.option(
    "--model",
    "specs",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="SPEC.yaml",
    help="Create this model if it is not there yet; may be repeated.",
)
@json_option
def serve(data: Path, host: str, port: int, as_json: bool, **options: Any) -> None:
    """Serve in the foreground until Ctrl-C or SIGTERM.

    Everything of a deployment is in the store: start again with the same --data (or --redis) and every model goes
    on where it stopped. Ends with 3 if the port is taken, 4 if another process uses the folder, 5 if the Redis is
    unfit, 1 on any other problem.
    """
    done = threading.Event()
    say = (lambda line: None) if as_json else (lambda line: click.echo(f"  {printable(line)}"))
    began = time.perf_counter()
    models = _read(options.pop("specs"))
    opened = _reach(options.pop("folders"), options.pop("hosts"), options.pop("secrets"))
    if options["redis_password_file"] and not options["redis"]:
        raise click.UsageError("--redis-password-file goes with --redis")
    with _signals(done) as stop, problems(data / "logs"):
        from service.serve import Deployment, ServeOptions

        deployment = Deployment(ServeOptions(data=data, host=host, port=port, reach=opened, **options), say, done.set)
        with deployment:
            stop()  # Ray has put handlers of its own in place
            listed = _create(deployment.address, models, deployment.holds_models())
            seconds = time.perf_counter() - began
            _announce(deployment, listed, seconds, as_json)
            done.wait()
            if deployment.failure is not None:
                raise deployment.failure
            if not as_json:
                click.echo("\nStopping: answering what was admitted, writing snapshots ...")
    if not as_json:
        click.echo("Stopped. The same command goes on from here.")


def _reach(folders: tuple[Path, ...], hosts: tuple[str, ...], secrets: tuple[str, ...]) -> Any:
    """What specs may name; folders are absolute from here on, since shards run elsewhere."""
    from streams.reach import Reach

    return Reach(tuple(str(folder.absolute()) for folder in folders), hosts, secrets)


@contextmanager
def _signals(done: threading.Event) -> Iterator[Callable[[], None]]:
    """SIGINT and SIGTERM break the start off; once the function that this gives was called, they set `done`."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in numbers}

    def break_off(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    def switch() -> None:
        for number in numbers:
            signal.signal(number, lambda *_: done.set())

    for number in numbers:
        signal.signal(number, break_off)
    try:
        yield switch
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def problems(logs: Path) -> Iterator[None]:
    """Ends the command in one line for everything that the surroundings can cause."""
    from service.serve import NotServing, PortTaken
    from service.store.embedded import AlreadySupervisedError, OrphanError
    from service.store.errors import StoreError, StoreRefused

    try:
        yield
    except KeyboardInterrupt:
        raise Problem("stopped", INTERRUPTED) from None
    except PortTaken as error:
        raise Problem(str(error), PORT_TAKEN) from error
    except (AlreadySupervisedError, OrphanError) as error:
        raise Problem(str(error), FOLDER_IN_USE) from error
    except StoreRefused as error:
        raise Problem(f"this Redis is unfit: {error}", STORE_UNFIT) from error
    except (NotServing, StoreError, OSError, ValueError) as error:
        raise Problem(str(error)) from error
    except Exception as error:
        from ray.exceptions import RayError  # not earlier: Ray reads its settings when it is imported

        if not isinstance(error, RayError):
            raise
        raise Problem(f"Ray failed, see {logs.resolve()}: {str(error).splitlines()[0]}") from error


def _read(specs: tuple[Path, ...]) -> list[Any]:
    """The models of the spec files, so that a mistake in one shows before anything is started."""
    models = []
    for path in specs:
        try:
            from learners.spec import ModelSpec

            models.append(ModelSpec.load(path))
        except Exception as error:
            message = explain(error)
            if message is None:
                raise
            raise Problem(f"{path}: {message}") from error
    return models


def _create(address: str, models: list[Any], held: bool) -> dict[str, int]:
    """Creates what is not there yet; returns the position of every model."""
    if not models and not held:
        return {}  # a service without models need not hold a client
    with connected(address) as client:
        for model in models:
            client.models.create(model, exist_ok=True)
        return {model.name: model.position for model in client.models.list()}


def _announce(deployment: Any, models: dict[str, int], seconds: float, as_json: bool) -> None:
    """Says where everything is, and what to type next."""
    from streams.redis_client import shown

    data = deployment.options.data
    state = {
        "address": deployment.address,
        "deployment": deployment.deployment,
        "data": str(data.resolve()),
        "redis": shown(deployment.redis_url),
        "shards": list(deployment.actors),
        "logs": str(deployment.logs),
        "models": models,
        "seconds": round(seconds, 2),
    }
    if as_json:
        show_json(state)
        return
    held = ", ".join(f"{printable(name)} ({position:,} events)" for name, position in models.items()) or "none yet"
    target = target_note(deployment.address)
    name = next(iter(models), None)
    following = (
        f"continual events send FILE.csv --model {name}{target}"
        if name
        else f"continual models create NAME --from FILE.csv --label COLUMN{target}"
    )
    for line in (
        f"\nServing on {deployment.address} after {seconds:.1f} s (deployment {deployment.deployment})",
        f"  models: {held}",
        f"  logs:   {deployment.logs}",
        f"  store:  {shown(deployment.redis_url)}",
        f"\nNext, in another terminal:  {following}",
        "Ctrl-C stops; nothing that was acknowledged is lost.",
    ):
        click.echo(line)
