"""The `serve` task: micro-batches of requests, each answered at its exit."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from celery_batches import SimpleRequest

from rollout.engine.task import BadRequest
from rollout.serving.messages import ServedAnswer, ServeRequest
from rollout.values import RolloutError
from workers.app import BATCH_ROWS, BATCH_WINDOW_S, app
from workers.batches import SurvivingBatches
from workers.process import serving_process
from workers.shadow import replay

log = logging.getLogger(__name__)


class ServeBatches(SurvivingBatches):
    """Batches whose requests always get an answer, be it an error."""

    abstract = True

    def give_up(self, request: SimpleRequest, why: str) -> None:
        _publish(request, RolloutError(f"the request ended its worker process twice ({why})"))


@app.task(  # type: ignore[untyped-decorator]
    base=ServeBatches, name="rollout.serve", flush_every=BATCH_ROWS, flush_interval=BATCH_WINDOW_S
)
def serve(messages: Sequence[SimpleRequest]) -> None:
    """Answer a batch; each result is published at once, while shadowed rows still run on."""
    requests: list[ServeRequest] = []
    accepted: list[SimpleRequest] = []
    for message in messages:
        try:
            requests.append(ServeRequest.from_json(message.kwargs))
            accepted.append(message)
        except BadRequest as error:
            _publish(message, error)
    answered: set[int] = set()

    def release(place: int, answer: ServedAnswer | RolloutError) -> None:
        answered.add(place)
        _publish(accepted[place], answer)

    try:
        held = serving_process()
        with held.lock:
            replays = held.path.serve(requests, release)
    except Exception as error:
        # The batch is acknowledged whatever happens: silence would leave the clients waiting.
        log.exception("a batch of %d failed", len(messages))
        for place, message in enumerate(accepted):
            if place not in answered:
                _publish(message, RolloutError(f"this worker cannot serve: {error}"))
        return
    for shadow in replays:
        replay.delay(request_id=shadow.request_id, domain=shadow.domain, text=shadow.text)


def _publish(message: SimpleRequest, answer: ServedAnswer | RolloutError) -> None:
    result: dict[str, Any] = (
        {"error": str(answer), "kind": type(answer).__name__}
        if isinstance(answer, RolloutError)
        else answer.to_json()
    )
    try:
        app.backend.mark_as_done(message.id, result, request=message)
    except Exception:
        # It must not stop the batch it was answered in. The outcome is stored: whoever asks again
        # with this request id gets the answer.
        log.exception("the answer to task %s cannot be delivered", message.id)
