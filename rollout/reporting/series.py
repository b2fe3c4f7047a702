"""What happened over time: one bucket per hour, or finer where everything happened in a day."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import BigInteger, Integer, case, cast, func, literal_column, select
from sqlalchemy.orm import Session
from sqlalchemy.sql.elements import ColumnElement

from rollout.control.schema import CostSpec
from rollout.reporting.accounts import account_columns, savings_of
from rollout.reporting.agreement import (
    COMPARED,
    COMPARED_EXIT,
    MATCHED,
    Comparisons,
    Estimate,
    exit_estimate,
    over_early_arm,
    policy_estimate,
)
from rollout.reporting.savings import Account
from rollout.store.models import Outcome

BUCKETS_S = (60, 300, 900, 3600, 6 * 3600, 24 * 3600)
MOST_BUCKETS = 170
"""A week of hours, with room for the hour a daylight-saving change adds."""


@dataclass(frozen=True)
class Bucket:
    """The requests of one stretch of time.

    Attributes:
        at: Its start.
        early_share: Early-arm requests over all, in [0, 1].
        agreement: Over the early arm; None where no exit was compared.
        policy: Policy agreement of this and as many earlier buckets as give `pooled` comparisons.
        layers: The savings account, in layers.
        money: The same in money.
    """

    at: datetime
    requests: int
    early: int
    early_share: float
    agreement: Estimate | None
    policy: Estimate | None
    layers: Account
    money: Account


@dataclass(frozen=True)
class Series:
    """Buckets with requests, oldest first; a stretch without requests has no bucket.

    Attributes:
        bucket_s: Length of a bucket, in seconds.
        pooled: Comparisons a point of the policy agreement rests on at least, where they exist.
    """

    bucket_s: int
    pooled: int
    buckets: tuple[Bucket, ...]


def measure_series(
    session: Session,
    within: Sequence[ColumnElement[bool]],
    cost: CostSpec,
    alpha: float,
    pooled: int,
) -> Series:
    """The outcomes that satisfy `within`, bucket by bucket."""
    first, last = session.execute(
        select(func.min(Outcome.created_at), func.max(Outcome.created_at)).where(*within)
    ).one()
    if first is None:
        return Series(3600, pooled, ())
    bucket_s = bucket_length((last - first).total_seconds())
    bucket = _bucket_number(session, bucket_s).label("bucket")
    matched = case((Outcome.agreement > MATCHED, 1), else_=0)

    exits: dict[int, list[Comparisons]] = defaultdict(list)
    for row in session.execute(
        select(bucket, Outcome.inclusion_probability, matched.label("matched"), func.count())
        .where(*within, COMPARED_EXIT)
        .group_by("bucket", Outcome.inclusion_probability, "matched")
    ):
        exits[int(row[0])].append(Comparisons(float(row[1]), bool(row[2]), int(row[3])))

    compared = {
        int(row[0]): (int(row[1]), int(row[1]) - int(row[2]))
        for row in session.execute(
            select(bucket, func.count(), func.sum(matched))
            .where(*within, COMPARED)
            .group_by("bucket")
        )
    }
    is_early = case((Outcome.arm == "early", 1), else_=0)
    has_exited = case((Outcome.arm == "early", case((Outcome.exit_layer.is_(None), 0), else_=1)))
    rows = session.execute(
        select(
            bucket, func.count(), func.sum(is_early), func.sum(has_exited), *account_columns(cost)
        )
        .where(*within)
        .group_by("bucket")
        .order_by("bucket")
    )
    window: deque[tuple[int, int]] = deque()
    buckets = []
    for number, requests, early, exited, *sums in rows:
        window.append(compared.get(int(number), (0, 0)))
        while sum(count for count, _ in window) - window[0][0] >= pooled and len(window) > 1:
            window.popleft()
        savings = savings_of(sums, cost)
        exit_rate = exit_estimate(exits.get(int(number), []), alpha)
        buckets.append(
            Bucket(
                at=datetime.fromtimestamp(int(number) * bucket_s, UTC),
                requests=int(requests),
                early=int(early),
                early_share=int(early) / int(requests),
                agreement=over_early_arm(exit_rate, int(early), int(exited or 0)),
                policy=policy_estimate(
                    sum(count for count, _ in window), sum(wrong for _, wrong in window), alpha
                ),
                layers=savings.layers,
                money=savings.money,
            )
        )
    return Series(bucket_s, pooled, tuple(buckets))


def bucket_length(span_s: float) -> int:
    """Seconds per bucket: hours for a week, finer for what took minutes, coarser for months.

    >>> bucket_length(7 * 24 * 3600), bucket_length(3 * 3600), bucket_length(40 * 60)
    (3600, 300, 60)
    """
    wanted = 1 if span_s > 2 * 24 * 3600 else 4
    for length in BUCKETS_S:
        if span_s / length <= MOST_BUCKETS / wanted:
            return length
    return BUCKETS_S[-1]


def _bucket_number(session: Session, bucket_s: int) -> ColumnElement[int]:
    """Buckets since 1970: the stores agree on no date function, so on epoch seconds."""
    length: ColumnElement[int] = literal_column(str(bucket_s), Integer)
    if session.get_bind().dialect.name == "sqlite":
        return cast(func.strftime("%s", Outcome.created_at), Integer).op("/")(length)
    return cast(func.floor(func.extract("epoch", Outcome.created_at) / length), BigInteger)
