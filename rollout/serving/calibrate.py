"""From unlabelled texts to an exit policy: fit heads, certify a threshold, store both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from rollout.control.commands import policy_changed
from rollout.control.labels import never_early
from rollout.control.state import DomainState, tolerated
from rollout.engine.calibration import AUTO, calibrate
from rollout.engine.certify import CalibrationReport, certify, propose_threshold
from rollout.engine.placement import Expected
from rollout.engine.segments import Segments
from rollout.engine.task import BadRequest, ChoiceTask, compile_task
from rollout.stats.thresholds import ThresholdChoice
from rollout.store.catalog import save_policy
from rollout.store.domains import AppliedDomain, load_domain
from rollout.store.ledger import load_state, record_event, replace_state
from rollout.store.session import Store
from rollout.values import ExitPolicy, RolloutError


class NothingCertified(RolloutError):
    """No threshold is expected to save anything: the domain stays at full depth."""


@dataclass(frozen=True)
class CalibratedPolicy:
    """A stored policy version and what it stands on.

    Attributes:
        choice: The certificate; None where the texts certify nothing. Such a version may only be
            shadowed: every promotion has to be earned by live comparisons.
        expected: What the threshold is expected to do where nothing is certified.
    """

    policy: ExitPolicy
    choice: ThresholdChoice | None
    expected: Expected | None
    report: CalibrationReport
    texts: int
    target: float

    @property
    def certificate(self) -> dict[str, Any]:
        """As it is stored beside the policy."""
        found = self.choice.to_json() if self.choice is not None else {}
        if self.expected is not None:
            found = asdict(self.expected)
        return {"certified": self.choice is not None, **found, "report": self.report.to_json()}

    def in_words(self) -> str:
        version = f"v{self.policy.version}"
        if self.choice is not None:
            return (
                f"policy {version} from {self.texts:,} texts: disagreement at most "
                f"{self.choice.certified_risk:.2%} certified on {self.choice.rows:,} held-out "
                f"requests, forecast net saving {self.choice.net_saving:.0%} of the layers"
            )
        assert self.expected is not None
        return (
            f"{self.texts:,} texts certify nothing at {self.target:.3%}: policy {version} goes to "
            f"shadow only; promotion needs live evidence (expected disagreement "
            f"{self.expected.risk:.2%}, net saving {self.expected.net_saving:.0%} of the layers)"
        )


def calibrate_domain(
    segments: Segments,
    store: Store,
    heads_folder: Path,
    applied: AppliedDomain,
    texts: Sequence[str],
    *,
    criterion: str = AUTO,
    head: str = AUTO,
    exit_layers: Sequence[int] | None = None,
    activate: bool,
    actor: str,
    now: datetime,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> CalibratedPolicy:
    """Store a new policy version for the domain.

    Texts that are too few to certify its target still make a policy: its threshold is proposed, not
    certified, and stage 0 serves nobody by it until live comparisons certify the floor.

    Args:
        activate: Make it the live policy in the same transaction, at stage 0.

    Raises:
        NothingCertified: no threshold saves anything at the domain's target.
        RolloutError: too few texts, texts, labels or template that do not fit the model, layers
            that it does not have, or a domain that was changed while this ran.
    """
    _check_layers(exit_layers, segments.loaded.depth)
    task = compile_task(segments.loaded, applied.labels, applied.template)
    barred = never_early(applied.spec, applied.labels)
    target = applied.spec.agreement.target
    try:
        fitted = calibrate(
            segments,
            task,
            texts,
            exit_layers=exit_layers,
            criterion=criterion,
            head=head,
            target=target,
            never_early=barred,
            progress=progress,
        )
    except BadRequest as error:
        raise RolloutError(_which(task, texts, error)) from error
    limit = tolerated(target)
    choice = certify(fitted, limit, barred)
    expected = propose_threshold(fitted, limit, barred) if choice is None else None
    chosen = choice or expected
    if chosen is None:
        raise NothingCertified(
            f"domain {applied.name}: no exit saves anything at {target:.3%} agreement, by "
            f"{len(texts)} texts; it stays at full depth. Give more texts, or lower "
            "agreement.target"
        )
    layers = fitted.heads.layers
    policy = ExitPolicy(
        domain=applied.name,
        version=0,
        exit_layers=layers,
        thresholds=(chosen.threshold,) * len(layers),
        heads=fitted.heads.save(heads_folder),
        criterion=fitted.heads.criterion,
        model_revision=segments.loaded.revision,
        depth=segments.loaded.depth,
        never_early=barred,
        probe_cost=fitted.costs.probe_cost,
        layer_ms=fitted.costs.layer_ms,
    )
    report = CalibrationReport.of(fitted)
    done = CalibratedPolicy(policy, choice, expected, report, len(texts), target)
    with store.write() as session:
        version = save_policy(session, policy, applied.labels, done.certificate, actor, now)
        done = replace(done, policy=replace(policy, version=version))
        _refuse_changed(applied, load_domain(session, applied.name))
        if activate:
            _make_live(session, applied.name, version, now)
        record_event(
            session,
            domain=applied.name,
            action="calibrate",
            reason=f"{done.in_words()}; {'live, shadow-only' if activate else 'not live'}",
            actor=actor,
            now=now,
            facts=done.certificate,
        )
    return done


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
