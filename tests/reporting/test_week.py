"""ISO weeks, as written and as lived through."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from rollout.reporting.week import IsoWeek
from rollout.values import RolloutError


@pytest.mark.parametrize("text", ["", "2026-47", "2026W47", "2026-W5", "next week", "2026-W470"])
def test_what_is_not_an_iso_week_is_refused_with_the_form_to_write(text: str) -> None:
    with pytest.raises(RolloutError, match="2026-W47"):
        IsoWeek.parse(text)


def test_a_week_that_the_year_does_not_have_is_refused() -> None:
    assert IsoWeek.parse("2026-W53").monday.isoformat() == "2026-12-28"
    with pytest.raises(RolloutError, match="2025 has no week 53"):
        IsoWeek.parse("2025-W53")


def test_an_unknown_time_zone_is_refused() -> None:
    with pytest.raises(RolloutError, match="Asia/Tokyo"):
        IsoWeek.parse("2026-W47", "Mars/Olympus")


def test_a_week_starts_on_monday_at_local_midnight() -> None:
    assert IsoWeek.parse("2026-W47").start == datetime(2026, 11, 16, tzinfo=UTC)
    assert IsoWeek.parse("2026-W47", "Asia/Tokyo").start == datetime(2026, 11, 15, 15, tzinfo=UTC)


def test_a_daylight_saving_change_makes_a_week_an_hour_longer() -> None:
    week = IsoWeek.parse("2026-W43", "Europe/Berlin")
    assert week.end - week.start == timedelta(hours=169)


def test_the_week_before_the_first_is_the_last_of_the_year_before() -> None:
    assert str(IsoWeek.parse("2027-W01").previous) == "2026-W53"


def test_a_week_that_has_not_begun_is_refused_with_the_running_one() -> None:
    now = datetime(2026, 11, 18, tzinfo=UTC)
    IsoWeek.parse("2026-W47").require_begun(now)
    with pytest.raises(RolloutError, match="nothing has happened.*2026-W47"):
        IsoWeek.parse("2026-W48").require_begun(now)
