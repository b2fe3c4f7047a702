"""Studies as one page, whole in itself: no script, nothing fetched."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from rollout.control.schema import CostSpec
from rollout.reporting.page import STYLE, environment
from rollout.simulation.picture import share_chart, truth_chart
from rollout.simulation.study import Study


def studies_page(studies: Sequence[Study], cost: CostSpec, source: str, made: datetime) -> str:
    """The HTML.

    Args:
        source: What was simulated: the spec's file.
        made: When.
    """
    template = environment("rollout.simulation").get_template("simulation.html.j2")
    return template.render(
        style=STYLE,
        studies=[(study, share_chart(study), truth_chart(study)) for study in studies],
        currency=cost.currency,
        source=source,
        made=made,
    )
