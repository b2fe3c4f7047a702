"""How numbers, money and times are written on a page: one way everywhere, unknown in words."""

from __future__ import annotations

import math
import re
from datetime import datetime
from zoneinfo import ZoneInfo

from markupsafe import Markup, escape

NARROW_SPACE = "\N{NARROW NO-BREAK SPACE}"
MINUS = "\N{MINUS SIGN}"
UNKNOWN = "unknown"


def percent(share: float | None, digits: int = 1) -> str:
    """A share as a percentage; whole numbers lose their zeros, a near-miss never rounds to 100.

    >>> percent(0.9864), percent(0.05), percent(0.99996), percent(None)
    ('98.6\\u202f%', '5\\u202f%', '99.9\\u202f%', 'unknown')
    """
    if share is None:
        return UNKNOWN
    text = f"{100 * share:.{digits}f}"
    if share < 1 and float(text) >= 100:
        text = f"{100 - 10**-digits:.{digits}f}"
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return f"{_signed(text)}{NARROW_SPACE}%"


def number(value: float | None, digits: int = 0) -> str:
    """A count or a quantity with thousands separated.

    >>> number(1234567), number(-12.345, 1)
    ('1,234,567', '−12.3')
    """
    return UNKNOWN if value is None else _signed(f"{value:,.{digits}f}")


def money(amount: float | None, currency: str) -> str:
    """An amount to the cent; what is smaller than a cent keeps two significant digits.

    >>> money(1234.5, "JPY"), money(0.00213, "JPY")
    ('1,234.50\\u202fJPY', '0.0021\\u202fJPY')
    """
    if amount is None:
        return UNKNOWN
    digits = 2 if abs(amount) >= 0.01 or not amount else 1 - math.floor(math.log10(abs(amount)))
    return f"{_signed(f'{amount:,.{digits}f}')}{NARROW_SPACE}{currency}"


def moment(at: datetime | None, zone: str = "UTC") -> str:
    """A time of the week: Mon 16 Nov, 09:05."""
    return "" if at is None else f"{at.astimezone(ZoneInfo(zone)):%a %d %b, %H:%M}"


def duration(seconds: float) -> str:
    """A length of time in its two largest units.

    >>> duration(45), duration(3700), duration(200000)
    ('45 s', '1 h 1 min', '2 d 7 h')
    """
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, hours, days = int(seconds // 60), int(seconds // 3600), int(seconds // 86400)
    if minutes < 60:
        return f"{minutes} min"
    if hours < 48:
        return f"{hours} h {minutes % 60} min" if minutes % 60 else f"{hours} h"
    return f"{days} d {hours % 24} h" if hours % 24 else f"{days} d"


def _signed(text: str) -> str:
    """A true minus sign, and none before a zero."""
    return text.replace("-", MINUS if text.strip("-0.,") else "")


def commands(sentence: str) -> Markup:
    """A sentence with its `commands` set as code.

    >>> commands("run `rollout apply` & wait")
    Markup('run <code>rollout apply</code> &amp; wait')
    """
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(sentence))))
