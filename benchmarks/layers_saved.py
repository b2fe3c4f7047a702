"""Layers saved at 99 % agreement with the full model, on rows that calibration never saw.

Per set of ../shared/data with the reference model: heads, exit layers and criterion come from rows
of the training split, without labels. The threshold must be certified on rows like those it will
serve, and the model was trained on the training split: so the held-out rows take turns. Each fifth
is judged under a threshold certified on the other four fifths alone (disagreement at most 1 %, with
95 % confidence). Probes count as the layers they cost, as measured in the run. A set without a
certified threshold that saves anything stays at full depth and counts with 0.

How much of it is the engine's: `peer_saved` is what the same procedure saves on the same rows with
the logit lens and the learned judge of AdaInfer (Fan et al. 2024) in place of the engine's heads.
How much is the model's: a twin of half its depth is as accurate on these sets (reference_model), so
they need few layers; on `cups`, which needs them, little is saved. Published figures are of large
models that were not trained on their sets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np
import torch

from benchmarks.form import Measured
from benchmarks.reference import load_reference
from benchmarks.reference.sets import (
    BUSINESS_SETS,
    HARD_SETS,
    SENTIMENT_SETS,
    SETS,
    Row,
    TextSet,
    read_set,
)
from rollout.engine.calibration import AUTO, Calibration, calibrate
from rollout.engine.segments import Segments
from rollout.engine.task import compile_task
from rollout.stats.intervals import clopper_pearson
from rollout.stats.thresholds import choose_threshold
from rollout.stats.traces import trace_arrays
from rollout.values import DepthTrace, ExitPolicy, replay

TARGET = 0.99
ALPHA = 0.05
TURNS = 5
SENTIMENT_BAR, MEAN_BAR = 0.55, 0.40
PEER = {"head": "logit_lens", "criterion": "learned"}
MOST_ROWS, QUICK_ROWS = 2500, 375
"""Held-out rows of a set, and as many of its training split."""
QUICK_SETS = tuple(name for name in BUSINESS_SETS if name not in ("clinc150", "agnews"))


@dataclass(frozen=True)
class Judged:
    """One held-out row under the policy of its turn."""

    row: Row
    full_answer: int
    answer: int
    depth: int
    layers: float
    """Layers run and probes asked, in layers."""
    exited: bool


def measure(quick: bool) -> Measured:
    torch.set_num_threads(2)
    loaded = load_reference()
    segments = Segments(loaded)
    sets = QUICK_SETS if quick else SETS
    most = QUICK_ROWS if quick else MOST_ROWS
    results = {name: _save(segments, read_set(name), most) for name in sets}
    table = [row for row, _ in results.values()]
    if not quick:
        for row in table:
            peer, _ = _save(segments, read_set(row["set"]), most, **PEER)
            row["peer_saved"], row["peer_agreement"] = peer["layers_saved"], peer["agreement"]
    mean = _mean_of(table, "layers_saved", BUSINESS_SETS)
    sentiment = _mean_of(table, "layers_saved", SENTIMENT_SETS)
    early = [one for name in sets if name in BUSINESS_SETS for one in results[name][1]]
    wrong = sum(one.answer != one.full_answer for one in early)
    lower, upper = clopper_pearson(len(early) - wrong, len(early), ALPHA)
    promised = all(row["within_bound"] for row in table) and 1 - wrong / len(early) >= TARGET
    return Measured(
        name="layers_saved",
        value=mean,
        unit="share of layers saved net of probes, mean over the sets of ../shared/data",
        bar=f">= {MEAN_BAR:.2f}, sentiment >= {SENTIMENT_BAR:.2f}, agreement within its bound",
        holds=mean >= MEAN_BAR and sentiment >= SENTIMENT_BAR and promised,
        details={
            "sentiment": sentiment,
            "agreement over all rows": round(1 - wrong / len(early), 5),
            "its interval": [round(lower, 5), round(upper, 5)],
            "agreement within its bound": promised,
            "target": TARGET,
            "alpha": ALPHA,
            "layers": loaded.depth,
            "peer": None if quick else _mean_of(table, "peer_saved", BUSINESS_SETS),
            "peer, sentiment": None if quick else _mean_of(table, "peer_saved", SENTIMENT_SETS),
            "rows": "a sample of six sets"
            if quick
            else f"held-out rows, at most {MOST_ROWS} a set",
            "sets": table,
            "not in the mean": ", ".join(HARD_SETS),
        },
    )


def _mean_of(table: list[dict[str, Any]], column: str, sets: Sequence[str]) -> float:
    return round(float(np.mean([row[column] for row in table if row["set"] in sets])), 4)


def _save(
    segments: Segments, text_set: TextSet, most: int, head: str = AUTO, criterion: str = AUTO
) -> tuple[dict[str, Any], list[Judged]]:
    shuffled = Random(0)
    rows = shuffled.sample(text_set.held_out, min(most, len(text_set.held_out)))
    fitting = shuffled.sample(text_set.train, min(len(rows), len(text_set.train)))
    task = compile_task(segments.loaded, text_set.labels, text_set.template)
    texts = [row.text for row in (*fitting, *rows)]
    fitted = calibrate(segments, task, texts, target=TARGET, head=head, criterion=criterion)
    # What is certified is at least half of the texts: all of these rows, and they come last.
    traces = fitted.held_out[-len(rows) :]
    judged: list[Judged] = []
    thresholds: list[float | None] = []
    reasons: set[str] = set()
    for turn in range(TURNS):
        served = list(range(turn, len(rows), TURNS))
        others = [traces[place] for place in range(len(rows)) if place % TURNS != turn]
        policy, reason = certified(fitted, others, segments.loaded.revision)
        thresholds.append(policy.thresholds[0] if policy else None)
        reasons |= {reason} if reason else set()
        judged += [judge(rows[place], traces[place], policy) for place in served]
    return summary(text_set, fitted, judged, thresholds, reasons), judged


def certified(
    fitted: Calibration, certifying: Sequence[DepthTrace], model_revision: str
) -> tuple[ExitPolicy | None, str]:
    """The policy that the certifying rows allow, or in words why there is none.

    Thresholds are proposed by rows that certify nothing.
    """
    needed = int(np.ceil(np.log(ALPHA) / np.log(TARGET)))
    if len(certifying) < needed:
        return None, f"{len(certifying)} rows cannot certify {TARGET:.0%} ({needed} could)"
    traces = [*fitted.proposing, *certifying]
    depth, layers = traces[0].depth, tuple(point.layer for point in traces[0].exits)
    proposing = np.arange(len(traces)) < len(fitted.proposing)
    choice = choose_threshold(
        *trace_arrays(traces, frozenset()),
        layers,
        depth,
        fitted.costs.probe_cost,
        1 - TARGET,
        ALPHA,
        candidates=40,
        choose_on=proposing,
    )
    if choice is None or choice.net_saving <= 0:
        return None, "no certified threshold saves anything"
    return (
        ExitPolicy(
            "",
            1,
            layers,
            (choice.threshold,) * len(layers),
            "",
            fitted.heads.criterion,
            model_revision,
            depth,
            probe_cost=fitted.costs.probe_cost,
        ),
        "",
    )


def judge(row: Row, trace: DepthTrace, policy: ExitPolicy | None) -> Judged:
    if policy is None:
        return Judged(row, trace.full_answer, trace.full_answer, trace.depth, trace.depth, False)
    served = replay(trace, policy)
    layers = served.layers_run + policy.probe_cost * served.probes
    early = served.exit_layer is not None
    return Judged(row, trace.full_answer, served.answer, trace.depth, layers, early)


def summary(
    text_set: TextSet,
    fitted: Calibration,
    judged: list[Judged],
    thresholds: list[float | None],
    reasons: set[str],
) -> dict[str, Any]:
    depth = judged[0].depth
    wrong = sum(one.answer != one.full_answer for one in judged)
    lower, upper = clopper_pearson(len(judged) - wrong, len(judged), ALPHA)
    truth = [text_set.labels.index(one.row.label) for one in judged]
    known = [threshold for threshold in thresholds if threshold is not None]
    return {
        "set": text_set.name,
        "rows": len(judged),
        "layers_saved": round(1 - float(np.mean([one.layers for one in judged])) / depth, 4),
        "exit_share": round(float(np.mean([one.exited for one in judged])), 4),
        "agreement": round(1 - wrong / len(judged), 5),
        "lower": round(lower, 5),
        "upper": round(upper, 5),
        # Refuted only where the whole interval lies below the promise.
        "within_bound": upper >= TARGET,
        "early_accuracy": _share([one.answer for one in judged], truth),
        "full_accuracy": _share([one.full_answer for one in judged], truth),
        "exit_layers": " ".join(str(layer) for layer in fitted.heads.layers),
        "head": fitted.heads.kind,
        "criterion": fitted.heads.criterion,
        "probe_cost": round(fitted.costs.probe_cost, 4),
        "threshold": round(float(np.median(known)), 4) if known else None,
        "note": "; ".join(sorted(reasons)),
    }


def _share(answers: list[int], truth: list[int]) -> float:
    return round(float(np.mean(np.array(answers) == np.array(truth))), 4)
