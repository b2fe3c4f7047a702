"""The request path: assign, answer, release at the exit, compare, write down."""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from datetime import datetime

from rollout.engine.choice import Answer, RowPlan, answer_batch
from rollout.engine.costs import LoopCosts
from rollout.engine.segments import Segments
from rollout.serving.assignment import arm_of, is_shadowed, share
from rollout.serving.domain_engine import DomainEngine, DomainEngines
from rollout.serving.messages import ServedAnswer, ServeRequest, ShadowReplay, clash, digest
from rollout.serving.outbox import Outbox
from rollout.serving.outcome import Assigned, answered_again, outcome_of, served
from rollout.serving.policy_cache import PolicyCache
from rollout.store.models import Outcome
from rollout.store.outcomes import known_answers
from rollout.store.session import Store, StoreUnreachable
from rollout.values import RolloutError

log = logging.getLogger(__name__)

REPLAY_SALT = "replay"


Release = Callable[[int, ServedAnswer | RolloutError], None]


class ServingPath:
    """Answers batches. One per process; not thread-safe, since the engine is not.

    Args:
        clock: The time now, zone-aware.
        worker: Name written beside each outcome.
        costs: What decides on rebatching; measured with the first batch where not given.
    """

    def __init__(
        self,
        segments: Segments,
        store: Store,
        policies: PolicyCache,
        engines: DomainEngines,
        outbox: Outbox,
        *,
        clock: Callable[[], datetime],
        worker: str,
        costs: LoopCosts | None = None,
    ) -> None:
        self._costs = costs
        self._segments = segments
        self._store = store
        self._policies = policies
        self._engines = engines
        self._outbox = outbox
        self._clock = clock
        self._worker = worker

    def serve(self, requests: Sequence[ServeRequest], release: Release) -> list[ShadowReplay]:
        """Answer a batch: `release(place, answer or error)` once per request, as soon as known.

        A request whose id was answered before gets that answer again. Returns the shadows chosen
        for a replay from scratch. Raises nothing for a bad request, a store that is down or a
        policy that cannot be served: those get an error or full depth.

        Args:
            release: Must not raise: it is called in the middle of a batch.
        """
        stored = self._stored(requests)
        same: dict[str, list[int]] = defaultdict(list)
        for place, request in enumerate(requests):
            same[request.request_id].append(place)
        released: set[str] = set()

        def release_once(first: int, answer: ServedAnswer | RolloutError) -> None:
            """To the request at `first`, and to those that are the same request again."""
            request = requests[first]
            if request.request_id in released:
                return
            released.add(request.request_id)
            for place in same[request.request_id]:
                refusal = clash(requests[place], request.domain, digest(request.text))
                release(place, refusal or answer)

        by_domain: dict[str, list[int]] = defaultdict(list)
        for request_id, places in same.items():
            known = stored.get(request_id)
            if known is None:
                by_domain[requests[places[0]].domain].append(places[0])
                continue
            for place in places:
                refusal = clash(requests[place], known.domain, known.text_hash)
                release(place, refusal or answered_again(known))
        return [
            shadow
            for domain, places in by_domain.items()
            for shadow in self._serve_domain(domain, requests, places, release_once)
        ]

    def _stored(self, requests: Sequence[ServeRequest]) -> dict[str, Outcome]:
        try:
            with self._store.read() as session:
                return known_answers(session, [request.request_id for request in requests])
        except StoreUnreachable:
            return {}

    def _serve_domain(
        self,
        domain: str,
        requests: Sequence[ServeRequest],
        places: Sequence[int],
        release: Release,
    ) -> list[ShadowReplay]:
        now = self._clock()
        try:
            engine = self._engines.of(self._policies.live(domain))
        except RolloutError as error:
            for place in places:
                release(place, error)
            return []
        rows: list[Assigned] = []
        for place in places:
            request = requests[place]
            try:
                prompt, at = engine.task.encode(request.text), request.time(now)
            except RolloutError as error:
                release(place, error)
                continue
            except Exception as error:
                log.exception("request %s cannot be encoded", request.request_id)
                release(place, RolloutError(f"the text cannot be encoded: {error}"))
                continue
            arm = arm_of(domain, request.request_key or request.request_id, engine.stage_weight)
            shadow = arm == "early" and is_shadowed(domain, request.request_id, engine.shadow_rate)
            rows.append(Assigned(place, request, at, prompt, arm, shadow))
        if not rows:
            return []
        try:
            return self._answer(engine, rows, release)
        except Exception as error:
            if len(rows) == 1:
                log.exception("request %s cannot be answered", rows[0].request.request_id)
                release(rows[0].place, RolloutError(f"the engine failed: {error}"))
                return []
            # One poisonous request must not take its batch down: each again, alone.
            log.warning("a batch of %d failed (%s); answering one by one", len(rows), error)
            return [
                shadow
                for row in rows
                for shadow in self._serve_domain(domain, requests, [row.place], release)
            ]

    def _answer(
        self, engine: DomainEngine, rows: Sequence[Assigned], release: Release
    ) -> list[ShadowReplay]:
        started = time.monotonic()
        latency_ms: dict[int, float] = {}

        def on_answer(number: int, answer: Answer) -> None:
            latency_ms[number] = 1000 * (time.monotonic() - started)
            row = rows[number]
            release(row.place, served(engine, row, answer))

        results = answer_batch(
            self._segments,
            engine.task,
            [row.prompt for row in rows],
            [RowPlan(may_exit=row.arm == "early", run_on=row.shadow) for row in rows],
            engine.policy,
            engine.heads,
            on_answer,
            costs=self._costs,
            prefix=engine.prefix,
        )
        records = []
        for number, (row, result) in enumerate(zip(rows, results, strict=True)):
            if result.answer is None:
                log.error("request %s: no answer: %s", row.request.request_id, result.fault)
                release(row.place, RolloutError(f"no answer: {result.fault}"))
                continue
            records.append(
                outcome_of(
                    engine,
                    row,
                    result,
                    latency_ms=latency_ms[number],
                    batch_rows=len(rows),
                    worker=self._worker,
                )
            )
        self._outbox.write(records)
        return [
            ShadowReplay(row.request.request_id, row.request.domain, row.request.text)
            for row in rows
            if (row.shadow or (row.arm == "control" and engine.spec.agreement.noise_ceiling))
            and share(REPLAY_SALT, row.request.domain, row.request.request_id)
            < engine.spec.shadow.replay_share
        ]
