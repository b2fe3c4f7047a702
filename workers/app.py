"""The Celery app: `celery -A workers.app worker -Q serve`.

JSON only; a task is acknowledged when it is done, so that a killed worker's requests are delivered
again; every task can run twice.
"""

from __future__ import annotations

import sys
from typing import Any

from celery import Celery, signals
from kombu import Queue  # type: ignore[attr-defined]

from rollout.settings import Settings
from workers import process

SERVE, SHADOW, CONTROL = "serve", "shadow", "control"
TICK_S = 60.0
BATCH_ROWS = 16
BATCH_WINDOW_S = 0.01
TASK_TIME_LIMIT_S = 60
VISIBILITY_TIMEOUT_S = 120
"""After this long Redis delivers a killed worker's requests again; above any task's time limit."""

SAFE_POOLS = ("solo", "threads", "prefork")
_serves_model = False


def _result_backend(settings: Settings) -> str:
    broker = settings.resolved_broker_url
    # AMQP brokers answer over reply queues; Redis keeps results itself.
    return broker if broker.startswith(("redis", "rediss")) else "rpc://"


def make_app(settings: Settings) -> Celery:
    app = Celery("rollout", include=["workers.serve", "workers.shadow", "workers.control"])
    app.conf.update(
        broker_url=settings.resolved_broker_url,
        result_backend=_result_backend(settings),
        task_serializer="json",
        result_serializer="json",
        accept_content=["json"],
        result_accept_content=["json"],
        result_expires=3600,
        task_acks_late=True,
        task_time_limit=TASK_TIME_LIMIT_S,
        task_soft_time_limit=TASK_TIME_LIMIT_S - 10,
        task_queues=[
            Queue(name)  # type: ignore[no-untyped-call]
            for name in (SERVE, SHADOW, CONTROL)
        ],
        task_default_queue=SERVE,
        task_create_missing_queues=False,
        task_routes={
            "rollout.serve": {"queue": SERVE},
            "rollout.replay": {"queue": SHADOW},
            "rollout.tick": {"queue": CONTROL},
        },
        broker_transport_options={"visibility_timeout": VISIBILITY_TIMEOUT_S},
        broker_connection_retry_on_startup=True,
        # At least a batch must be held unacknowledged for it to fill (celery-batches).
        worker_prefetch_multiplier=4 * BATCH_ROWS,
        # Loading a large model takes a child longer than the default of 4 s.
        worker_proc_alive_timeout=600.0,
        worker_hijack_root_logger=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        beat_schedule={
            "tick": {"task": "rollout.tick", "schedule": TICK_S, "options": {"expires": TICK_S}}
        },
    )
    return app


app = make_app(Settings())


@signals.worker_init.connect  # type: ignore[untyped-decorator]
def _refuse_unsafe_pools(sender: Any, **_: Any) -> None:
    """Greenlet pools cannot switch inside torch: one batch would block the broker's heartbeat."""
    global _serves_model
    pool = sender.pool_cls.__module__.rsplit(".", 1)[-1]
    if pool not in SAFE_POOLS:
        print(
            f"rollout: pool {pool!r} deadlocks with torch; use --pool=solo (one process a GPU), "
            "threads or prefork",
            file=sys.stderr,
        )
        raise SystemExit(2)
    consumed = set(sender.app.amqp.queues.consume_from)
    _serves_model = bool(consumed & {SERVE, SHADOW})


@signals.worker_process_init.connect  # type: ignore[untyped-decorator]
def _load_model_in_the_child(**_: Any) -> None:
    """After the fork: a model that ran before it hangs its children, and CUDA refuses them."""
    if _serves_model:
        process.limit_torch_threads()
        process.serving_process()
