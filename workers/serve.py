"""The `serve` task: micro-batches of requests, each answered at its exit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from celery_batches import Batches, SimpleRequest

from rollout.engine.task import BadRequest
from rollout.serving.path import ServedAnswer, ServeRequest
from rollout.values import RolloutError
from workers.app import BATCH_ROWS, BATCH_WINDOW_S, app
from workers.process import serving_process
from workers.shadow import replay


@app.task(  # type: ignore[untyped-decorator]
    base=Batches, name="rollout.serve", flush_every=BATCH_ROWS, flush_interval=BATCH_WINDOW_S
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

    def release(place: int, answer: ServedAnswer | RolloutError) -> None:
        _publish(accepted[place], answer)

    held = serving_process()
    with held.lock:
        replays = held.path.serve(requests, release)
    for shadow in replays:
        replay.delay(request_id=shadow.request_id, domain=shadow.domain, text=shadow.text)


def _publish(message: SimpleRequest, answer: ServedAnswer | RolloutError) -> None:
    result: dict[str, Any] = (
        {"error": str(answer), "kind": type(answer).__name__}
        if isinstance(answer, RolloutError)
        else answer.to_json()
    )
    app.backend.mark_as_done(message.id, result, request=message)
