"""Start a worker in this process, with the embedded broker beside it where none is configured."""

from __future__ import annotations

import os

from rollout.settings import Settings
from workers.embedded_broker import embedded_broker


def run_worker(settings: Settings, queues: str, pool: str, concurrency: int, *, beat: bool) -> int:
    """Run a Celery worker until it is stopped; return its exit code."""
    from workers.app import app

    arguments = ["worker", "--loglevel", "info", "-Q", queues, "-P", pool, "-c", str(concurrency)]
    arguments += ["-n", f"{queues.replace(',', '-')}-{os.getpid()}@%h"]
    if beat:
        arguments += ["-B", "-s", str(settings.var / "beat-schedule")]
    with embedded_broker(settings):
        try:
            app.worker_main(arguments)
        except SystemExit as stop:
            return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    return 0
