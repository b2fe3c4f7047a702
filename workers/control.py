"""The `tick` task: beat sends it once a minute; every domain is judged on its own."""

from __future__ import annotations

import logging
from datetime import datetime

from sqlalchemy import select

from rollout.store.ledger import LostRace
from rollout.store.models import Domain
from rollout.store.tick import tick as tick_domain
from workers.app import app
from workers.process import store, utc_now

log = logging.getLogger(__name__)


@app.task(name="rollout.tick")  # type: ignore[untyped-decorator]
def tick(now: str | None = None) -> dict[str, str]:
    """Decide for every domain.

    Args:
        now: ISO 8601 with zone, for a simulated clock; default the time now.

    Returns:
        The action per domain. A domain that another controller just decided for is left out; one
        that fails does not keep the others from being decided.
    """
    at = utc_now() if now is None else datetime.fromisoformat(now)
    with store().read() as session:
        names = session.scalars(select(Domain.name).order_by(Domain.name)).all()
    actions: dict[str, str] = {}
    for name in names:
        try:
            decision = tick_domain(store(), name, at)
        except LostRace as lost:
            log.info("%s", lost)
            continue
        except Exception:
            log.exception("domain %s: the tick failed; the next one tries again", name)
            continue
        if decision is not None:
            actions[name] = decision.action
            log.info("domain %s: %s: %s", name, decision.action, decision.reason)
    return actions
