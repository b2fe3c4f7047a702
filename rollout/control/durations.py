"""Durations and weekly windows as people write them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

_UNITS = {"w": 604_800, "d": 86_400, "h": 3_600, "m": 60, "s": 1}
_DURATION = re.compile(r"(?:\d+[wdhms])+")
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MOMENT = rf"({'|'.join(_DAYS)}) ([01]\d|2[0-3]):([0-5]\d)"
_WINDOW = re.compile(rf"{_MOMENT}\s*-\s*{_MOMENT}\s+(\S+)")


def parse_duration(text: Any) -> timedelta:
    """`30m`, `24h`, `7d`, `1h30m`. Raises ValueError for anything else.

    >>> parse_duration("1h30m")
    datetime.timedelta(seconds=5400)
    """
    if isinstance(text, timedelta):
        return text
    if not isinstance(text, str) or not _DURATION.fullmatch(text):
        raise ValueError(f"{text!r} is no duration; write a number and a unit: 45s, 30m, 24h, 7d")
    parts = re.findall(r"(\d+)([wdhms])", text)
    try:
        return timedelta(seconds=sum(int(count) * _UNITS[unit] for count, unit in parts))
    except OverflowError:
        raise ValueError(f"{text!r} is longer than any calendar") from None


def format_duration(duration: timedelta) -> str:
    """The shortest text that `parse_duration` reads back, to the second.

    >>> format_duration(timedelta(hours=24)), format_duration(timedelta(minutes=90))
    ('1d', '1h30m')
    """
    left = int(duration.total_seconds())
    parts = []
    for unit in "dhms":
        count, left = divmod(left, _UNITS[unit])
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"


@dataclass(frozen=True)
class FreezeWindow:
    """A weekly window in local time, such as from Friday evening to Monday morning.

    Attributes:
        start: Minutes since Monday 00:00.
        end: Minutes since Monday 00:00; before `start` where the window spans the week's end.
        zone: IANA time zone.
        text: As written.
    """

    start: int
    end: int
    zone: ZoneInfo
    text: str

    @classmethod
    def parse(cls, text: str) -> FreezeWindow:
        """Raises ValueError with what to write instead.

        >>> FreezeWindow.parse("Fri 18:00 - Mon 08:00 Asia/Tokyo").start
        6840
        """
        match = _WINDOW.fullmatch(text.strip())
        if match is None:
            raise ValueError(
                f"{text!r} is no window; write it like 'Fri 18:00 - Mon 08:00 Asia/Tokyo'"
            )
        from_day, from_hour, from_minute, to_day, to_hour, to_minute, zone = match.groups()
        start = _minute_of_week(_DAYS.index(from_day), int(from_hour), int(from_minute))
        end = _minute_of_week(_DAYS.index(to_day), int(to_hour), int(to_minute))
        if start == end:
            raise ValueError(f"{text!r} starts and ends at the same minute")
        try:
            return cls(start, end, ZoneInfo(zone), text)
        except (KeyError, ValueError, OSError):
            raise ValueError(
                f"{zone!r} is no time zone; use an IANA name such as Asia/Tokyo"
            ) from None

    def holds(self, now: datetime) -> bool:
        """Whether `now` (aware) lies in the window."""
        local = now.astimezone(self.zone)
        minute = _minute_of_week(local.weekday(), local.hour, local.minute)
        if self.start < self.end:
            return self.start <= minute < self.end
        return minute >= self.start or minute < self.end


def _minute_of_week(weekday: int, hour: int, minute: int) -> int:
    return (weekday * 24 + hour) * 60 + minute
