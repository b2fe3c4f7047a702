"""Four verdicts on the evidence, four actions: which rule stands for which.

pass: widens (where a freeze window or a person must still let it through, it waits for that only).
fail: narrows, tightens or rolls back. inconclusive: holds. error: nothing can be said, because
evidence is missing or cannot be trusted; holds and alerts, and in time steps down, as blind.
"""

from __future__ import annotations

from typing import Literal

Verdict = Literal["pass", "fail", "inconclusive", "error"]

VERDICTS: dict[str, Verdict] = {
    "certified": "pass",
    "loosened": "pass",
    "freeze": "pass",
    "approval": "pass",
    "floor_alarm": "fail",
    "target_alarm": "fail",
    "guard_alarm": "fail",
    "short_of_target": "fail",
    "fails_in_shadow": "fail",
    "no_policy": "inconclusive",
    "aborted": "inconclusive",
    "paused": "inconclusive",
    "locked": "inconclusive",
    "killed": "inconclusive",
    "cooldown": "inconclusive",
    "signal": "inconclusive",
    "no_traffic": "inconclusive",
    "top_stage": "inconclusive",
    "dwell": "inconclusive",
    "min_evidence": "inconclusive",
    "no_ceiling": "inconclusive",
    "thin_evidence": "inconclusive",
    "below_target": "inconclusive",
    "stale": "error",
    "blind": "error",
    "broken_monitor": "error",
    "clock": "error",
    "sample_ratio_mismatch": "error",
}

PASSING_ERRORS = frozenset(
    rule for rule, verdict in VERDICTS.items() if verdict == "error" and rule != "blind"
)
"""Kinds of incident that are over as soon as the evidence can be read again."""


def verdict_of(rule: str) -> Verdict | None:
    """None for what a person did and for events, which judge nothing.

    >>> verdict_of("stale"), verdict_of("command_pause")
    ('error', None)
    """
    return VERDICTS.get(rule)
