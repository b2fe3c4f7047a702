"""What a worker may serve now: read from the store every few seconds, never remembered beyond."""

from __future__ import annotations

import difflib
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from rollout.control.spec import DomainSpec
from rollout.store.catalog import kill_switch, load_policy
from rollout.store.domains import AppliedDomain, UnknownDomain, load_domain
from rollout.store.ledger import load_state
from rollout.store.models import Domain
from rollout.store.session import Store, StoreUnreachable
from rollout.values import ExitPolicy, PolicyError, RolloutError

log = logging.getLogger(__name__)

POLICY_TTL_S = 2.0
"""The longest that a kill switch or a rollback takes to reach a worker."""


@dataclass(frozen=True)
class LiveDomain:
    """One domain as it is to be served now.

    Attributes:
        spec, labels, template: What the domain's requests are; the last that could be read.
        policy: The live policy; None means full depth for everybody.
        stage_weight: Share of traffic that may exit early, in [0, 1]; 0 without a policy and while
            killed.
        shadow_rate: Share of early answers that are compared: the controller's, else the spec's.
        killed: Whether the kill switch is on. The policy is still there, so that control traces go
            on judging it; nobody is answered by it.
        reason: Why nobody may exit, in words; None in normal operation.
        broken: Whether that reason is a fault, not a decision.
    """

    domain: str
    spec: DomainSpec
    labels: tuple[str, ...]
    template: str
    policy: ExitPolicy | None
    stage_weight: float
    shadow_rate: float
    killed: bool
    reason: str | None
    broken: bool = False


@dataclass(frozen=True)
class _Reading:
    """Domains to serve, why others cannot be, and why nothing can be read (None: it can)."""

    domains: dict[str, LiveDomain]
    lost: dict[str, str]
    fault: str | None


class PolicyCache:
    """All domains' live policies, at most `ttl_s` old.

    What cannot be read is not served: no policy, full depth, and the reason. The policy of before
    is never used again, since what took the store away may also hide a rollback or the kill switch.
    Safe to share between threads.

    Args:
        ttl_s: Lifetime in seconds: the longest that a kill switch or rollback takes to reach a
            worker. A failed reading is kept as long, so that a store which is slow to fail does not
            slow every batch.
        clock: Monotonic seconds.
    """

    def __init__(
        self, store: Store, ttl_s: float = POLICY_TTL_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._store = store
        self._ttl_s = ttl_s
        self._clock = clock
        self._lock = threading.Lock()
        self._reading = _Reading({}, {}, None)
        self._fresh_until = float("-inf")
        self._policies: dict[tuple[str, int], tuple[ExitPolicy, tuple[str, ...]]] = {}

    def live(self, domain: str) -> LiveDomain:
        """A domain as it is to be served now.

        Raises:
            UnknownDomain: it was never applied; the message names those that were.
            StoreUnreachable: nothing is known of it, and the store cannot be asked: try again.
            RolloutError: what is stored of it cannot be read, and never could be.
        """
        read = self._read()
        found = read.domains.get(domain)
        if found is not None:
            return found
        if domain in read.lost:
            raise RolloutError(f"domain {domain!r} cannot be served: {read.lost[domain]}")
        if read.fault is not None:
            raise StoreUnreachable(f"domain {domain!r} cannot be looked up: {read.fault}")
        names = sorted({*read.domains, *read.lost})
        close = difflib.get_close_matches(domain, names, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        known = ", ".join(names) or "none yet: run `rollout apply`"
        raise UnknownDomain(f"domain {domain!r} is unknown{hint} (known: {known})")

    def ready(self) -> tuple[bool, str]:
        """Whether everything that should be served can be, and if not, why."""
        read = self._read()
        if read.fault is not None:
            return False, f"full depth everywhere: {read.fault}"
        broken = [f"{name}: {fault}" for name, fault in read.lost.items()]
        broken += [
            f"{live.domain}: full depth, {live.reason}"
            for live in read.domains.values()
            if live.broken
        ]
        if broken:
            return False, "; ".join(broken)
        return True, f"serving {', '.join(read.domains) or 'no domain: none was applied yet'}"

    def _read(self) -> _Reading:
        with self._lock:
            now = self._clock()
            if now >= self._fresh_until:
                self._reading = self._refreshed()
                # A good reading is as old as its start; a bad one may have taken its time to fail.
                started = now if self._reading.fault is None else self._clock()
                self._fresh_until = started + self._ttl_s
            return self._reading

    def _refreshed(self) -> _Reading:
        try:
            with self._store.read() as session:
                return self._all_domains(session)
        except Exception as error:
            # Whatever it is, the answer is the full model's.
            fault = f"the policy store cannot be read: {error}"
            if self._reading.fault is None:
                log.error("full depth for everybody: %s", fault)
            blind = {
                name: _without_policy(live, fault) for name, live in self._reading.domains.items()
            }
            return _Reading(blind, self._reading.lost, fault)

    def _all_domains(self, session: Session) -> _Reading:
        switch = kill_switch(session)
        killed = None
        if switch is not None and switch.on:
            killed = f"the kill switch is on (by {switch.changed_by}: {switch.reason})"
        domains: dict[str, LiveDomain] = {}
        lost: dict[str, str] = {}
        for name in session.scalars(select(Domain.name).order_by(Domain.name)).all():
            try:
                applied = load_domain(session, name)
            except SQLAlchemyError:
                raise
            except Exception as error:
                fault = f"its stored spec cannot be read: {error}"
                log.error("domain %s: %s", name, fault)
                before = self._reading.domains.get(name)
                if before is None:
                    lost[name] = fault
                else:
                    domains[name] = _without_policy(before, fault)
                continue
            domains[name] = self._live(session, applied, killed)
        return _Reading(domains, lost, None)

    def _live(self, session: Session, applied: AppliedDomain, killed: str | None) -> LiveDomain:
        live = LiveDomain(
            applied.name,
            applied.spec,
            applied.labels,
            applied.template,
            policy=None,
            stage_weight=0.0,
            shadow_rate=applied.spec.shadow.rate,
            killed=killed is not None,
            reason=killed,
        )
        try:
            found = load_state(session, applied.name)
            if found is None or found[0].policy_version is None:
                return replace(
                    live, reason=killed or "there is no exit policy yet: run `rollout calibrate`"
                )
            state = found[0]
            policy = self._policy(session, applied, found[0].policy_version)
            weight = 0.0 if live.killed else state.stage_weight(applied.spec)
        except SQLAlchemyError:
            raise
        except Exception as error:
            fault = f"its state or policy cannot be read: {error}"
            log.error("domain %s at full depth: %s", applied.name, fault)
            return _without_policy(live, fault)
        rate = live.shadow_rate if state.shadow_rate is None else state.shadow_rate
        return replace(live, policy=policy, stage_weight=weight, shadow_rate=rate)

    def _policy(self, session: Session, applied: AppliedDomain, version: int) -> ExitPolicy:
        """The policy version, if it was made for the labels that the domain has now.

        Raises:
            PolicyError: it is missing, damaged, or made for other labels.
        """
        key = (applied.name, version)
        if key not in self._policies:
            self._policies[key] = load_policy(session, *key)
        policy, labels = self._policies[key]
        if labels != applied.labels:
            raise PolicyError(
                f"policy {applied.name} v{version} was made for {len(labels)} other labels: "
                "run `rollout calibrate`"
            )
        return policy


def _without_policy(live: LiveDomain, fault: str) -> LiveDomain:
    return replace(live, policy=None, stage_weight=0.0, reason=fault, broken=True)
