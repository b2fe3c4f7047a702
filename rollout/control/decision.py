"""What the controller is told besides its monitors, and what it answers: values for the ledger."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Literal

from rollout.control.signals import Signal
from rollout.control.state import DomainState
from rollout.control.verdicts import Verdict, verdict_of

Action = Literal[
    "promote",
    "tighten",
    "loosen",
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
class CertifiedThreshold:
    """Another threshold that traces certify, ready to become the next policy version.

    Attributes:
        policy_version: The version it would be stored under.
        threshold: Above the live policy's to tighten, below it to loosen.
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
        looser: A certified bolder threshold, where one was found.
        signals: What the traffic itself says, all of it, moved or not.
        fault: Why the new outcomes could not be folded into the monitor, in words; None where they
            were.
    """

    requests: int = 0
    comparisons: int = 0
    not_comparable: int = 0
    oldest_unseen: datetime | None = None
    killed: bool = False
    tighter: CertifiedThreshold | None = None
    looser: CertifiedThreshold | None = None
    signals: tuple[Signal, ...] = ()
    fault: str | None = None

    @property
    def moved(self) -> tuple[str, ...]:
        """Names of the signals that moved."""
        return tuple(signal.name for signal in self.signals if signal.moved)

    def to_json(self) -> dict[str, Any]:
        unseen = self.oldest_unseen
        return asdict(self) | {"oldest_unseen": None if unseen is None else unseen.isoformat()}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Evidence:
        """Read what `to_json` wrote, in this release or the first, which knew fewer fields."""
        unseen = values["oldest_unseen"]
        thresholds = {
            way: CertifiedThreshold(**values[way])
            for way in ("tighter", "looser")
            if values.get(way) is not None
        }
        return cls(
            **values
            | thresholds
            | {
                "oldest_unseen": None if unseen is None else datetime.fromisoformat(unseen),
                "signals": tuple(Signal(**signal) for signal in values.get("signals", ())),
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
        incident: Kind of the incident to open, or None: rollback, narrowing, fails_in_shadow, and
            of every *error*, its rule.
        threshold: The new threshold of a tightening or loosening, else None.
    """

    action: Action
    rule: str
    reason: str
    state_after: DomainState
    facts: dict[str, Any] = field(default_factory=dict)
    incident: str | None = None
    threshold: float | None = None

    @property
    def verdict(self) -> Verdict | None:
        """What the evidence says; None for what a person did."""
        return verdict_of(self.rule)

    def to_json(self) -> dict[str, Any]:
        return {
            "action": self.action,
            "verdict": self.verdict,
            "rule": self.rule,
            "reason": self.reason,
            "state_after": self.state_after.to_json(),
            "facts": self.facts,
            "incident": self.incident,
            "threshold": self.threshold,
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Decision:
        known = {name: value for name, value in values.items() if name != "verdict"}
        return cls(**known | {"state_after": DomainState.from_json(values["state_after"])})
