"""The Celery app: `celery -A workers.app worker -Q serve`.

JSON only; a task is acknowledged when it is done, so that a killed worker's requests are delivered
again; every task can run twice.

Which pool: threads with one thread (`-P threads -c 1`) answers a batch at a time in one process,
with torch's own number of threads (every core, unless OMP_NUM_THREADS says otherwise) or its GPU,
and goes on talking to the broker meanwhile; start more workers for more. More threads are no
faster, since the engine takes one batch at a time. solo does the same without talking meanwhile.
prefork gives each child its own model and one torch thread. Greenlet pools are refused.

What happens to a batch when something dies:
- A child of a prefork pool is killed or exceeds the time limit (which only prefork enforces, and
  which holds for a batch as for any task): celery-batches by itself would neither acknowledge nor
  return its messages, and their prefetch slots would be gone for good. `workers.batches` gives them
  back to the broker at once.
- A whole worker is killed: RabbitMQ delivers its messages again at once, Redis after
  `VISIBILITY_TIMEOUT_S`, when another worker looks: at its start, and every `RESTORE_INTERVAL_S`
  unless it is a solo one in a batch.
- On Redis, that kill loses the message then being handed over, since kombu takes a message from
  Redis before it notes that it holds it. Under threads and prefork that is an instant. A solo
  worker reads nothing while its batch runs, and the next request already lies in its socket: killed
  under load, it loses that one nearly every time. Its client sees a time-out and may ask again with
  the same request id, which is safe. Where that is not good enough, use threads, or RabbitMQ.
- A worker is stopped by SIGTERM: the batches that run are finished and answered; messages it held
  but had not begun go back to the broker for the next worker. It ends within `STOP_LIMIT_S` even
  where its broker is gone.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from typing import Any, NoReturn

from celery import Celery, signals
from kombu import Queue  # type: ignore[attr-defined]

from rollout.settings import Settings
from rollout.values import RolloutError
from workers.embedded_broker import die_with_parent

log = logging.getLogger(__name__)

SERVE, SHADOW, CONTROL = "serve", "shadow", "control"
TICK_S = 60.0
BATCH_ROWS = 16
BATCH_WINDOW_S = 0.01
TASK_TIME_LIMIT_S = 60
VISIBILITY_TIMEOUT_S = 120
"""After this long Redis delivers a killed worker's requests again; above any task's time limit."""

RESTORE_INTERVAL_S = 5
"""A worker that is not in a batch looks this often for requests to deliver again."""

STOP_LIMIT_S = TASK_TIME_LIMIT_S + 15
"""A worker told to stop that has not ended after this long (its broker is gone) ends itself."""

SAFE_POOLS = ("solo", "thread", "prefork")
"""By the name of their module in celery.concurrency."""

_serves_model = False
_forks = False


def _result_backend(settings: Settings) -> str:
    broker = settings.resolved_broker_url
    # AMQP brokers answer over reply queues; Redis keeps results itself.
    return broker if broker.startswith(("redis", "rediss")) else "rpc://"


def redis_options(visibility_timeout_s: int) -> dict[str, int]:
    """kombu's options for Redis; the other brokers pass over them."""
    return {
        "visibility_timeout": visibility_timeout_s,
        # kombu looks every 100 s by default, and a worker killed as it looks bars the others for
        # another 300 s.
        "unacked_restore_interval": RESTORE_INTERVAL_S,
        "unacked_restore_throttle": 1,
        "unacked_mutex_expire": 2 * RESTORE_INTERVAL_S,
    }


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
        broker_transport_options=redis_options(VISIBILITY_TIMEOUT_S),
        broker_connection_retry_on_startup=True,
        # At least a batch must be held unacknowledged for it to fill (celery-batches).
        worker_prefetch_multiplier=4 * BATCH_ROWS,
        # Loading a large model takes a child longer than the default of 4 s.
        worker_proc_alive_timeout=600.0,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        beat_schedule={
            "tick": {"task": "rollout.tick", "schedule": TICK_S, "options": {"expires": TICK_S}}
        },
    )
    return app


app = make_app(Settings())


@signals.celeryd_after_setup.connect  # type: ignore[untyped-decorator]
def _refuse_what_cannot_work(instance: Any, **_: Any) -> None:
    """Before the pool starts: a worker that cannot serve says why and ends with exit code 2."""
    global _serves_model, _forks
    pool = instance.pool_cls.__module__.rsplit(".", 1)[-1]
    if pool not in SAFE_POOLS:
        # Greenlets cannot switch inside torch: one batch would block the broker's heartbeat.
        _refuse(
            f"pool {pool!r} deadlocks with torch; use --pool=threads (one process a GPU), "
            "solo or prefork"
        )
    _forks = pool == "prefork"
    _serves_model = bool({SERVE, SHADOW} & set(instance.app.amqp.queues.consume_from))
    # torch takes seconds to import, which a client that only sends requests need not wait for.
    from workers import process

    logging.getLogger("alembic").setLevel(logging.WARNING)
    try:
        process.check_store()
        if _serves_model and _forks:
            process.check_model_in_a_child()
        elif _serves_model:
            process.serving_process()
    except RolloutError as error:
        _refuse(str(error))
    except Exception:
        # Celery logs what a signal's receiver raises, and would start all the same.
        log.exception("the worker cannot start")
        raise SystemExit(1) from None


def _refuse(why: str) -> NoReturn:
    print(f"rollout: {why}", file=sys.__stderr__, flush=True)
    raise SystemExit(2)


@signals.worker_process_init.connect  # type: ignore[untyped-decorator]
def _load_model_in_the_child(**_: Any) -> None:
    """After the fork: a model that ran before it hangs its children, and CUDA refuses them."""
    if not _forks:
        return  # solo sends this signal too, in the main process
    die_with_parent()
    if _serves_model:
        from workers import process

        process.limit_torch_threads()
        process.serving_process()


@signals.worker_shutting_down.connect  # type: ignore[untyped-decorator]
def _stop_in_bounded_time(**_: Any) -> None:
    """Celery, stopped while it looks for its broker, may look for ever; late acknowledgement makes
    a hard end safe."""
    timer = threading.Timer(STOP_LIMIT_S, os._exit, (1,))
    timer.daemon = True
    timer.start()


@signals.beat_embedded_init.connect  # type: ignore[untyped-decorator]
def _end_beat_with_its_worker(**_: Any) -> None:
    die_with_parent()
