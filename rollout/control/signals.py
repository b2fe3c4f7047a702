"""What the traffic itself says, without one comparison: exit depth, confidence, length, labels.

Every answered request counts, shadowed or not. A signal judges nothing: where it moves, more of the
early answers are compared. Its reference is the first requests of the policy, and after it moved,
the next ones: what lasts becomes the new normal, and the detectors of agreement have looked at it
meanwhile.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from rollout.stats.divergence import HistogramDrift

REFERENCE = 1_000
WINDOW = 500
BINS = 15
"""The reference's commonest categories are told apart, all others are one more bin."""

_CONFIDENCES = (0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999)


@dataclass(frozen=True)
class Signal:
    """A change in the traffic that can be seen without comparing answers.

    Attributes:
        name: What is watched, in words: exit depth, confidence, length, label mix.
        statistic: How far it lies from its reference.
        threshold: From where it counts as moved, set by its own null distribution.
    """

    name: str
    statistic: float
    threshold: float

    @property
    def moved(self) -> bool:
        return self.statistic >= self.threshold


@dataclass(frozen=True)
class Answered:
    """What is seen of any answered request.

    Attributes:
        exit_layer: Where the policy answers it; None at full depth.
        confidence: Of that exit, or of the last one asked; None where none was.
    """

    exit_layer: int | None
    confidence: float | None
    prompt_tokens: int
    label: str


def _depth(one: Answered) -> str:
    return "full" if one.exit_layer is None else str(one.exit_layer)


def _confidence(one: Answered) -> str:
    if one.confidence is None or not math.isfinite(one.confidence):
        return "unknown"
    return str(sum(one.confidence >= edge for edge in _CONFIDENCES))


def _length(one: Answered) -> str:
    return str(round(2 * math.log2(max(one.prompt_tokens, 1))))


def _label(one: Answered) -> str:
    return one.label


CATEGORIES: Mapping[str, Callable[[Answered], str]] = {
    "exit depth": _depth,
    "confidence": _confidence,
    "length": _length,
    "label mix": _label,
}


@dataclass(frozen=True)
class _Watched:
    """One signal: collecting its reference (`drift` is None), or comparing windows with it."""

    counts: Mapping[str, int] = field(default_factory=dict)
    bins: tuple[str, ...] = ()
    drift: HistogramDrift | None = None
    moved: tuple[float, float] | None = None

    def update(self, categories: Sequence[str], patience: float) -> _Watched:
        watched, rest = self, list(categories)
        while rest:
            if watched.drift is None:
                missing = REFERENCE - sum(watched.counts.values())
                watched = watched._collected(rest[:missing], patience)
                rest = rest[missing:]
            else:
                # To the end of the window only: an alarm there begins another reference.
                missing = WINDOW - sum(watched.drift.counts)
                watched = watched._compared(watched.drift, rest[:missing])
                rest = rest[missing:]
        return watched

    def _collected(self, categories: Sequence[str], patience: float) -> _Watched:
        counts = Counter(self.counts)
        counts.update(categories)
        if counts.total() < REFERENCE:
            return replace(self, counts=dict(counts))
        bins = tuple(name for name, _ in counts.most_common(BINS))
        reference = [counts[name] for name in bins]
        drift = HistogramDrift.start(
            [*reference, counts.total() - sum(reference)], WINDOW, patience
        )
        return _Watched(bins=bins, drift=drift)

    def _compared(self, drift: HistogramDrift, categories: Sequence[str]) -> _Watched:
        place = {name: index for index, name in enumerate(self.bins)}
        seen = drift.update([place.get(name, len(place)) for name in categories])
        if seen.looks > drift.looks and seen.drifted and seen.last is not None:
            return _Watched(moved=(seen.last, seen.threshold))
        return replace(self, drift=seen)

    def signal(self, name: str) -> Signal | None:
        if self.moved is not None:
            return Signal(name, *self.moved)
        if self.drift is None or self.drift.last is None:
            return None
        return Signal(name, self.drift.last, self.drift.threshold)

    def to_json(self) -> dict[str, Any]:
        return {
            "counts": dict(self.counts),
            "bins": list(self.bins),
            "drift": None if self.drift is None else self.drift.to_json(),
            "moved": None if self.moved is None else list(self.moved),
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> _Watched:
        drift, moved = values["drift"], values["moved"]
        return cls(
            values["counts"],
            tuple(values["bins"]),
            None if drift is None else HistogramDrift.from_json(drift),
            None if moved is None else (moved[0], moved[1]),
        )


@dataclass(frozen=True)
class TrafficSignals:
    """The signals of one policy.

    Attributes:
        mean_time_to_false_alarm: In requests, of all signals together: each takes its share.

    >>> usual = [Answered(4, 0.99, 20, "refund")] * 9 + [Answered(None, 0.4, 20, "other")]
    >>> signals = TrafficSignals.start(1, 20_000).update(usual * 200)
    >>> [signal.name for signal in signals.seen if signal.moved]
    []
    >>> shifted = [Answered(4, 0.99, 20, "refund")] * 500
    >>> [signal.name for signal in signals.update(shifted).seen if signal.moved]
    ['exit depth', 'confidence', 'label mix']
    >>> TrafficSignals.from_json(signals.to_json()) == signals
    True
    """

    policy_version: int
    mean_time_to_false_alarm: float
    watched: Mapping[str, _Watched]

    @classmethod
    def start(cls, policy_version: int, mean_time_to_false_alarm: float) -> TrafficSignals:
        """Nothing seen yet."""
        watched = {name: _Watched() for name in CATEGORIES}
        return cls(policy_version, mean_time_to_false_alarm, watched)

    def update(self, answered: Sequence[Answered]) -> TrafficSignals:
        """The signals after these requests, in order; the split into batches is immaterial."""
        # A union bound: each false alarm of the four is as rare as a quarter of what is promised.
        patience = max(self.mean_time_to_false_alarm, WINDOW) * len(CATEGORIES)
        return replace(
            self,
            watched={
                name: self.watched[name].update([of(one) for one in answered], patience)
                for name, of in CATEGORIES.items()
            },
        )

    @property
    def seen(self) -> tuple[Signal, ...]:
        """Every signal that has been compared with its reference, moved or not."""
        found = (watched.signal(name) for name, watched in self.watched.items())
        return tuple(signal for signal in found if signal is not None)

    def to_json(self) -> dict[str, Any]:
        return {
            "policy_version": self.policy_version,
            "mean_time_to_false_alarm": self.mean_time_to_false_alarm,
            "watched": {name: watched.to_json() for name, watched in self.watched.items()},
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> TrafficSignals:
        watched = {name: _Watched.from_json(one) for name, one in values["watched"].items()}
        return cls(values["policy_version"], values["mean_time_to_false_alarm"], watched)
