"""Past requests from a file: .csv, .jsonl, or plain text with one a line."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rollout.values import RolloutError


@dataclass(frozen=True)
class PastRequest:
    """One request of the past.

    Attributes:
        row: Its number in the file, from 1 on; a header is not counted, in a plain file it is the
            line.
        label: What the right answer was, where the file says it.
        domain: Its business domain, where the file says it.
    """

    row: int
    text: str
    label: str | None = None
    domain: str | None = None


def read_past(path: Path) -> list[PastRequest]:
    """Requests from .csv or .jsonl (`text`, and `label` and `domain` where they are known), or
    from a plain file, one per line. Rows whose text is blank are left out.

    Raises:
        RolloutError: unreadable file, no such column, no texts.
    """
    try:
        if path.suffix == ".csv":
            # Excel writes a byte order mark in front of the first column's name.
            with path.open(newline="", encoding="utf-8-sig") as file:
                requests = _requests(path, csv.DictReader(file))
        elif path.suffix == ".jsonl":
            # Not splitlines: JSON strings may hold U+2028 as it is.
            lines = path.read_text(encoding="utf-8").split("\n")
            requests = _requests(path, (json.loads(line) for line in lines if line.strip()))
        else:
            lines = path.read_text(encoding="utf-8").splitlines()
            requests = [PastRequest(row, line) for row, line in enumerate(lines, start=1)]
    except FileNotFoundError as error:
        raise RolloutError(f"{path}: there is no such file") from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, csv.Error) as error:
        raise RolloutError(f"{path}: cannot be read: {error}") from error
    requests = [request for request in requests if request.text.strip()]
    if not requests:
        raise RolloutError(f"{path}: there is no text in it")
    return requests


def read_texts(path: Path) -> list[str]:
    """The texts alone of `read_past`."""
    return [request.text for request in read_past(path)]


def _requests(path: Path, records: Iterable[Any]) -> list[PastRequest]:
    requests = []
    for row, record in enumerate(records, start=1):
        if not isinstance(record, dict) or "text" not in record:
            found = ", ".join(map(str, record)) if isinstance(record, dict) else "no columns"
            raise RolloutError(
                f"{path}: a row has no `text` (row {row} has {found}); name the column or key "
                "`text`"
            )
        text = record["text"]
        if text is not None and not isinstance(text, str):
            raise RolloutError(f"{path}: row {row}: `text` is {text!r}, not a text")
        label, domain = _known(record.get("label")), _known(record.get("domain"))
        requests.append(PastRequest(row, text or "", label, domain))
    return requests


def _known(value: Any) -> str | None:
    """Numbers and true or false may name a label, as written in JSON; blank is unknown."""
    if value is None:
        return None
    word = value if isinstance(value, str) else json.dumps(value)
    return word.strip() or None
