"""The traffic itself is watched, at a stated rate of false alarms."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rollout.control.signals import REFERENCE, WINDOW, Answered, TrafficSignals

LABELS = tuple(f"label {number}" for number in range(40))


def traffic(count: int, seed: int, easy: float = 0.8, tokens: float = 20.0) -> list[Answered]:
    rng = np.random.default_rng(seed)
    sure = rng.random(count) < easy
    confidence = np.where(sure, rng.uniform(0.9, 1.0, count), rng.uniform(0.2, 0.9, count))
    lengths = rng.poisson(tokens, count) + 1
    labels = rng.integers(0, len(LABELS), count)
    return [
        Answered(4 if sure[row] else None, float(confidence[row]), int(lengths[row]), LABELS[label])
        for row, label in enumerate(labels)
    ]


def moved(signals: TrafficSignals) -> list[str]:
    return [signal.name for signal in signals.seen if signal.moved]


def test_nothing_is_said_before_there_is_something_to_compare_with() -> None:
    signals = TrafficSignals.start(1, 20_000).update(traffic(REFERENCE + WINDOW - 1, seed=0))
    assert signals.seen == ()


def test_steady_traffic_moves_no_signal() -> None:
    signals = TrafficSignals.start(1, 20_000).update(traffic(10_000, seed=1))
    assert [signal.name for signal in signals.seen] == [
        "exit depth",
        "confidence",
        "length",
        "label mix",
    ]
    assert moved(signals) == []


@pytest.mark.parametrize(
    ("changed", "names"),
    [
        (traffic(WINDOW, seed=3, easy=0.5), {"exit depth", "confidence"}),
        (traffic(WINDOW, seed=4, tokens=35.0), {"length"}),
        ([replace(one, label="new") for one in traffic(WINDOW, seed=5)], {"label mix"}),
    ],
)
def test_a_change_moves_the_signals_it_is_seen_in(changed: list[Answered], names: set[str]) -> None:
    signals = TrafficSignals.start(1, 20_000).update(traffic(REFERENCE, seed=2))
    assert set(moved(signals.update(changed))) == names


def test_what_lasts_becomes_the_new_normal() -> None:
    signals = TrafficSignals.start(1, 20_000).update(traffic(REFERENCE, seed=6))
    signals = signals.update(traffic(WINDOW, seed=7, easy=0.5))
    assert "exit depth" in moved(signals)
    signals = signals.update(traffic(REFERENCE - 1, seed=8, easy=0.5))
    assert "exit depth" in moved(signals)
    signals = signals.update(traffic(WINDOW + 1, seed=9, easy=0.5))
    assert moved(signals) == []


def test_the_split_into_ticks_is_immaterial_and_json_keeps_everything() -> None:
    rows = traffic(3_000, seed=10)
    whole = TrafficSignals.start(1, 20_000).update(rows)
    split = TrafficSignals.start(1, 20_000)
    for start in range(0, len(rows), 137):
        split = TrafficSignals.from_json(split.update(rows[start : start + 137]).to_json())
    assert split == whole


def test_an_unknown_confidence_is_a_category_not_an_error() -> None:
    rows = [replace(one, confidence=None) for one in traffic(WINDOW, seed=11)]
    signals = TrafficSignals.start(1, 20_000).update(traffic(REFERENCE, seed=12)).update(rows)
    assert "confidence" in moved(signals)
