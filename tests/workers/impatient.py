"""The app with waits short enough for a test: `celery -A tests.workers.impatient`."""

from tests.workers.telling import app
from workers import app as settings

__all__ = ["app"]

settings.STOP_LIMIT_S = 15
app.conf.task_time_limit = 6
