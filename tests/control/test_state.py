"""Monitors and states are values: JSON both ways, the split into ticks is immaterial."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from rollout.control.drift import agreement_windows
from rollout.control.state import Comparison, DomainState, Monitor
from tests.control.examples import HOUR, MINUTE, MONDAY, at_stage, billing, comparisons

SPEC = billing(guards={"refund": 0.98, "fraud": "never_early"})
seen_comparisons = st.lists(
    st.builds(
        Comparison,
        at=st.integers(0, 10_000).map(lambda minutes: MONDAY + minutes * MINUTE),
        matched=st.booleans(),
        exited=st.booleans(),
        label=st.sampled_from(["refund", "fraud", "invoice"]),
    ),
    max_size=100,
)


@given(seen_comparisons, st.integers(0, 100))
def test_the_split_into_ticks_does_not_matter(seen: list[Comparison], cut: int) -> None:
    start = Monitor.start(SPEC)
    in_two = start.update(seen[:cut], requests=3).update(seen[cut:], requests=4)
    assert in_two == start.update(seen, requests=7)


@given(seen_comparisons)
def test_json_gives_the_monitor_back(seen: list[Comparison]) -> None:
    monitor = Monitor.start(SPEC).update(seen)
    assert Monitor.from_json(json.loads(json.dumps(monitor.to_json()))) == monitor


def test_json_gives_the_state_back() -> None:
    state = at_stage(SPEC, 3)
    assert DomainState.from_json(json.loads(json.dumps(state.to_json()))) == state


def test_only_labels_with_a_rate_have_a_detector() -> None:
    assert set(Monitor.start(SPEC).guards) == {"refund"}


def test_a_late_comparison_does_not_turn_the_clock_back() -> None:
    monitor = Monitor.start(SPEC).update(comparisons(1, at=MONDAY + HOUR))
    assert monitor.update(comparisons(1)).last_comparison_at == MONDAY + HOUR


def test_windows_show_agreement_over_time_and_gaps_as_unknown() -> None:
    seen = comparisons(99, 1) + comparisons(50, 50, at=MONDAY + 2 * HOUR)
    first, gap, last = agreement_windows(seen, HOUR, 0.05)
    assert (first.start, first.comparisons, first.agreement) == (MONDAY, 100, 0.99)
    assert (gap.comparisons, gap.agreement, gap.lower) == (0, None, None)
    assert last.agreement == 0.5
    assert last.lower is not None and last.upper is not None
    assert last.lower < 0.5 < last.upper < 0.99
    assert agreement_windows([], HOUR, 0.05) == []
