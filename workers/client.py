"""Send requests to the workers and wait for their answers."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from celery.exceptions import TimeoutError as ResultTimeout
from celery.result import AsyncResult
from kombu.exceptions import OperationalError

from rollout.values import RolloutError
from workers.app import SERVE, app

CONNECT_S = 5.0


class NotAnswered(RolloutError):
    """No worker answered in time, or the broker does not take requests."""


def submit(
    domain: str,
    text: str,
    request_id: str,
    *,
    key: str | None = None,
    requested_at: datetime | None = None,
) -> AsyncResult:
    """Put a request on the serve queue; its result is what `ask` returns.

    Raises:
        NotAnswered: the broker does not answer.
    """
    fields = {
        "request_id": request_id,
        "domain": domain,
        "text": text,
        "request_key": key,
        "requested_at": None if requested_at is None else requested_at.isoformat(),
    }
    try:
        return app.send_task("rollout.serve", kwargs=fields, queue=SERVE, retry=False)
    except OperationalError as error:
        raise _broker_silent(error) from error


def ask(
    domain: str, text: str, request_id: str, *, key: str | None = None, timeout_s: float = 30.0
) -> dict[str, Any]:
    """Send one request and wait for its answer.

    Raises:
        RolloutError: the request was refused, or nobody answered within `timeout_s` seconds.
    """
    _reach_broker()
    result = submit(domain, text, request_id, key=key)
    try:
        answer: dict[str, Any] = result.get(timeout=timeout_s)
    except ResultTimeout as error:
        raise NotAnswered(
            f"no answer to request {request_id} within {timeout_s:g} s: is a worker running? "
            "Asking again with the same --request-id is safe"
        ) from error
    if "error" in answer:
        raise RolloutError(answer["error"])
    return answer


def _reach_broker() -> None:
    # The result backend would try again for a minute before it says that nobody is there.
    try:
        with app.connection_for_write() as connection:
            connection.ensure_connection(max_retries=1, interval_start=0.1, timeout=CONNECT_S)
    except OperationalError as error:
        raise _broker_silent(error) from error


def _broker_silent(error: OperationalError) -> NotAnswered:
    return NotAnswered(
        f"the broker does not answer ({error}): start `rollout worker`, or set "
        "ROLLOUT_BROKER_URL to the one your workers use"
    )
