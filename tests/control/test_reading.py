"""How agreement is read: severities of mismatches, a noise ceiling, states of the first release."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from rollout.control.certificate import certificate
from rollout.control.decide import decide
from rollout.control.state import Comparison, DomainState, Monitor
from tests.control.examples import HOUR, MONDAY, QUIET, at_stage, billing, seeing
from tests.control.examples import comparisons as compared

LATER = MONDAY + HOUR
SEVERE = billing(agreement={"severity": {"*": 0.1}})
NOISY = billing(agreement={"noise_ceiling": True})


def mistakes(severity: float, matched: int = 380, mismatched: int = 20) -> list[Comparison]:
    wrong = Comparison(LATER, False, True, "invoice", severity)
    right = Comparison(LATER, True, True, "invoice")
    group = [right] * (matched // mismatched) + [wrong]
    return group * mismatched


# --- severities -------------------------------------------------------------------------------


def test_mild_mistakes_promote_where_grave_ones_roll_back() -> None:
    mild = decide(SEVERE, seeing(at_stage(SEVERE, 1), mistakes(0.1)), QUIET, LATER)
    assert mild.action == "promote"
    assert mild.facts["agreement"] == pytest.approx(0.995)
    assert mild.facts["mismatches"] == 20
    grave = decide(SEVERE, seeing(at_stage(SEVERE, 1), mistakes(1.0, 400, 40)), QUIET, LATER)
    assert grave.action in {"narrow", "roll_back"}


def test_with_all_severities_1_the_weighted_evidence_is_the_plain_one() -> None:
    spec = billing(agreement={"severity": {"*": 1.0}})
    state = seeing(at_stage(spec, 1), mistakes(1.0, 990, 10))
    plain = seeing(at_stage(billing(), 1), mistakes(1.0, 990, 10))
    assert state.monitor.e_value == pytest.approx(plain.monitor.e_value)
    assert state.monitor.target.levels == plain.monitor.target.levels
    assert state.monitor.agreement == plain.monitor.agreement


def test_mild_losses_at_the_tolerated_rate_raise_no_alarm_for_long() -> None:
    rng = np.random.default_rng(0)
    monitor = Monitor.start(SEVERE)
    # Mean loss 0.015 under a tolerated 0.02, from mistakes in 15 of 100 answers.
    for wrong in rng.random((20, 100)) < 0.15:
        monitor = monitor.update(
            [Comparison(LATER, not one, True, "invoice", 0.1) for one in wrong]
        )
    assert not monitor.alarms


def test_the_split_into_ticks_does_not_matter_with_severities() -> None:
    seen = mistakes(0.1, 90, 10)
    start = Monitor.start(SEVERE)
    assert start.update(seen[:33]).update(seen[33:]) == start.update(seen)


def test_a_severity_outside_0_to_1_is_refused() -> None:
    with pytest.raises(ValueError, match="must lie in"):
        Monitor.start(SEVERE).update([Comparison(LATER, False, True, "invoice", 1.5)])


# --- the noise ceiling ------------------------------------------------------------------------


def test_agreement_is_read_relative_to_how_often_the_full_model_agrees_with_itself() -> None:
    seen = compared(2_000, 60, at=LATER)
    plain = seeing(at_stage(NOISY, 1), seen)
    pairs = [True] * 970 + [False] * 30
    known = replace(plain, monitor=plain.monitor.update([], full_pairs=pairs))
    before, after = certificate(NOISY, plain), certificate(NOISY, known)
    assert before.agreement is None
    assert after.agreement == pytest.approx(1.0, abs=0.002)
    assert after.e_value > before.e_value


def test_a_noisy_full_model_is_no_regression() -> None:
    """The same early answers: an alarm against an absolute target, none against the ceiling."""
    rng = np.random.default_rng(1)
    absolute, relative = Monitor.start(billing()), Monitor.start(NOISY)
    relative = relative.update([], full_pairs=list(rng.random(4_000) < 0.94))
    for _ in range(20):
        seen = [
            Comparison(LATER, bool(matched), True, "invoice") for matched in rng.random(100) < 0.935
        ]
        absolute, relative = absolute.update(seen), relative.update(seen)
    assert absolute.alarms
    assert not relative.alarms


def test_a_real_drop_alarms_under_the_ceiling_too() -> None:
    rng = np.random.default_rng(2)
    monitor = Monitor.start(NOISY).update([], full_pairs=list(rng.random(4_000) < 0.94))
    seen = [Comparison(LATER, bool(one), True, "invoice") for one in rng.random(600) < 0.75]
    assert "floor" in monitor.update(seen).alarms


def test_without_a_pair_of_full_answers_nothing_is_promoted() -> None:
    state = seeing(at_stage(NOISY, 1), compared(1_000, 5, at=LATER))
    held = decide(NOISY, state, QUIET, LATER)
    assert (held.action, held.rule) == ("hold", "no_ceiling")
    known = replace(state, monitor=state.monitor.update([], full_pairs=[True] * 200))
    assert decide(NOISY, known, QUIET, LATER).action == "promote"


def test_full_pairs_stay_when_the_stage_changes() -> None:
    state = at_stage(NOISY, 2)
    state = replace(state, monitor=state.monitor.update([], full_pairs=[True] * 50))
    assert state.entering(NOISY, 0, LATER).monitor.full_count == 50


def test_a_monitor_with_all_it_can_know_survives_json() -> None:
    for spec in (SEVERE, NOISY):
        monitor = Monitor.start(spec).update(
            mistakes(0.1, 40, 10),
            60,
            keys=[("0a" * 32, True)],
            weight=0.5,
            full_pairs=[True, False],
        )
        assert Monitor.from_json(json.loads(json.dumps(monitor.to_json()))) == monitor


# --- states of the first release --------------------------------------------------------------

FIRST_RELEASE = {
    "stage": 2,
    "mode": "active",
    "policy_version": 1,
    "stage_since": "2026-11-16T09:00:00+00:00",
    "cooldown_until": None,
    "approved_stage": None,
    "failed_policy": None,
    "monitor": {
        "promotion": {"floor": 0.95, "count": 400, "mismatches": 2},
        "target": {
            "tolerated_error": 0.02,
            "mean_time_to_false_alarm": 20000.0,
            "levels": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
            "alarmed": False,
        },
        "floor": {
            "tolerated_error": 0.05,
            "mean_time_to_false_alarm": 20000.0,
            "levels": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
            "alarmed": False,
        },
        "guards": {},
        "requests": 900,
        "exited": 300,
        "exited_mismatches": 2,
        "last_comparison_at": "2026-11-16T09:50:00+00:00",
    },
}


def test_a_state_of_the_first_release_loads_and_is_decided_about() -> None:
    spec = billing()
    state = DomainState.from_json(FIRST_RELEASE)
    assert state.error_budget(spec).level == pytest.approx(0.05 / 6)
    assert state.monitor.loss == 2.0
    decision = decide(spec, state, QUIET, LATER)
    assert (decision.action, decision.state_after.stage) == ("promote", 3)
    again = DomainState.from_json(json.loads(json.dumps(decision.state_after.to_json())))
    assert again == decision.state_after


def test_a_spec_of_the_first_release_loads_with_the_new_keys_defaults() -> None:
    old = billing().to_json()
    for section, key in (("agreement", "severity"), ("rollback", "budget"), ("shadow", "budget")):
        del old[section][key]
    del old["levers"]
    assert billing().from_json(old) == billing()
    # Values that were allowed then are allowed now, whatever the new defaults are.
    assert (
        billing(rollback={"cooldown": "60d"}, shadow={"rate": 0.9, "min": 0.8}).shadow.rate == 0.9
    )
