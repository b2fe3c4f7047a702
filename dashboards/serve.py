"""Serve the console on a port until it is interrupted."""

from __future__ import annotations

import socket

import uvicorn

from dashboards.app import create_app, utc_now
from dashboards.pages import Clock
from rollout.control.schema import Spec
from rollout.store.session import Store
from rollout.values import RolloutError

SHUTDOWN_S = 2
"""How long open pages may keep a stopping server."""


def serve(
    store: Store,
    spec: Spec,
    host: str = "127.0.0.1",
    port: int = 8080,
    clock: Clock = utc_now,
) -> None:
    """Blocks until SIGINT or SIGTERM. Port 0 takes any free one.

    Raises:
        RolloutError: the address cannot be listened on.
    """
    with listen(host, port) as listening:
        config = uvicorn.Config(
            create_app(store, spec, clock),
            log_level="warning",
            timeout_graceful_shutdown=SHUTDOWN_S,
        )
        uvicorn.Server(config).run(sockets=[listening])


def listen(host: str, port: int) -> socket.socket:
    """A listening socket, taken before anything else starts.

    Raises:
        RolloutError: the port is in use, or the address is not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise RolloutError(
            f"cannot listen on {host} port {port}: {error.strerror or error}; "
            "stop what uses it or choose another with --port"
        ) from error
