"""Start a worker in this process, with the embedded broker beside it where none is configured."""

from __future__ import annotations

import os

from rollout.settings import Settings
from rollout.values import RolloutError
from workers.embedded_broker import embedded_broker


def run_worker(settings: Settings, queues: str, pool: str, concurrency: int, *, beat: bool) -> int:
    """Run a Celery worker until it is stopped; return its exit code.

    Raises:
        RolloutError: there is no such queue, or the embedded broker does not start.
    """
    from workers.app import CONTROL, SERVE, SHADOW, app

    unknown = set(queues.split(",")) - {SERVE, SHADOW, CONTROL}
    if unknown:
        raise RolloutError(
            f"there is no queue {', '.join(sorted(map(repr, unknown)))}: "
            f"choose from {SERVE}, {SHADOW}, {CONTROL}"
        )
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
