"""A pool that Celery can load and we do not know: stands for gevent where it is not installed."""

from celery.concurrency.solo import TaskPool as Solo


class TaskPool(Solo):  # type: ignore[misc]
    """What `CELERY_CUSTOM_WORKER_POOL` names."""
