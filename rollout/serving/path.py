"""The request path: assign, answer, release at the exit, compare, write down."""

from __future__ import annotations

import hashlib
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from rollout.engine.choice import Answer, RowPlan, RowResult, answer_batch
from rollout.engine.segments import Segments
from rollout.engine.task import BadRequest
from rollout.serving.assignment import arm_of, is_shadowed, share
from rollout.serving.domain_engine import DomainEngine, DomainEngines
from rollout.serving.outbox import Outbox
from rollout.serving.policy_cache import PolicyCache
from rollout.store.models import Outcome
from rollout.store.outcomes import known_answers
from rollout.store.records import OutcomeRecord, TraceRecord
from rollout.store.session import Store, StoreUnreachable
from rollout.values import Arm, RolloutError, replay

log = logging.getLogger(__name__)

REPLAY_SALT = "replay"
MAX_REQUEST_ID = 200
"""Characters; as wide as its column."""


@dataclass(frozen=True)
class ServeRequest:
    """One request as it lies on the wire.

    Attributes:
        request_id: Idempotency key: a request is stored once, however often it is delivered.
        request_key: What the arm sticks to (a customer, a conversation); default the request id.
        requested_at: ISO 8601 with zone; default the time of answering.
    """

    request_id: str
    domain: str
    text: str
    request_key: str | None = None
    requested_at: str | None = None

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> ServeRequest:
        """Raises BadRequest where fields are missing, unknown or of the wrong kind."""
        try:
            request = cls(**fields)
        except TypeError as error:
            raise BadRequest(f"the request does not have the expected fields: {error}") from error
        for name, value in asdict(request).items():
            optional = name in ("request_key", "requested_at")
            if not (isinstance(value, str) or (optional and value is None)):
                raise BadRequest(f"{name} must be text, not {type(value).__name__}")
            if value is not None and not _is_unicode(value):
                raise BadRequest(f"{name} is not valid Unicode: it holds half a surrogate pair")
        if not 0 < len(request.request_id) <= MAX_REQUEST_ID:
            raise BadRequest(
                f"request_id has {len(request.request_id)} characters: give 1 to {MAX_REQUEST_ID}"
            )
        if not request.request_id.isprintable():
            raise BadRequest("request_id must have printable characters only")
        return request

    def time(self, now: datetime) -> datetime:
        if self.requested_at is None:
            return now
        try:
            at = datetime.fromisoformat(self.requested_at)
        except ValueError as error:
            raise BadRequest(f"requested_at {self.requested_at!r} is not ISO 8601") from error
        if at.tzinfo is None:
            raise BadRequest(f"requested_at {self.requested_at!r} has no time zone")
        try:
            return at.astimezone(UTC)
        except OverflowError as error:
            raise BadRequest(f"requested_at {self.requested_at!r} is out of range") from error


@dataclass(frozen=True)
class ServedAnswer:
    """What the caller gets, plain JSON values only."""

    request_id: str
    domain: str
    answer: str
    arm: Arm
    exit_layer: int | None
    layers_run: int
    depth: int
    confidence: float | None
    policy_version: int | None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class ShadowReplay:
    """A shadow to be run again from scratch, on another worker, as the independent check."""

    request_id: str
    domain: str
    text: str


@dataclass(frozen=True)
class _Assigned:
    place: int
    request: ServeRequest
    at: datetime
    prompt: list[list[int]]
    arm: Arm
    shadow: bool


Release = Callable[[int, ServedAnswer | RolloutError], None]


