"""Heads from few texts are honest: what chooses never certifies, and confidence is calibrated."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from rollout.engine.calibration import Calibration, calibrate, certifying_rows, trace
from rollout.engine.certify import CalibrationReport, certify, propose_threshold
from rollout.engine.collect import collect
from rollout.engine.criteria import CRITERIA
from rollout.engine.distil import fit_label_head
from rollout.engine.heads import HEAD_KINDS, head_scores
from rollout.engine.reliability import reliability_of
from rollout.engine.segments import Segments
from rollout.engine.task import ChoiceTask
from rollout.values import DepthTrace, ExitPoint
from tests.models import random_texts

NOBODY: frozenset[int] = frozenset()


@pytest.fixture(scope="module")
def few(segments: Segments, task: ChoiceTask, texts: list[str]) -> Calibration:
    return calibrate(segments, task, texts[:32], target=0.98)


def test_so_few_texts_that_nothing_can_be_certified_are_all_fitted_on(few: Calibration) -> None:
    assert (len(few.proposing), len(few.held_out)) == (32, 0)
    assert certify(few, 0.02, NOBODY) is None
    report = CalibrationReport.of(few)
    assert (report.judged_on, report.rows) == ("left-out", 32)


def test_a_proposed_threshold_keeps_to_half_of_the_tolerated_risk(few: Calibration) -> None:
    proposed = propose_threshold(few, 0.3, NOBODY)
    assert proposed is not None and proposed.net_saving > 0 and proposed.risk <= 0.15
    assert propose_threshold(few, 0.3, frozenset(range(4))) is None


def test_texts_are_set_aside_as_the_exact_test_needs_them() -> None:
    for count in (16, 48, 197, 400, 5000):
        rows = certifying_rows(count, 0.98)
        assert rows == 0 or (0.98**rows <= 0.05 and count - rows >= 48)
    assert certifying_rows(197, 0.98) == 149 and certifying_rows(196, 0.98) == 0


def test_a_leave_one_out_score_is_that_of_a_head_that_never_saw_the_row(
    segments: Segments, task: ChoiceTask, texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rollout.engine.distil.RIDGES", [1e-2])
    prompts = [task.encode(text) for text in texts[:24]]
    collected = collect(segments, task, prompts, [3])
    # Without the prior, whose one factor is fitted on all rows.
    bare = dataclasses.replace(task, label_weight=torch.zeros_like(task.label_weight))
    seen, scores = collected.text[3], collected.scores
    fitted = fit_label_head(bare, seen, scores)
    for row in (0, 11):
        others = [place for place in range(24) if place != row]
        flat = task.loaded.norm(seen).flatten(1).double()
        target = scores.double() - scores.double().mean(-1, keepdim=True)
        mean, offset = flat[others].mean(0), target[others].mean(0)
        left = flat[others] - mean
        largest = torch.linalg.eigvalsh((flat - flat.mean(0)).T @ (flat - flat.mean(0))).max()
        gram = left.T @ left + 1e-2 * largest * torch.eye(left.shape[1])
        weight = torch.linalg.solve(gram, left.T @ (target[others] - offset))
        expected = (flat[row] - mean) @ weight + offset
        assert torch.allclose(fitted.scores[row].double(), expected, atol=1e-3)
    made = head_scores("label_head", task, fitted.weight[None], fitted.bias[None], seen[None])[0]
    assert (made.argmax(-1) == scores.argmax(-1)).float().mean() > 0.6


@pytest.mark.parametrize("kind", HEAD_KINDS)
def test_every_kind_of_head_is_fitted_and_traced(
    segments: Segments, task: ChoiceTask, texts: list[str], kind: str
) -> None:
    fitted = calibrate(
        segments, task, texts[:60], head=kind, criterion="margin", exit_layers=(2, 5)
    )
    assert (fitted.heads.kind, fitted.heads.layers) == (kind, (2, 5))
    assert len(fitted.held_out) == 30
    assert fitted.costs.probe_cost > 0


@pytest.mark.parametrize("criterion", CRITERIA)
def test_every_criterion_ends_in_confidence(
    segments: Segments, task: ChoiceTask, texts: list[str], criterion: str
) -> None:
    fitted = calibrate(
        segments, task, texts[:64], criterion=criterion, head="label_head", exit_layers=(3, 5)
    )
    curve = reliability_of(fitted.held_out)[0]
    assert fitted.heads.criterion == criterion
    assert curve.answers == 64 and curve.error < 0.35


def test_identical_texts_do_not_break_the_fit(segments: Segments, task: ChoiceTask) -> None:
    fitted = calibrate(segments, task, ["refund my invoice"] * 40, target=0.98)
    assert all(0 <= trace.exits[0].confidence <= 1 for trace in fitted.proposing)


def test_the_order_of_prompts_is_kept_in_traces(
    segments: Segments, task: ChoiceTask, few: Calibration
) -> None:
    prompts = [task.encode(text) for text in random_texts(40, seed=9)]
    forwards = trace(segments, task, prompts, few.heads)
    backwards = trace(segments, task, prompts[::-1], few.heads)
    for one, other in zip(forwards, reversed(backwards), strict=True):
        assert one.full_answer == other.full_answer
        for point, again in zip(one.exits, other.exits, strict=True):
            assert point.answer == again.answer
            assert point.confidence == pytest.approx(again.confidence, abs=1e-4)


def test_the_share_without_a_label_on_top_is_the_full_models(
    segments: Segments, task: ChoiceTask, texts: list[str]
) -> None:
    prompts = [task.encode(text) for text in texts[:12]]
    collected = collect(segments, task, prompts, [3])
    labels = {tokens[0] for tokens in task.label_tokens}
    with torch.inference_mode():
        tops = [int(task.loaded.model(torch.tensor(p)).logits[0, -1].argmax()) for p in prompts]
    assert collected.no_label == sum(top not in labels for top in tops)


def test_the_calibration_error_is_the_mean_gap_of_the_bins() -> None:
    random = np.random.default_rng(0)
    confidences = random.random(2000)
    honest = [
        DepthTrace((ExitPoint(2, int(random.random() > sure), float(sure)),), 0, 4)
        for sure in confidences
    ]
    vain = [
        DepthTrace(
            (ExitPoint(2, one.exits[0].answer, min(1.0, one.exits[0].confidence + 0.2)),), 0, 4
        )
        for one in honest
    ]
    assert reliability_of(honest)[0].error < 0.04
    assert 0.1 < reliability_of(vain)[1].error < 0.25
