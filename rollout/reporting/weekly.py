"""The weekly report: an HTML file for people, JSON and CSV for programs, a row in the store."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from markupsafe import Markup

from rollout.control.schema import CostSpec, DomainSpec, Spec
from rollout.reporting import charts
from rollout.reporting.agreement import Estimate
from rollout.reporting.figures import (
    Latency,
    Period,
    Summary,
    WeeklyFigures,
    domain_of,
    weekly_figures,
)
from rollout.reporting.page import STYLE, environment
from rollout.reporting.week import IsoWeek
from rollout.reporting.wording import number, percent
from rollout.store.models import Report
from rollout.store.session import Store
from rollout.values import RolloutError


@dataclass(frozen=True)
class ReportPaths:
    """The files of one report."""

    html: Path
    json: Path
    csv: Path


def write_report(
    store: Store, spec: Spec, domain: str, week: IsoWeek, out_dir: Path, now: datetime
) -> ReportPaths:
    """Write `DOMAIN-WEEK.html`, `.json` and `.csv` into `out_dir`; keep the figures in the store.

    Raises:
        RolloutError: unknown domain, a week that has not begun, a folder that cannot be written.
        StoreUnreachable: the database does not answer.
    """
    domain_spec = domain_of(spec, domain)
    week.require_begun(now)
    with store.read() as session:
        figures = weekly_figures(session, spec, domain, week)
    paths = ReportPaths(*(out_dir / f"{domain}-{week}.{kind}" for kind in ("html", "json", "csv")))
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
        paths.html.write_text(render_html(figures, domain_spec, spec.cost, week, now), "utf-8")
        paths.json.write_text(json.dumps(figures.as_json(), indent=2, ensure_ascii=False), "utf-8")
        paths.csv.write_text(render_csv(figures), "utf-8")
    except OSError as error:
        raise RolloutError(f"cannot write the report into {out_dir}: {error}") from error
    with store.write() as session:
        session.add(
            Report(domain=domain, week=str(week), created_at=now, figures=figures.as_json())
        )
    return paths


def render_html(
    figures: WeeklyFigures, domain_spec: DomainSpec, cost: CostSpec, week: IsoWeek, now: datetime
) -> str:
    """The report as one self-contained page: no script, no address outside itself."""
    template = environment().get_template("weekly.html.j2")
    return template.render(
        figures=figures,
        style=Markup(STYLE),
        charts=period_charts(figures.period, domain_spec.stages, figures.zone),
        weights=domain_spec.stages,
        latency=latency_words,
        written_at=now,
        first_day=f"{week.monday:%d %B}",
        last_day=f"{week.monday + timedelta(days=6):%d %B %Y}",
        measured=cost.mean_layer_ms == "measured",
        accelerator_hour=cost.accelerator_hour,
    )


def period_charts(
    period: Period, weights: tuple[float, ...], zone: str = "UTC"
) -> dict[str, Markup]:
    """The four charts of a period: traffic, agreement, saving, depth; times in `zone`."""
    marks = [
        charts.Mark(
            decision.at,
            percent(weights[decision.stage_after])
            if decision.stage_after < len(weights)
            else f"stage {decision.stage_after}",
            decision.widened,
        )
        for decision in period.decisions
        if decision.changed_stage and decision.stage_after is not None
    ]
    return {
        "traffic": charts.traffic_chart(
            period.series, marks, "Share of traffic served early", zone
        ),
        "agreement": charts.agreement_chart(
            period.series, period.target, period.floor, marks, "Policy agreement over time", zone
        ),
        "saving": charts.saving_chart(period.series, "Net saving over time", zone),
        "depth": charts.depth_chart(period.exit_depths, "Where requests were answered"),
    }


def latency_words(latency: Latency | None) -> str:
    """Median and 95th percentile."""
    if latency is None:
        return "no requests"
    return f"{number(latency.median_ms, 1)} ms (19 of 20 within {number(latency.p95_ms, 1)} ms)"


def render_csv(figures: WeeklyFigures) -> str:
    """One figure per row, this week and last; an empty cell is unknown. Rates in [0, 1]."""
    this, last = csv_figures(figures.period.summary), csv_figures(figures.last_week)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["domain", "week", "figure", "value", "last_week"])
    for name, value in this.items():
        writer.writerow([figures.period.domain, figures.week, name, value, last[name]])
    return out.getvalue()


def csv_figures(summary: Summary) -> dict[str, float | str | None]:
    """A summary as flat figures, by name."""
    savings = summary.savings
    flat: dict[str, float | str | None] = {
        "requests": summary.requests,
        "requests_early": summary.early,
        "requests_control": summary.control,
        "early_share": summary.early_share,
        "exited": summary.exited,
        "incidents": summary.incidents,
        "currency": savings.currency,
        "net_share": savings.layers.net_share,
    }
    for unit, account in (("layers", savings.layers), ("money", savings.money)):
        for kind in ("full", "gross", "probe", "shadow", "replay", "net"):
            flat[f"{kind}_{unit}"] = getattr(account, kind)
    agreement = summary.agreement
    for name, estimate in (
        ("agreement", agreement.early),
        ("exit_agreement", agreement.exits),
        ("policy_agreement", agreement.policy),
    ):
        flat |= {f"{name}{suffix}": value for suffix, value in _estimate(estimate).items()}
    for arm, latency in (("early", summary.early_latency), ("control", summary.control_latency)):
        flat[f"{arm}_median_ms"] = latency.median_ms if latency else None
        flat[f"{arm}_p95_ms"] = latency.p95_ms if latency else None
    return flat


def _estimate(estimate: Estimate | None) -> dict[str, float | None]:
    return {
        "": estimate.value if estimate else None,
        "_lower": estimate.lower if estimate else None,
        "_upper": estimate.upper if estimate else None,
        "_compared": estimate.compared if estimate else 0,
        "_mismatches": estimate.mismatches if estimate else 0,
    }
