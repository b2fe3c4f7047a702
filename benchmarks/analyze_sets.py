"""What `rollout analyze` says of every set of ../shared/data, with the reference model.

The published experiment: answers at every layer compared with the last one, for prompts with 0 to 3
solved examples; every layer left out once; the net saving forecast at 95, 98 and 99 % agreement.
All rows are held out: the reference model was not trained on them. Heads and thresholds come from
60 % of them, every figure from the other 40 %. The two generated tasks are no part of the mean.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from benchmarks.form import Measured
from benchmarks.reference import load_reference
from benchmarks.reference.sets import BUSINESS_SETS, SETS, TextSet, read_set
from rollout.engine.analysis import analyse
from rollout.engine.few_shot import PastRow
from rollout.engine.segments import Segments
from rollout.reporting.analysis import DISPENSABLE
from rollout.reporting.analysis_charts import (
    curves_chart,
    depth_chart,
    importance_map,
    prompts_chart,
    savings_chart,
)
from rollout.reporting.svg import picture
from rollout.stats.analysis import DomainAnalysis, ShotAnalysis
from rollout.stats.forecast import Estimate
from rollout.stats.layers import LayerCurve, dispensable

ROWS, FEW_SHOT_ROWS, QUICK_ROWS = 400, 100, 160
"""Of each set, without examples in the prompt and with them."""
SHOTS = (1, 2, 3)
QUICK_SETS = ("sst2", "trec", "agnews")


def measure(quick: bool) -> Measured:
    torch.set_num_threads(2)
    segments = Segments(load_reference())
    names = QUICK_SETS if quick else SETS
    found = [_analyse(segments, read_set(name), quick) for name in names]
    business = [one for one in found if one.domain in BUSINESS_SETS]
    saving = float(np.mean([one.shots[0].forecasts[-1].saving.value for one in business]))
    return Measured(
        name="analyze_sets",
        value=round(saving, 4),
        unit="forecast net saving at 99 % agreement, mean over the sets of ../shared/data",
        bar="reported",
        holds=True,
        details={
            "layers of the model": found[0].depth,
            "forecasts": [_forecast(one) for one in found],
            "prompts": [_prompt(one, shot) for one in found for shot in one.shots],
            "agreement by layer": list(_curves(found)),
            "answers changed where a layer is left out": [_left_out(one) for one in found],
            "sets": "a few" if quick else "all",
            "intervals": "95 %, in brackets",
        },
        figure=_figure(found),
    )


def _analyse(segments: Segments, text_set: TextSet, quick: bool) -> DomainAnalysis:
    rows = [
        PastRow(number, row.text, text_set.labels.index(row.label))
        for number, row in enumerate(text_set.held_out, start=1)
    ]
    asked = (segments, text_set.name, text_set.labels, text_set.template, rows)
    plain = analyse(*asked, limit=QUICK_ROWS if quick else ROWS)
    if quick or text_set.name not in BUSINESS_SETS:
        return plain
    few = analyse(*asked, shots=SHOTS, limit=FEW_SHOT_ROWS)
    return replace(plain, examples=few.examples, shots=(*plain.shots, *few.shots))


def _forecast(one: DomainAnalysis) -> dict[str, Any]:
    shot = one.shots[0]
    saved: dict[str, str | None] = {}
    for each in shot.forecasts:
        none, at = each.threshold is None, f"at {each.target:.0%}"
        certified = each.certified_saving
        saved |= {
            f"saving {at}": "none" if none else _spread(each.saving),
            f"agreement {at}": "full depth" if none else _spread(each.agreement),
            f"certified {at}": None if certified is None else f"{certified:.3f}",
        }
    without = dispensable(one.importance, DISPENSABLE)
    return {
        "set": one.domain,
        "labels": one.labels,
        "rows judged": shot.rows,
        **saved,
        "settled, half": shot.calibrated.needed(0.5),
        "settled, 95%": shot.calibrated.needed(0.95),
        "limit of any exits": round(shot.calibrated.oracle_saving, 3),
        "exits": " ".join(map(str, shot.exit_layers)),
        "layers to do without, each alone": " ".join(map(str, without)) or "none",
    }


def _prompt(one: DomainAnalysis, shot: ShotAnalysis) -> dict[str, Any]:
    assert shot.full_accuracy is not None
    return {
        "set": one.domain,
        "shots": shot.shots,
        "rows judged": shot.rows,
        "left out, too long": shot.left_out,
        "tokens": round(shot.prompt_tokens),
        "accuracy": _spread(shot.full_accuracy),
        "lens settled, half": shot.lens.needed(0.5),
        "lens settled, 95%": shot.lens.needed(0.95),
        "heads settled, half": shot.calibrated.needed(0.5),
        "heads settled, 95%": shot.calibrated.needed(0.95),
        **{f"saving at {each.target:.0%}": round(each.saving.value, 3) for each in shot.forecasts},
    }


def _curves(found: Iterable[DomainAnalysis]) -> Iterable[dict[str, Any]]:
    for one in found:
        for shot in one.shots:
            kinds: tuple[tuple[str, LayerCurve], ...] = (
                ("lens", shot.lens),
                ("heads", shot.calibrated),
            )
            for kind, curve in kinds:
                points = zip(curve.layers, curve.agreement, strict=True)
                agreement = {str(layer): round(point.value, 3) for layer, point in points}
                yield {"set": one.domain, "shots": shot.shots, "answers": kind, **agreement}


def _left_out(one: DomainAnalysis) -> dict[str, Any]:
    changed = {str(each.layer): round(1 - each.agreement.value, 3) for each in one.importance}
    return {"set": one.domain, "rows": one.skipped_rows, **changed}


def _spread(estimate: Estimate) -> str:
    return f"{estimate.value:.3f} ({estimate.lower:.3f} to {estimate.upper:.3f})"


def _figure(found: list[DomainAnalysis]) -> str:
    charts = [
        ("Net saving at each target of agreement", savings_chart(found, "Net saving by set")),
        (
            "Answers that change where a layer is left out, %",
            importance_map(found, "Layers left out, by set"),
        ),
    ]
    for one in found:
        title = f"{one.domain}: agreement with the last layer, by layer, without examples"
        charts.append((title, curves_chart(one.shots[0], title)))
        if len(one.shots) > 1:
            title = f"{one.domain}: with 0 to {one.shots[-1].shots} examples, calibrated heads"
            charts.append((title, prompts_chart(one, title)))
        else:
            title = f"{one.domain}: depth needed, share of rows by layer"
            charts.append((title, depth_chart(one.shots[0], title)))
    return picture(charts, columns=2)
