"""Who may exit early and who is shadowed: salted hashes, no memory, the same on every worker."""

from __future__ import annotations

import hashlib

from rollout.values import Arm

ARM_SALT = "arm"
SHADOW_SALT = "shadow"


def share(salt: str, domain: str, key: str) -> float:
    """A number in [0, 1), uniform over keys and fixed for each (salt, domain, key).

    53 bits of SHA-256 over the three parts joined by NUL: exactly what a double holds, so that
    every language gives the same number.

    >>> share("arm", "billing", "customer-1") == share("arm", "billing", "customer-1")
    True
    """
    digest = hashlib.sha256(
        "\0".join((salt, domain, key)).encode("utf-8", "surrogatepass")
    ).digest()
    return float(int.from_bytes(digest[:8]) >> 11) / 2**53


def arm_of(domain: str, request_key: str, stage_weight: float) -> Arm:
    """The arm of a request key at a stage weight in [0, 1].

    Sticky (the same key stays in its arm) and monotone: a wider stage only adds keys, a narrower
    one only removes them. A weight that is not a number gives the control arm.
    """
    return "early" if share(ARM_SALT, domain, request_key) < stage_weight else "control"


def is_shadowed(domain: str, request_id: str, rate: float) -> bool:
    """Whether an early-arm request also runs to full depth, at a shadow rate in [0, 1].

    By request id and another salt than the arm's: which customers are early says nothing of which
    of their requests are compared.
    """
    return share(SHADOW_SALT, domain, request_id) < rate