class ServingPath:
    """Answers batches. One per process; not thread-safe, since the engine is not.

    Args:
        clock: The time now, zone-aware.
        worker: Name written beside each outcome.
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
    ) -> None:
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
                clash = _clash(requests[place], request.domain, _digest(request.text))
                release(place, clash or answer)

        by_domain: dict[str, list[int]] = defaultdict(list)
        for request_id, places in same.items():
            known = stored.get(request_id)
            if known is None:
                by_domain[requests[places[0]].domain].append(places[0])
                continue
            for place in places:
                clash = _clash(requests[place], known.domain, known.text_hash)
                release(place, clash or _answer_again(known))
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
        rows: list[_Assigned] = []
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
            rows.append(_Assigned(place, request, at, prompt, arm, shadow))
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
        self, engine: DomainEngine, rows: Sequence[_Assigned], release: Release
    ) -> list[ShadowReplay]:
        started = time.monotonic()
        latency_ms: dict[int, float] = {}

        def on_answer(number: int, answer: Answer) -> None:
            latency_ms[number] = 1000 * (time.monotonic() - started)
            row = rows[number]
            release(row.place, self._served(engine, row, answer))

        results = answer_batch(
            self._segments,
            engine.task,
            [row.prompt for row in rows],
            [RowPlan(may_exit=row.arm == "early", run_on=row.shadow) for row in rows],
            engine.policy,
            engine.heads,
            on_answer,
        )
        records = []
        for number, (row, result) in enumerate(zip(rows, results, strict=True)):
            if result.answer is None:
                log.error("request %s: no answer: %s", row.request.request_id, result.fault)
                release(row.place, RolloutError(f"no answer: {result.fault}"))
                continue
            records.append(self._record(engine, row, result, latency_ms[number], len(rows)))
        self._outbox.write(records)
        return [
            ShadowReplay(row.request.request_id, row.request.domain, row.request.text)
            for row in rows
            if row.shadow
            and share(REPLAY_SALT, row.request.domain, row.request.request_id)
            < engine.spec.shadow.replay_share
        ]

    def _served(self, engine: DomainEngine, row: _Assigned, answer: Answer) -> ServedAnswer:
        return ServedAnswer(
            row.request.request_id,
            row.request.domain,
            engine.task.labels[answer.label],
            row.arm,
            answer.exit_layer,
            answer.layers_run,
            self._segments.loaded.depth,
            answer.confidence,
            engine.policy.version if engine.policy is not None else None,
        )

    def _record(
        self,
        engine: DomainEngine,
        row: _Assigned,
        result: RowResult,
        latency_ms: float,
        batch_rows: int,
    ) -> OutcomeRecord:
        policy, heads, labels = engine.policy, engine.heads, engine.task.labels
        assert result.answer is not None
        exit_layer, confidence = result.answer.exit_layer, result.answer.confidence
        policy_exit, agreement, not_comparable, trace = exit_layer, None, None, None
        if policy is not None and result.trace is not None:
            trace = TraceRecord.from_trace(result.trace, policy.heads)
            if row.arm == "control":
                replayed = replay(result.trace, policy)
                policy_exit, agreement = replayed.exit_layer, float(replayed.agrees)
            else:
                agreement = float(result.answer.label == result.trace.full_answer)
        elif row.shadow:
            not_comparable = result.fault or "the shadow did not reach full depth"
        fallback_reason = None
        if row.arm == "early" and exit_layer is None:
            fallback_reason = result.fault or "no exit was confident enough"
        elif row.arm == "control":
            fallback_reason = engine.full_depth_reason
        threshold = None
        if policy is not None and policy.exit_layers:
            asked = policy.exit_layers.index(policy_exit) if policy_exit is not None else -1
            threshold = policy.thresholds[asked]
            if confidence is None and result.trace is not None:
                confidence = result.trace.exits[asked].confidence
        request = row.request
        key = f"{request.domain}\0{request.request_key or request.request_id}"
        return OutcomeRecord(
            request_id=request.request_id,
            request_key_hash=_digest(key),
            domain=request.domain,
            created_at=row.at,
            arm=row.arm,
            stage_weight=engine.stage_weight,
            policy_version=policy.version if policy is not None else None,
            answer=labels[result.answer.label],
            full_answer=None if result.trace is None else labels[result.trace.full_answer],
            exit_layer=exit_layer,
            policy_exit_layer=policy_exit,
            confidence=confidence,
            threshold=threshold,
            fallback_reason=fallback_reason,
            depth=self._segments.loaded.depth,
            layers_run=result.answer.layers_run,
            shadow_layers=result.shadow_layers,
            probes=result.probes,
            probe_cost=policy.probe_cost if policy is not None else 0.0,
            layer_ms=policy.layer_ms if policy is not None else 0.0,
            shadow=row.shadow,
            inclusion_probability=1.0 if row.arm == "control" else engine.shadow_rate,
            agreement=agreement,
            not_comparable=not_comparable,
            prompt_tokens=result.prompt_tokens,
            batch_rows=batch_rows,
            latency_ms=latency_ms,
            model_revision=self._segments.loaded.revision,
            worker=self._worker,
            text_hash=_digest(request.text),
            text=request.text if engine.spec.text.store else None,
            trace=trace if heads is not None else None,
        )


def _answer_again(row: Outcome) -> ServedAnswer:
    return ServedAnswer(
        row.request_id,
        row.domain,
        row.answer,
        "early" if row.arm == "early" else "control",
        row.exit_layer,
        row.layers_run,
        row.depth,
        row.confidence,
        row.policy_version,
    )


def _clash(request: ServeRequest, domain: str, text_hash: str) -> BadRequest | None:
    """Why a request is not the one that its id was used for before; None where it is."""
    if request.domain == domain and _digest(request.text) == text_hash:
        return None
    return BadRequest(
        f"request_id {request.request_id!r} was used for another request before: use a new one"
    )


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
