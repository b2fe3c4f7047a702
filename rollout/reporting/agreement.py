"""How often early answers equalled the full model's, with an interval, from the comparisons made.

Three rates, since they answer three questions. *Exit agreement*: of the requests that did exit
early, how many agree (the shadowed ones speak for the others, each with weight 1 / its inclusion
probability). *Agreement*: the same over all early-arm requests, where fallbacks agree by
construction. *Policy agreement*: over every comparison of either arm, where a control request
counts as the policy would have answered it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sqlalchemy import and_, case, func, or_, select
from sqlalchemy.orm import Session
from sqlalchemy.sql.elements import ColumnElement

from rollout.stats.intervals import confidence_sequence, weighted_interval
from rollout.store.models import Outcome

MATCHED = 0.5
"""Agreement of choices is 1.0 or 0.0; a comparison matched where it lies above this."""

COMPARED_EXIT = and_(
    Outcome.arm == "early",
    Outcome.exit_layer.is_not(None),
    Outcome.shadow,
    Outcome.inclusion_probability > 0,
    Outcome.agreement.is_not(None),
)
COMPARED = and_(or_(Outcome.arm == "control", Outcome.shadow), Outcome.agreement.is_not(None))


@dataclass(frozen=True)
class Estimate:
    """A rate in [0, 1] with its interval, and the comparisons it rests on."""

    value: float
    lower: float
    upper: float
    compared: int
    mismatches: int


@dataclass(frozen=True)
class Agreement:
    """The three rates; None where there was nothing to compare: unknown, neither good nor bad."""

    early: Estimate | None
    exits: Estimate | None
    policy: Estimate | None


@dataclass(frozen=True)
class Comparisons:
    """Equal comparisons counted together: `count` requests of this probability and outcome."""

    inclusion_probability: float
    matched: bool
    count: int


def measure_agreement(
    session: Session, within: Sequence[ColumnElement[bool]], alpha: float
) -> Agreement:
    """The three rates over the outcomes that satisfy `within`, each at confidence 1 - alpha."""
    matched = case((Outcome.agreement > MATCHED, 1), else_=0)
    groups = session.execute(
        select(Outcome.inclusion_probability, matched.label("matched"), func.count())
        .where(*within, COMPARED_EXIT)
        .group_by(Outcome.inclusion_probability, "matched")
        .order_by(Outcome.inclusion_probability, "matched")
    )
    exits = exit_estimate(
        [Comparisons(float(row[0]), bool(row[1]), int(row[2])) for row in groups], alpha
    )
    early, exited = session.execute(
        select(func.count(), func.count(Outcome.exit_layer)).where(*within, Outcome.arm == "early")
    ).one()
    compared, matches = session.execute(
        select(func.count(), func.coalesce(func.sum(matched), 0)).where(*within, COMPARED)
    ).one()
    return Agreement(
        early=over_early_arm(exits, int(early), int(exited)),
        exits=exits,
        policy=policy_estimate(int(compared), int(compared) - int(matches), alpha),
    )


def exit_estimate(groups: Sequence[Comparisons], alpha: float) -> Estimate | None:
    """The weighted (Hajek) mean over compared exits; None without any."""
    counts = [group.count for group in groups]
    weights = np.repeat([1 / group.inclusion_probability for group in groups], counts)
    matched = np.repeat([group.matched for group in groups], counts)
    interval = weighted_interval(weights, matched, alpha)
    if interval is None:
        return None
    mismatches = sum(group.count for group in groups if not group.matched)
    return Estimate(*interval, compared=sum(counts), mismatches=mismatches)


def over_early_arm(exits: Estimate | None, early: int, exited: int) -> Estimate | None:
    """Exit agreement carried to all early-arm requests: fallbacks agree by construction."""
    if exits is None or not early:
        return None
    fallbacks = early - exited
    value, lower, upper = (
        (fallbacks + exited * rate) / early for rate in (exits.value, exits.lower, exits.upper)
    )
    return Estimate(value, lower, upper, exits.compared, exits.mismatches)


def policy_estimate(compared: int, mismatches: int, alpha: float) -> Estimate | None:
    """The plain rate over comparisons, with an interval valid however often one looks."""
    if not compared:
        return None
    lower, upper = confidence_sequence(compared, mismatches, alpha)
    return Estimate(1 - mismatches / compared, lower, upper, compared, mismatches)
