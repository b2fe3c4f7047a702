"""Outcomes: written once whatever runs twice, read by the controller exactly once."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import event, func, select
from sqlalchemy.exc import DataError, IntegrityError

from rollout.store.models import Outcome, Trace
from rollout.store.outcomes import (
    insert_outcomes,
    is_evidence,
    known_answers,
    mark_monitored,
    recent_traces,
    record_replay,
    unmonitored,
)
from rollout.store.records import OutcomeRecord, TraceRecord
from rollout.store.retention import purge
from rollout.store.session import Store
from rollout.values import DepthTrace, ExitPoint
from tests.store.examples import HEADS, NOW, a_trace, an_outcome, later, with_domain

finite = st.floats(allow_nan=False, allow_infinity=False)
names = st.text(max_size=40)
# Fixed offsets: a wall clock's repeated hour equals no other time, not even itself written out.
zones = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
traces = st.builds(
    TraceRecord.from_trace,
    st.builds(
        DepthTrace,
        st.lists(
            st.builds(ExitPoint, st.integers(1, 80), st.integers(0, 50), st.floats()), max_size=6
        ).map(tuple),
        st.integers(0, 50),
        st.integers(2, 80),
    ),
    st.just(HEADS),
)
records = st.builds(
    an_outcome,
    names,
    created_at=st.datetimes(timezones=zones),
    arm=st.sampled_from(["early", "control"]),
    stage_weight=st.floats(0, 1),
    exit_layer=st.none() | st.integers(1, 80),
    confidence=st.none() | finite,
    agreement=st.none() | st.floats(0, 1),
    not_comparable=st.none() | names,
    shadow=st.booleans(),
    latency_ms=finite,
    text=st.none() | names,
    trace=st.none() | traces,
)


@given(records)
def test_a_record_survives_json(record: OutcomeRecord) -> None:
    line = json.dumps(record.to_json(), allow_nan=False)
    assert OutcomeRecord.from_json(json.loads(line)) == record


def test_a_record_and_the_table_have_the_same_columns() -> None:
    not_known_when_answered = {
        "id", "monitored", "replay_answer", "replay_matches", "replay_layers", "replay_monitored"
    }  # fmt: skip
    columns = set(Outcome.__table__.columns.keys()) - not_known_when_answered
    assert set(an_outcome("r").to_row()) == columns


def test_a_time_without_a_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="request r1: created_at needs a time zone"):
        an_outcome("r1", created_at=datetime(2026, 11, 16))


def test_a_batch_is_stored_with_its_traces(store: Store) -> None:
    with_domain(store)
    with store.write() as session:
        batch = [an_outcome("r1", trace=a_trace()), an_outcome("r2")]
        assert insert_outcomes(session, batch) == 2
        assert insert_outcomes(session, []) == 0
    with store.read() as session:
        assert session.scalars(select(Trace.request_id)).all() == ["r1"]
        stored = session.scalars(select(Outcome).where(Outcome.request_id == "r1")).one()
    for column, value in an_outcome("r1").to_row().items():
        assert getattr(stored, column) == value, column
    assert (stored.monitored, stored.replay_layers, stored.replay_matches) == (False, 0, None)


def test_a_batch_is_one_statement(store: Store) -> None:
    with_domain(store)
    statements: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        statements.append(statement)

    event.listen(store.engine, "before_cursor_execute", note)
    with store.write() as session:
        insert_outcomes(session, [an_outcome(f"r{n}") for n in range(100)])
    assert len([text for text in statements if text.startswith("INSERT")]) == 1


def test_a_request_that_runs_twice_is_stored_once(store: Store) -> None:
    with_domain(store)
    with store.write() as session:
        assert insert_outcomes(session, [an_outcome("r1", trace=a_trace())]) == 1
    with store.write() as session:
        again = [
            an_outcome("r1", answer="invoice", trace=a_trace()),
            an_outcome("r2", answer="invoice"),
            an_outcome("r2", answer="refund"),
        ]
        assert insert_outcomes(session, again) == 1
    with store.read() as session:
        found = known_answers(session, ["r1", "r2", "r3"])
    assert {key: outcome.answer for key, outcome in found.items()} == {
        "r1": "refund",
        "r2": "invoice",
    }


def test_more_rows_than_a_statement_takes_are_still_one_call(store: Store) -> None:
    with_domain(store)
    ids = [f"r{n}" for n in range(6_000)]
    with store.write() as session:
        assert insert_outcomes(session, [an_outcome(request_id) for request_id in ids]) == 6_000
    with store.write() as session:
        assert len(known_answers(session, ids)) == 6_000
        mark_monitored(session, [row.id for row in unmonitored(session, "billing", 7_000)])
        assert unmonitored(session, "billing", 1) == []


def test_a_value_too_long_for_its_column_is_refused_and_not_cut_short(
    postgres_store: Store,
) -> None:
    with_domain(postgres_store)
    with pytest.raises(DataError), postgres_store.write() as session:
        insert_outcomes(session, [an_outcome("r" * 201)])


def test_an_unknown_domain_is_refused_and_nothing_is_stored(store: Store) -> None:
    with_domain(store)
    with pytest.raises(IntegrityError), store.write() as session:
        insert_outcomes(session, [an_outcome("r1"), an_outcome("r2", domain="nobody")])
    with store.read() as session:
        assert session.scalar(select(func.count()).select_from(Outcome)) == 0


def test_text_that_postgresql_cannot_hold_is_mended(store: Store) -> None:
    with_domain(store)
    with store.write() as session:
        insert_outcomes(session, [an_outcome("r1", text="a\0b\ud800c", fallback_reason="x" * 500)])
    with store.read() as session:
        stored = known_answers(session, ["r1"])["r1"]
    assert stored.text == "a\ufffdb?c"
    assert stored.fallback_reason == "x" * 200


def test_a_confidence_that_is_no_number_comes_back_as_one_that_takes_no_exit(
    store: Store,
) -> None:
    with_domain(store)
    with store.write() as session:
        insert_outcomes(
            session, [an_outcome("r1", confidence=math.nan, trace=a_trace(confidence=math.inf))]
        )
    with store.read() as session:
        assert known_answers(session, ["r1"])["r1"].confidence is None
        [trace] = recent_traces(session, "billing", HEADS, 10)
    assert trace.exits[0] == ExitPoint(2, 0, 0.4)
    assert math.isnan(trace.exits[1].confidence)


def test_times_come_back_in_utc(store: Store) -> None:
    with_domain(store)
    tokyo = NOW.astimezone(timezone(timedelta(hours=9)))
    with store.write() as session:
        insert_outcomes(session, [an_outcome("r1", created_at=tokyo)])
    with store.read() as session:
        stored = known_answers(session, ["r1"])["r1"].created_at
    assert (stored, stored.tzinfo) == (NOW, UTC)


def test_the_newest_traces_of_the_same_heads_come_oldest_first(store: Store) -> None:
    with_domain(store)
    rows = [
        an_outcome(f"r{n}", created_at=later(n), trace=a_trace(confidence=n / 10)) for n in range(5)
    ]
    other = TraceRecord.from_trace(a_trace().to_trace(), "99" * 32)
    with store.write() as session:
        insert_outcomes(session, [*rows, an_outcome("other", created_at=later(9), trace=other)])
    with store.read() as session:
        found = recent_traces(session, "billing", HEADS, 3)
    assert [trace.exits[1].confidence for trace in found] == [0.2, 0.3, 0.4]


def test_traces_of_unshadowed_early_requests_are_no_fair_draw_and_left_out(store: Store) -> None:
    with_domain(store)
    early = {"arm": "early", "agreement": None, "inclusion_probability": 0.1}
    with store.write() as session:
        insert_outcomes(
            session,
            [
                an_outcome("fallback", trace=a_trace(0.1), **early),
                an_outcome("shadow", trace=a_trace(0.2), shadow=True, **early),
                an_outcome("control", trace=a_trace(0.3), created_at=later(1)),
            ],
        )
    with store.read() as session:
        found = recent_traces(session, "billing", HEADS, 10)
    assert [trace.exits[1].confidence for trace in found] == [0.2, 0.3]


def test_a_replay_is_written_beside_the_answer(store: Store) -> None:
    with_domain(store)
    with store.write() as session:
        insert_outcomes(session, [an_outcome("r1")])
        for _ in range(2):
            assert record_replay(session, "r1", answer="invoice", matches=False, layers=8)
        assert not record_replay(session, "r2", answer="invoice", matches=False, layers=8)
    with store.read() as session:
        stored = known_answers(session, ["r1"])["r1"]
    assert (stored.replay_answer, stored.replay_matches, stored.replay_layers) == (
        "invoice",
        False,
        8,
    )


def test_each_outcome_is_monitored_once(store: Store) -> None:
    with_domain(store)
    with_domain(store, "claims")
    with store.write() as session:
        insert_outcomes(session, [an_outcome(f"r{n}") for n in range(5)])
        insert_outcomes(session, [an_outcome("other", domain="claims")])
    seen: list[str] = []
    for _ in range(3):
        with store.write() as session:
            rows = unmonitored(session, "billing", 2)
            mark_monitored(session, [row.id for row in rows])
            seen += [row.request_id for row in rows]
    assert seen == ["r0", "r1", "r2", "r3", "r4"]


def test_rows_that_commit_late_with_low_ids_are_still_seen(postgres_store: Store) -> None:
    store = with_domain(postgres_store)
    with store.write() as slow:
        insert_outcomes(slow, [an_outcome("slow")])
        with store.write() as fast:
            insert_outcomes(fast, [an_outcome("fast")])
        with store.write() as tick:
            [row] = unmonitored(tick, "billing", 10)
            assert row.request_id == "fast"
            mark_monitored(tick, [row.id])
    with store.read() as session:
        assert [row.request_id for row in unmonitored(session, "billing", 10)] == ["slow"]


@pytest.mark.parametrize(
    ("arm", "shadow", "agreement", "counts"),
    [
        ("control", False, 1.0, True),
        ("control", False, None, False),
        ("early", True, 0.0, True),
        ("early", True, None, False),
        ("early", False, 1.0, False),
    ],
)
def test_evidence_is_a_comparison_in_the_control_arm_or_of_a_shadow(
    arm: str, shadow: bool, agreement: float | None, counts: bool
) -> None:
    row = Outcome(arm=arm, shadow=shadow, agreement=agreement)
    assert is_evidence(row) is counts


def test_purging_forgets_old_texts_and_nothing_else(store: Store) -> None:
    with_domain(store)
    with_domain(store, "claims")
    with store.write() as session:
        insert_outcomes(
            session,
            [
                an_outcome("old", text="secret", created_at=later(-60)),
                an_outcome("new", text="kept"),
                an_outcome("none", created_at=later(-60)),
                an_outcome("other", text="kept", domain="claims", created_at=later(-60)),
            ],
        )
    with store.write() as session:
        assert purge(session, "billing", NOW) == 1
    with store.read() as session:
        found = known_answers(session, ["old", "new", "none", "other"])
    assert {key: row.text for key, row in found.items()} == {
        "old": None,
        "new": "kept",
        "none": None,
        "other": "kept",
    }
    assert found["old"].text_hash == "01" * 32
