"""The app with waits short enough for a test: `celery -A tests.workers.impatient`."""

from tests.workers.telling import app
from workers import app as settings
from workers.app import redis_options

__all__ = ["app"]

settings.STOP_LIMIT_S = 8
app.conf.update(
    broker_transport_options=redis_options(3),
    task_time_limit=6,
)
