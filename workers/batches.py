"""Micro-batches that survive their process: what a killed child held goes back to the broker."""

from __future__ import annotations

import logging
from collections.abc import Collection
from typing import Any

from celery.worker.request import Request
from celery_batches import Batches, SimpleRequest
from celery_batches.trace import apply_batches_task

log = logging.getLogger(__name__)


class SurvivingBatches(Batches):  # type: ignore[misc]
    """celery-batches, with an end for batches whose process was killed (by the time limit, say).

    A request delivered again is run alone, so that one which kills its process takes no other
    along; the second time it does so, `give_up` answers it.
    """

    abstract = True

    def give_up(self, request: SimpleRequest, why: str) -> None:
        """Answer a request that killed its process twice."""
        raise NotImplementedError

    def flush(self, requests: Collection[Request]) -> None:
        fresh = [request for request in requests if not _again(request)]
        if fresh:
            self._start(fresh)
        for request in requests:
            if _again(request):
                self._start([request])

    def _start(self, requests: list[Request]) -> None:
        def done(_result: Any) -> None:
            for request in requests:
                request.acknowledge()

        def lost(info: Any) -> None:
            why = info.type.__name__
            for request in requests:
                if _again(request):
                    log.error("task %s killed its process twice: %s", request.id, why)
                    self.give_up(SimpleRequest.from_request(request), why)
                    request.acknowledge()
                else:
                    request.reject(requeue=True)

        self._pool.apply_async(
            apply_batches_task,
            (self, ([SimpleRequest.from_request(request) for request in requests],), 0, None),
            callback=done,
            error_callback=lost,
        )


def _again(request: Request) -> bool:
    return bool((request.delivery_info or {}).get("redelivered"))
