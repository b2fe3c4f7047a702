"""From unlabelled texts to an exit policy: fit heads, certify a threshold, store both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from sqlalchemy.orm import Session

from rollout.control.commands import policy_changed
from rollout.control.labels import never_early
from rollout.control.spec import DomainSpec
from rollout.control.state import DomainState, tolerated
from rollout.engine.calibration import Calibration, calibrate
from rollout.engine.segments import Segments
from rollout.engine.task import BadRequest, ChoiceTask, compile_task
from rollout.stats.thresholds import ThresholdChoice, choose_threshold
from rollout.stats.traces import trace_arrays
from rollout.store.catalog import save_policy
from rollout.store.domains import AppliedDomain, load_domain
from rollout.store.ledger import load_state, record_event, replace_state
from rollout.store.session import Store
from rollout.values import ExitPolicy, RolloutError

CERTIFICATE_ALPHA = 0.05
"""Chance that a certificate is wrong."""


class NothingCertified(RolloutError):
    """No threshold's disagreement could be certified: the domain stays at full depth."""


@dataclass(frozen=True)
class CalibratedPolicy:
    """A stored policy version and the certificate it stands on."""

    policy: ExitPolicy
    choice: ThresholdChoice
    texts: int


def calibrate_domain(
    segments: Segments,
    store: Store,
    heads_folder: Path,
    applied: AppliedDomain,
    texts: Sequence[str],
    *,
    criterion: str,
    exit_layers: Sequence[int] | None,
    activate: bool,
    actor: str,
    now: datetime,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> CalibratedPolicy:
    """Store a new policy version for the domain.

    Args:
        activate: Make it the live policy in the same transaction, at stage 0.

    Raises:
        NothingCertified: the traces do not certify any threshold at the domain's target.
        RolloutError: too few texts, texts, labels or template that do not fit the model, layers
            that it does not have, or a domain that was changed while this ran.
    """
    _check_layers(exit_layers, segments.loaded.depth)
    task = compile_task(segments.loaded, applied.labels, applied.template)
    try:
        fitted = calibrate(
            segments, task, texts, exit_layers=exit_layers, criterion=criterion, progress=progress
        )
    except BadRequest as error:
        raise RolloutError(_which(task, texts, error)) from error
    barred = never_early(applied.spec, applied.labels)
    choice = _certify(applied.spec, fitted, barred)
    if choice is None:
        raise NothingCertified(
            f"domain {applied.name}: {len(fitted.held_out)} traces certify no threshold at "
            f"{applied.spec.agreement.target:.1%} agreement; it stays at full depth. "
            "Give more texts, or lower agreement.target"
        )
    layers = tuple(sorted(fitted.heads.heads))
    policy = ExitPolicy(
        domain=applied.name,
        version=0,
        exit_layers=layers,
        thresholds=(choice.threshold,) * len(layers),
        heads=fitted.heads.save(heads_folder),
        criterion=criterion,
        model_revision=segments.loaded.revision,
        depth=segments.loaded.depth,
        never_early=barred,
        probe_cost=fitted.costs.probe_cost,
        layer_ms=fitted.costs.layer_ms,
    )
    with store.write() as session:
        version = save_policy(session, policy, applied.labels, choice.to_json(), actor, now)
        _refuse_changed(applied, load_domain(session, applied.name))
        if activate:
            _make_live(session, applied.name, version, now)
        record_event(
            session,
            domain=applied.name,
            action="calibrate",
            reason=(
                f"policy v{version} from {len(texts)} texts: disagreement at most "
                f"{choice.certified_risk:.2%} certified on {choice.rows} held-out requests, "
                f"forecast net saving {choice.net_saving:.0%} of the layers; "
                f"{'live, shadow-only' if activate else 'not live'}"
            ),
            actor=actor,
            now=now,
            facts=choice.to_json(),
        )
    return CalibratedPolicy(replace(policy, version=version), choice, len(texts))


def _certify(
    spec: DomainSpec, fitted: Calibration, barred: frozenset[int]
) -> ThresholdChoice | None:
    confidence, agrees, allowed = trace_arrays(fitted.held_out, barred)
    trace = fitted.held_out[0]
    return choose_threshold(
        confidence,
        agrees,
        allowed,
        [point.layer for point in trace.exits],
        trace.depth,
        fitted.costs.probe_cost,
        tolerated(spec.agreement.target),
        CERTIFICATE_ALPHA,
    )


def _check_layers(exit_layers: Sequence[int] | None, depth: int) -> None:
    wrong = [layer for layer in exit_layers or () if not 1 <= layer < depth]
    if wrong:
        raise RolloutError(
            f"exit layer {wrong[0]} is outside 1 to {depth - 1}: the model has {depth} layers"
        )


def _which(task: ChoiceTask, texts: Sequence[str], refused: BadRequest) -> str:
    """The refusal, with the number of the first text it is about."""
    for number, text in enumerate(texts, start=1):
        try:
            task.encode(text)
        except BadRequest as error:
            return f"text {number} of {len(texts)}: {error}"
    return str(refused)


def _refuse_changed(calibrated: AppliedDomain, standing: AppliedDomain) -> None:
    """Fitting takes minutes, in which `rollout apply` may run."""

    def rests_on(domain: AppliedDomain) -> tuple[object, ...]:
        spec = domain.spec
        return domain.labels, domain.template, spec.agreement.target, spec.guards

    if rests_on(calibrated) != rests_on(standing):
        raise RolloutError(
            f"domain {standing.name}: its labels, template, target or guards were changed while "
            "this ran; nothing was stored, calibrate again"
        )


def _make_live(session: Session, domain: str, version: int, now: datetime) -> None:
    spec = load_domain(session, domain).spec
    # Locked, so that a rollback decided meanwhile is built upon, not overwritten.
    found = load_state(session, domain, locked=True)
    state = DomainState.start(spec, now) if found is None else found[0]
    replace_state(session, domain, policy_changed(spec, state, version, now), now)
