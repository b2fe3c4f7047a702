"""An analysis as files: a page, its JSON, and two tables for a spreadsheet."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from markupsafe import Markup

from rollout.reporting import analysis_charts as charts
from rollout.reporting.page import STYLE, environment
from rollout.reporting.wording import percent
from rollout.stats.analysis import DomainAnalysis
from rollout.stats.forecast import Estimate
from rollout.stats.layers import dispensable
from rollout.values import RolloutError

DISPENSABLE = 0.98
"""A layer is one to do without where this share of the answers stays when it is left out."""


@dataclass(frozen=True)
class About:
    """Where an analysis comes from."""

    source: str
    model: str
    revision: str
    seed: int
    written_at: datetime


def write_analysis(folder: Path, analyses: Sequence[DomainAnalysis], about: About) -> list[Path]:
    """Write analysis.html, analysis.json, forecast.csv and layers.csv.

    Raises:
        RolloutError: the folder cannot be written.
    """
    contents = {
        "analysis.html": analysis_page(analyses, about),
        "analysis.json": json.dumps(analysis_json(analyses, about), indent=2, ensure_ascii=False),
        "forecast.csv": _csv(forecast_rows(analyses)),
        "layers.csv": _csv(layer_rows(analyses)),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            (folder / name).write_text(content, encoding="utf-8")
    except OSError as error:
        raise RolloutError(f"cannot write {error.filename}: {error.strerror}") from error
    return [folder / name for name in contents]


def analysis_json(analyses: Sequence[DomainAnalysis], about: About) -> dict[str, Any]:
    source = asdict(about) | {"written_at": about.written_at.isoformat()}
    return {"about": source, "domains": [asdict(one) for one in analyses]}


def analysis_page(analyses: Sequence[DomainAnalysis], about: About) -> str:
    """The page, whole in itself: no script, nothing fetched."""
    compared = len(analyses) > 1
    drawn = {
        "savings": charts.savings_chart(analyses, "Net saving by domain") if compared else None,
        "map": charts.importance_map(analyses, "Layers left out, by domain") if compared else None,
        "curves": {
            f"{place}{one.domain}": charts.curves_chart(
                shot, f"{one.domain}, {shot.shots}-shot: agreement by layer"
            )
            for one in analyses
            for place, shot in enumerate(one.shots)
        },
        "depth": {
            one.domain: charts.depth_chart(one.shots[0], f"{one.domain}: depth needed")
            for one in analyses
        },
        "importance": {
            one.domain: charts.importance_chart(one, f"{one.domain}: layers left out")
            for one in analyses
        },
        "forecasts": {
            one.domain: charts.forecast_chart(one, f"{one.domain}: net saving by prompt")
            for one in analyses
        },
    }
    return (
        environment()
        .get_template("analysis.html.j2")
        .render(
            analyses=analyses,
            about=about,
            charts=drawn,
            style=Markup(STYLE),
            verdicts=[verdict(one) for one in analyses],
            without=[without_sentence(one) for one in analyses],
        )
    )


def verdict(one: DomainAnalysis) -> str:
    """What to expect, in one sentence, for the first prompt and the middle target."""
    shot = one.shots[0]
    found = shot.forecasts[1]
    if found.threshold is None:
        return (
            f"At {percent(found.target, 0)} agreement nothing can be saved: full depth is right "
            "for this domain."
        )
    reached = found.agreement
    judged = f"agreement when judged was {percent(reached.value)}"
    if reached.upper < found.target:
        judged += ", short of the target"
    return (
        f"At {percent(found.target, 0)} agreement about {percent(found.saving.value, 0)} of the "
        f"layers would be saved, net of probes ({percent(found.saving.lower, 0)} to "
        f"{percent(found.saving.upper, 0)}); {judged}. Half of the answers are settled at layer "
        f"{shot.calibrated.needed(0.5)} of {one.depth}."
    )


def without_sentence(one: DomainAnalysis) -> str:
    """Which layers the domain can do without, each alone."""
    layers = dispensable(one.importance, DISPENSABLE)
    few = percent(1 - DISPENSABLE, 0)
    if not layers:
        return f"No layer can be left out without changing more than {few} of the answers."
    names = ", ".join(map(str, layers))
    return (
        f"Left out alone, {'layer' if len(layers) == 1 else 'each of layers'} {names} changes at "
        f"most {few} of the answers."
    )


def forecast_rows(analyses: Sequence[DomainAnalysis]) -> list[dict[str, Any]]:
    """One row per domain, prompt and target."""
    return [
        {
            "domain": one.domain,
            "shots": shot.shots,
            "target": each.target,
            "rows": shot.rows,
            **_columns("net_saving", each.saving),
            **_columns("agreement", each.agreement),
            "exit_share": each.exit_share,
            "mean_layers": each.mean_layers,
            "depth": one.depth,
            "threshold": each.threshold,
            "certified_saving": each.certified_saving,
            "oracle_saving": shot.calibrated.oracle_saving,
            **_columns("full_accuracy", shot.full_accuracy),
            "no_label_share": shot.no_label_share,
            "probe_cost": shot.probe_cost,
            "prompt_tokens": shot.prompt_tokens,
        }
        for one in analyses
        for shot in one.shots
        for each in shot.forecasts
    ]


def layer_rows(analyses: Sequence[DomainAnalysis]) -> list[dict[str, Any]]:
    """One row per domain, prompt, kind of answer and layer; `left out` is the layer left out."""
    rows: list[dict[str, Any]] = []
    for one in analyses:
        for shot in one.shots:
            for name, curve in (("lens", shot.lens), ("calibrated", shot.calibrated)):
                for place, layer in enumerate(curve.layers):
                    accuracy = None if curve.accuracy is None else curve.accuracy[place]
                    rows.append(
                        {
                            "domain": one.domain,
                            "shots": shot.shots,
                            "answer": name,
                            "layer": layer,
                            **_columns("agreement", curve.agreement[place]),
                            **_columns("accuracy", accuracy),
                            "settled": curve.settled[place],
                            "divergence": None,
                        }
                    )
        for each in one.importance:
            rows.append(
                {
                    "domain": one.domain,
                    "shots": 0,
                    "answer": "left out",
                    "layer": each.layer,
                    **_columns("agreement", each.agreement),
                    **_columns("accuracy", None),
                    "settled": None,
                    "divergence": each.divergence,
                }
            )
    return rows


def _columns(name: str, estimate: Estimate | None) -> dict[str, float | None]:
    if estimate is None:
        return {name: None, f"{name}_lower": None, f"{name}_upper": None}
    return {
        name: estimate.value,
        f"{name}_lower": estimate.lower,
        f"{name}_upper": estimate.upper,
    }


def _csv(rows: Iterable[Mapping[str, Any]]) -> str:
    listed = list(rows)
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(listed[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(listed)
    return buffer.getvalue()
