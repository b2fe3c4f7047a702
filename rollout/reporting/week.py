"""ISO weeks, as people write them on a report: 2026-W47."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from rollout.values import RolloutError

WEEK = re.compile(r"(2\d{3})-W(\d{2})")


@dataclass(frozen=True)
class IsoWeek:
    """Monday 00:00 to the next Monday 00:00 in a time zone (so 167 to 169 hours long).

    >>> IsoWeek.parse("2026-W47").start.isoformat()
    '2026-11-16T00:00:00+00:00'
    """

    year: int
    number: int
    zone: str = "UTC"

    @classmethod
    def parse(cls, text: str, zone: str = "UTC") -> IsoWeek:
        """Read `2026-W47`.

        Raises:
            RolloutError: not of that form, a week the year does not have, an unknown time zone.
        """
        found = WEEK.fullmatch(text.strip())
        if found is None:
            raise RolloutError(
                f"week {text!r} is not an ISO week; write year, W and two digits: 2026-W47"
            )
        year, number = int(found[1]), int(found[2])
        try:
            date.fromisocalendar(year, number, 1)
        except ValueError:
            raise RolloutError(
                f"week {text!r}: {year} has no week {number}; weeks run from 01 to 52 or 53"
            ) from None
        try:
            ZoneInfo(zone)
        except (ZoneInfoNotFoundError, ValueError):
            raise RolloutError(
                f"time zone {zone!r} is unknown; write an IANA name such as Asia/Tokyo or UTC"
            ) from None
        return cls(year, number, zone)

    @classmethod
    def of(cls, moment: datetime, zone: str = "UTC") -> IsoWeek:
        """The week that `moment` lies in, as seen from `zone`."""
        year, number, _ = moment.astimezone(ZoneInfo(zone)).isocalendar()
        return cls(year, number, zone)

    @property
    def monday(self) -> date:
        return date.fromisocalendar(self.year, self.number, 1)

    @property
    def start(self) -> datetime:
        """The first moment, in UTC."""
        return self._midnight(self.monday)

    @property
    def end(self) -> datetime:
        """The first moment that no longer belongs to the week, in UTC."""
        return self._midnight(self.monday + timedelta(days=7))

    @property
    def previous(self) -> IsoWeek:
        year, number, _ = (self.monday - timedelta(days=7)).isocalendar()
        return IsoWeek(year, number, self.zone)

    def require_begun(self, now: datetime) -> None:
        """Refuse a week that lies ahead.

        Raises:
            RolloutError: the week starts after `now`.
        """
        if self.start > now:
            raise RolloutError(
                f"{self} starts on {self.monday.isoformat()}; nothing has happened in it yet. "
                f"The running week is {IsoWeek.of(now, self.zone)}"
            )

    def __str__(self) -> str:
        return f"{self.year}-W{self.number:02d}"

    def _midnight(self, day: date) -> datetime:
        return datetime.combine(day, time(), ZoneInfo(self.zone)).astimezone(UTC)
