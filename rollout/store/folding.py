"""What outcomes tell the controller: comparisons, arms, noise pairs, layers, traces for the ladder.

All reading comes first; folding what was read is pure, so that a fault in it is one of the monitor
and not of the store.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from rollout.control.ladder import climbed, ladder_of, trace_severity, with_new_ladder
from rollout.control.signals import Answered, TrafficSignals
from rollout.control.spec import DomainSpec
from rollout.control.state import Comparison, DomainState
from rollout.stats.thresholds import threshold_losses
from rollout.stats.traces import trace_arrays
from rollout.store.catalog import load_policy
from rollout.store.models import ExitPolicyRow, Outcome, Trace
from rollout.store.outcomes import is_evidence, unmonitored
from rollout.store.records import TraceRecord
from rollout.values import DepthTrace, ExitPolicy, PolicyError

ROWS_PER_TICK = 20_000
_JUDGING = (
    Trace.request_id,
    Trace.heads,
    Trace.exit_layers,
    Trace.answers,
    Trace.confidences,
    Trace.full_answer,
    Trace.depth,
)


@dataclass(frozen=True)
class News:
    """What was stored since the tick before.

    Attributes:
        rows: Outcomes not yet counted, oldest first, with the columns of `outcomes.COUNTED`.
        replays: (id, matched, layers) of replays from scratch not yet counted.
        traces: Of the compared rows, by request id.
        policy: The live one; None where there is none or it cannot be read.
        labels: What its answers index.
        candidates: Thresholds for a new ladder, where the domain needs one.
        fault: Why the live policy cannot be read, in words.
    """

    rows: Sequence[Any]
    replays: Sequence[Any]
    traces: Mapping[str, Any]
    policy: ExitPolicy | None = None
    labels: tuple[str, ...] = ()
    candidates: tuple[float, ...] = ()
    fault: str | None = None


def read_news(session: Session, spec: DomainSpec, state: DomainState, domain: str) -> News:
    """All that is new of a domain; at most `ROWS_PER_TICK` of each kind."""
    news = News(
        rows=unmonitored(session, domain, ROWS_PER_TICK),
        replays=session.execute(
            select(Outcome.id, Outcome.replay_matches, Outcome.replay_layers)
            .where(
                Outcome.domain == domain,
                Outcome.replay_matches.is_not(None),
                Outcome.replay_monitored.is_(False),
            )
            .order_by(Outcome.id)
            .limit(ROWS_PER_TICK)
        ).all(),
        traces={},
    )
    if state.policy_version is None:
        return news
    try:
        policy, labels = load_policy(session, domain, state.policy_version)
    except PolicyError as error:
        return replace(news, fault=f"the live policy cannot be read: {error}")
    news = replace(news, policy=policy, labels=labels)
    if "threshold" not in spec.levers.up and not spec.agreement.severity:
        return news
    compared = [row.request_id for row in news.rows if is_evidence(row)]
    if compared:
        found = session.execute(select(*_JUDGING).where(Trace.request_id.in_(compared)))
        news = replace(news, traces={trace.request_id: trace for trace in found})
    if ladder_of(spec, state, policy.heads) is None:
        news = replace(news, candidates=_candidates(session, domain, policy.heads))
    return news


def _candidates(session: Session, domain: str, heads: str) -> tuple[float, ...]:
    """The thresholds that the newest certificate of these heads tried."""
    certificates = session.scalars(
        select(ExitPolicyRow.certificate)
        .where(ExitPolicyRow.domain == domain, ExitPolicyRow.heads == heads)
        .order_by(ExitPolicyRow.version.desc())
    )
    tried = next((found["tried"] for found in certificates if found.get("tried")), ())
    return tuple(float(candidate["threshold"]) for candidate in tried)


def folded(
    spec: DomainSpec, state: DomainState, news: News, now: datetime
) -> tuple[DomainState, int]:
    """The state once its monitor and ladder know the news, and how many comparisons there were.

    Raises:
        Exception: whatever a broken monitor or row brings about.
    """
    share = state.stage_weight(spec)
    # Another policy's answers say nothing of this one.
    live = [row for row in news.rows if row.policy_version == state.policy_version]
    here = [row for row in live if row.stage_weight == share]
    early = [row for row in here if row.arm == "early"]
    comparisons = [_comparison(spec, row, news, now) for row in live if is_evidence(row)]
    monitor = state.monitor.update(
        comparisons,
        len(news.rows),
        keys=[(row.request_key_hash, row.arm == "early") for row in here],
        weight=share,
        full_pairs=[bool(replay.replay_matches) for replay in news.replays],
    )
    after = replace(
        state,
        monitor=monitor,
        saved_layers=state.saved_layers + sum(row.depth - row.layers_run for row in early),
        shadow_layers=state.shadow_layers
        + sum(row.shadow_layers for row in early)
        + sum(replay.replay_layers for replay in news.replays),
        signals=_signals(spec, state, live),
    )
    return _ladder_climbed(spec, after, news), len(comparisons)


def _signals(spec: DomainSpec, state: DomainState, live: Sequence[Any]) -> TrafficSignals | None:
    version, signals = state.policy_version, state.signals
    if version is None:
        return None
    if signals is None or signals.policy_version != version:
        signals = TrafficSignals.start(version, spec.evidence.mean_time_to_false_alarm)
    return signals.update(
        [
            Answered(row.policy_exit_layer, row.confidence, row.prompt_tokens, row.answer)
            for row in live
        ]
    )


def _comparison(spec: DomainSpec, row: Any, news: News, now: datetime) -> Comparison:
    full = row.full_answer or ""
    severity = 1.0
    if spec.agreement.severity and row.agreement != 1.0:
        severity = spec.agreement.loss(full, _early_answer(row, news))
    return Comparison(
        # A worker's clock may be ahead; evidence from the future would never grow stale.
        at=min(row.created_at, now),
        matched=row.agreement == 1.0,
        exited=row.policy_exit_layer is not None,
        label=full,
        severity=severity,
    )


def _early_answer(row: Any, news: News) -> str | None:
    """What the policy answered, or would have; None where nothing tells."""
    if row.arm == "early":
        return str(row.answer)
    trace = news.traces.get(row.request_id)
    if trace is None or row.policy_exit_layer not in trace.exit_layers:
        return None
    answer: int = trace.answers[trace.exit_layers.index(row.policy_exit_layer)]
    return news.labels[answer]


def _ladder_climbed(spec: DomainSpec, state: DomainState, news: News) -> DomainState:
    policy = news.policy
    if policy is None or "threshold" not in spec.levers.up:
        return replace(state, ladder=None)
    if ladder_of(spec, state, policy.heads) is None:
        state = with_new_ladder(spec, state, policy.heads, news.candidates)
    traces = _judging(news, policy)
    if state.ladder is None or not traces:
        return state
    confidence, agrees, allowed = trace_arrays(traces, policy.never_early)
    losses = threshold_losses(
        confidence,
        agrees,
        allowed,
        state.ladder.test.thresholds,
        trace_severity(spec.agreement, traces, news.labels),
    )
    return replace(state, ladder=climbed(state.ladder, losses))


def _judging(news: News, policy: ExitPolicy) -> list[DepthTrace]:
    """Traces of these heads in the order of their outcomes, whatever version was live."""
    found = (news.traces.get(row.request_id) for row in news.rows)
    return [
        TraceRecord.from_model(trace).to_trace()
        for trace in found
        if trace is not None
        and trace.heads == policy.heads
        and tuple(trace.exit_layers) == policy.exit_layers
    ]
