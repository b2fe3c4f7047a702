"""Why not yet: how many more comparisons, how long that takes, what happens then."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given

from rollout.control.decision import Evidence
from rollout.control.ladder import with_new_ladder
from rollout.control.outlook import Outlook, outlook
from rollout.control.state import DomainState
from tests.control.examples import DAY, HOUR, MINUTE, MONDAY, QUIET, at_stage, billing, seeing
from tests.control.examples import comparisons as compared
from tests.control.test_decide import FROZEN, evidences, states

SPEC = billing()
LATER = MONDAY + HOUR


def look(state: DomainState, per_hour: float | None = 60.0, **keys: Any) -> Outlook:
    return outlook(billing(**keys), state, QUIET, LATER, per_hour)


def test_too_few_comparisons_are_named_with_the_time_they_take() -> None:
    found = look(seeing(at_stage(SPEC, 1), compared(20, at=LATER)))
    assert (found.missing, found.wait) == (180, timedelta(hours=3))
    assert found.needs == "about 180 more comparisons, about 3h at the present rate (60 an hour)"
    assert found.then == "5 % of traffic"


def test_thin_evidence_is_named_as_the_decision_names_it() -> None:
    state = seeing(at_stage(SPEC, 1), compared(210, 3, at=LATER))
    found = look(state)
    assert found.decision.rule == "thin_evidence"
    assert found.missing == found.decision.facts["comparisons_needed"]


def test_without_comparisons_lately_nobody_can_say_how_long() -> None:
    found = look(seeing(at_stage(SPEC, 1), compared(20, at=LATER)), per_hour=None)
    assert found.wait is None
    assert "nobody can say how long" in found.needs


def test_a_span_that_must_pass_is_named() -> None:
    state = seeing(at_stage(SPEC, 1), compared(400, 2, at=LATER))
    found = look(replace(state, cooldown_until=LATER + DAY))
    assert (found.missing, found.wait) == (0, DAY)
    assert found.needs == "no more comparisons, but 1d more"
    thin = look(replace(at_stage(SPEC, 1), cooldown_until=LATER + DAY))
    assert thin.needs.endswith("; 1d must pass")


def test_an_approval_and_a_freeze_window_are_named() -> None:
    state = seeing(at_stage(SPEC, 1), compared(400, 2, at=LATER))
    found = look(state, approval={"before": [0.05]}, freeze=["Mon 00:00 - Tue 00:00 UTC"])
    assert found.then == (
        "a person must approve it (`rollout promote`) and the freeze window Mon 00:00 - Tue 00:00 "
        "UTC must end, then 5 % of traffic"
    )


@pytest.mark.parametrize("mode", ["paused", "locked", "aborted"])
def test_what_a_person_must_do_is_named(mode: Any) -> None:
    assert "`rollout resume`" in look(replace(at_stage(SPEC, 1), mode=mode)).then


def test_agreement_at_the_floor_is_out_of_reach() -> None:
    group = compared(19, at=LATER) + compared(0, 1, at=LATER)
    found = look(seeing(at_stage(SPEC, 1), group * 11))
    assert found.missing is None
    assert found.needs == found.decision.reason


def test_the_last_stage_tells_of_the_next_bolder_threshold() -> None:
    state = with_new_ladder(SPEC, at_stage(SPEC, 5), "heads", [0.9, 0.7])
    assert "threshold 0.9 is out of reach so far" in look(state).then
    assert "no bolder threshold" in look(at_stage(SPEC, 5)).then


@given(states(), evidences)
def test_there_is_always_an_answer(state: DomainState, evidence: Evidence) -> None:
    found = outlook(FROZEN, state, evidence, LATER, 10.0)
    told = found.to_json()
    assert told["needs"] and told["then"]
    assert found.missing is None or found.missing >= 0
    assert found.wait is None or found.wait >= 0 * MINUTE
