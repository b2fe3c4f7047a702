"""What the controller is told besides its monitors, and what it answers: values for the ledger."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Literal

from rollout.control.state import DomainState

Action = Literal[
    "promote",
    "tighten",
    "narrow",
    "roll_back",
    "hold",
    # By a person only:
    "approve",
    "pause",
    "resume",
    "abort",
]


@dataclass(frozen=True)
class TighterThreshold:
    """A stricter threshold that recent traces certify, ready to become the next policy version.

    Attributes:
        policy_version: The version it would be stored under.
        threshold: Above the live policy's.
        certified_risk: Upper bound of its disagreement, at most 1 - target.
        rows: Traces that certify it.
    """

    policy_version: int
    threshold: float
    certified_risk: float
    rows: int


@dataclass(frozen=True)
class Evidence:
    """What a tick knows besides the monitor, into which the new comparisons are folded already.

    Attributes:
        requests: Requests answered since the tick before.
        comparisons: Those of them that were compared.
        not_comparable: Those of them whose comparison was due and failed.
        oldest_unseen: When the first request after the last comparison was answered; None where
            nothing was answered since. It tells blindness from silence.
        killed: Whether the kill switch is on.
        tighter: A certified stricter threshold, where one was found.
    """

    requests: int = 0
    comparisons: int = 0
    not_comparable: int = 0
    oldest_unseen: datetime | None = None
    killed: bool = False
    tighter: TighterThreshold | None = None

    def to_json(self) -> dict[str, Any]:
        unseen = self.oldest_unseen
        return asdict(self) | {"oldest_unseen": None if unseen is None else unseen.isoformat()}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Evidence:
        unseen, tighter = values["oldest_unseen"], values["tighter"]
        return cls(
            **values
            | {
                "oldest_unseen": None if unseen is None else datetime.fromisoformat(unseen),
                "tighter": None if tighter is None else TighterThreshold(**tighter),
            }
        )


@dataclass(frozen=True)
class Decision:
    """One row of the ledger.

    Attributes:
        action: What is done.
        rule: Which rule decided, a stable name.
        reason: One sentence with the numbers, for people.
        state_after: The domain's state once this is done.
        facts: The numbers behind the reason, JSON.
        incident: Kind of the incident to open (rollback, narrowing, blind, fails_in_shadow), or
            None.
        threshold: The new threshold of a tightening, else None.
    """

    action: Action
    rule: str
    reason: str
    state_after: DomainState
    facts: dict[str, Any] = field(default_factory=dict)
    incident: str | None = None
    threshold: float | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "action": self.action,
            "rule": self.rule,
            "reason": self.reason,
            "state_after": self.state_after.to_json(),
            "facts": self.facts,
            "incident": self.incident,
            "threshold": self.threshold,
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Decision:
        return cls(**values | {"state_after": DomainState.from_json(values["state_after"])})
