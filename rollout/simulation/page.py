"""Studies as one page, whole in itself: no script, nothing fetched."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from rollout.control.schema import CostSpec
from rollout.reporting.page import STYLE, environment
from rollout.simulation.past_study import PastStudy
from rollout.simulation.picture import (
    past_agreement_chart,
    past_share_chart,
    share_chart,
    truth_chart,
)
from rollout.simulation.rerun import counts
from rollout.simulation.study import Study


def studies_page(
    studies: Sequence[Study],
    pasts: Sequence[PastStudy],
    cost: CostSpec,
    source: str,
    made: datetime,
) -> str:
    """The HTML.

    Args:
        source: What was simulated: the spec's file.
        made: When.
    """
    pages = environment("rollout.simulation")
    pages.filters["counts"] = counts
    return pages.get_template("simulation.html.j2").render(
        style=STYLE,
        studies=[(study, share_chart(study), truth_chart(study)) for study in studies],
        pasts=[(past, past_share_chart(past), past_agreement_chart(past)) for past in pasts],
        currency=cost.currency,
        source=source,
        made=made,
    )
