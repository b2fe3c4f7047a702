"""The `replay` task: a shadow run again from scratch, by transformers alone."""

from __future__ import annotations

from typing import Any

from rollout.engine.full_depth import full_depth_answer
from rollout.store.outcomes import known_answers, record_replay
from rollout.store.session import StoreUnreachable
from workers.app import VISIBILITY_TIMEOUT_S, app
from workers.process import serving_process, store


class OutcomeNotStored(Exception):
    """The outcome is still on its way to the store (or in a spool)."""


@app.task(  # type: ignore[untyped-decorator]
    name="rollout.replay",
    bind=True,
    autoretry_for=(OutcomeNotStored, StoreUnreachable),
    retry_backoff=2,
    # Redis delivers a message that waits longer than the visibility time-out a second time.
    retry_backoff_max=VISIBILITY_TIMEOUT_S // 2,
    max_retries=8,
    ignore_result=True,
)
def replay(self: Any, *, request_id: str, domain: str, text: str) -> None:
    """Compare the continued shadow's full-depth answer with one computed from scratch."""
    with store().read() as session:
        outcome = known_answers(session, [request_id]).get(request_id)
    if outcome is None:
        raise OutcomeNotStored(request_id)
    if outcome.full_answer is None:
        return  # the continued shadow has none: there is nothing to compare with
    held = serving_process()
    with held.lock:
        task = held.engines.of(held.policies.live(domain)).task
        answer = task.labels[full_depth_answer(task, task.encode(text))]
    with store().write() as session:
        record_replay(
            session,
            request_id,
            answer=answer,
            matches=answer == outcome.full_answer,
            layers=held.segments.loaded.depth,
        )
