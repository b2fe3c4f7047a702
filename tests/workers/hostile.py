"""The app with two requests that do what no request should: hang, and kill their process."""

import os
import signal
import time

from rollout.engine.task import ChoiceTask
from tests.workers.impatient import app
from workers.serve import serve

__all__ = ["app"]

serve.flush_interval = float(os.environ.get("TEST_BATCH_WINDOW_S", serve.flush_interval))
_encode = ChoiceTask.encode


def _hostile(task: ChoiceTask, text: str) -> list[list[int]]:
    if text == "hang":
        time.sleep(600)
    if text == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if text == "slowly":
        print("slowly begins", flush=True)
        time.sleep(1.0)
    return _encode(task, text)


ChoiceTask.encode = _hostile  # type: ignore[method-assign]
