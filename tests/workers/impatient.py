"""The app with waits short enough for a test: `celery -A tests.workers.impatient`."""

from workers.app import app

app.conf.update(
    broker_transport_options={"visibility_timeout": 3},
    task_time_limit=6,
)
