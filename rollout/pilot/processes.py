"""The pilot's Celery workers as processes, and waiting for what they answer."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from celery.exceptions import TimeoutError as ResultTimeout
from celery.result import AsyncResult

from rollout.values import RolloutError
from workers.embedded_broker import die_with_parent

ANSWER_TIMEOUT_S = 120.0


def answers(
    results: list[AsyncResult], workers: dict[str, subprocess.Popen[bytes]]
) -> list[dict[str, str]]:
    """What the tasks returned, in their order; an error as soon as a worker has ended."""
    try:
        return [_answer(result, workers) for result in results]
    finally:
        for result in results:
            # When it is collected, a result takes leave of its backend, and waits long for one
            # that is gone by then.
            result.backend = None


def _answer(result: AsyncResult, workers: dict[str, subprocess.Popen[bytes]]) -> dict[str, str]:
    deadline = time.monotonic() + ANSWER_TIMEOUT_S
    while True:
        try:
            answer: dict[str, str] = result.get(timeout=5)
        except ResultTimeout:
            dead = [name for name, worker in workers.items() if worker.poll() is not None]
            if dead or time.monotonic() > deadline:
                what = f"worker {dead[0]} ended" if dead else "the workers do not answer"
                raise RolloutError(f"{what}; see var/*.log in the pilot's folder") from None
        else:
            result.forget()
            return answer


@contextlib.contextmanager
def running_workers(folder: Path) -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    """Real Celery workers, as `celery -A workers.app worker` starts them; stopped at the end."""
    started: dict[str, subprocess.Popen[bytes]] = {}
    with contextlib.ExitStack() as logs:
        for name, queues in (("serve", "serve"), ("background", "shadow,control")):
            log = logs.enter_context((folder / "var" / f"worker-{name}.log").open("wb"))
            command = [sys.executable, "-m", "celery", "-A", "workers.app", "worker"]
            command += ["-Q", queues, "-P", "threads", "-c", "1", "-n", f"{name}@%h", "-l", "info"]
            started[name] = subprocess.Popen(
                command,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Not SIGTERM: a worker that stops gently waits for its broker, which is gone too.
                preexec_fn=partial(die_with_parent, signal.SIGKILL),
                # Two workers on few cores: more threads would only wait for each other.
                env=os.environ | {"OMP_NUM_THREADS": "1"},
            )
        try:
            yield started
        finally:
            for worker in started.values():
                worker.send_signal(signal.SIGTERM)
            for worker in started.values():
                with contextlib.suppress(subprocess.TimeoutExpired):
                    worker.wait(timeout=15)
                worker.kill()
