"""What lies on the wire: requests, answers, and shadows to be replayed. JSON values only."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from rollout.engine.task import BadRequest
from rollout.values import Arm

MAX_REQUEST_ID = 200
"""Characters; as wide as its column."""


@dataclass(frozen=True)
class ServeRequest:
    """One request as it lies on the wire.

    Attributes:
        request_id: Idempotency key: a request is stored once, however often it is delivered.
        request_key: What the arm sticks to (a customer, a conversation); default the request id.
        requested_at: ISO 8601 with zone; default the time of answering.
    """

    request_id: str
    domain: str
    text: str
    request_key: str | None = None
    requested_at: str | None = None

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> ServeRequest:
        """Raises BadRequest where fields are missing, unknown or of the wrong kind."""
        try:
            request = cls(**fields)
        except TypeError as error:
            raise BadRequest(f"the request does not have the expected fields: {error}") from error
        for name, value in asdict(request).items():
            optional = name in ("request_key", "requested_at")
            if not (isinstance(value, str) or (optional and value is None)):
                raise BadRequest(f"{name} must be text, not {type(value).__name__}")
            if value is not None and not _is_unicode(value):
                raise BadRequest(f"{name} is not valid Unicode: it holds half a surrogate pair")
        if not 0 < len(request.request_id) <= MAX_REQUEST_ID:
            raise BadRequest(
                f"request_id has {len(request.request_id)} characters: give 1 to {MAX_REQUEST_ID}"
            )
        if not request.request_id.isprintable():
            raise BadRequest("request_id must have printable characters only")
        return request

    def time(self, now: datetime) -> datetime:
        if self.requested_at is None:
            return now
        try:
            at = datetime.fromisoformat(self.requested_at)
        except ValueError as error:
            raise BadRequest(f"requested_at {self.requested_at!r} is not ISO 8601") from error
        if at.tzinfo is None:
            raise BadRequest(f"requested_at {self.requested_at!r} has no time zone")
        try:
            return at.astimezone(UTC)
        except OverflowError as error:
            raise BadRequest(f"requested_at {self.requested_at!r} is out of range") from error


@dataclass(frozen=True)
class ServedAnswer:
    """What the caller gets, plain JSON values only."""

    request_id: str
    domain: str
    answer: str
    arm: Arm
    exit_layer: int | None
    layers_run: int
    depth: int
    confidence: float | None
    policy_version: int | None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class ShadowReplay:
    """A shadow to be run again from scratch, on another worker, as the independent check."""

    request_id: str
    domain: str
    text: str


def clash(request: ServeRequest, domain: str, text_hash: str) -> BadRequest | None:
    """Why a request is not the one that its id was used for before; None where it is."""
    if request.domain == domain and digest(request.text) == text_hash:
        return None
    return BadRequest(
        f"request_id {request.request_id!r} was used for another request before: use a new one"
    )


def digest(text: str) -> str:
    """SHA-256 (hex): what is kept of a text or key that is not."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
