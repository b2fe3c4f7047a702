"""Every criterion is the same whether exits are asked one by one or all at the end."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rollout.engine.confidence import Judge, cross_fitted, fit_judge, judged
from rollout.engine.criteria import CRITERIA, Earlier, Reading, features, judge_logits

EXITS, ROWS, LABELS, WIDTH = 4, 6, 5, 8


def random_reading(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(EXITS, ROWS, LABELS, generator=generator) * 3
    return scores, torch.randn(EXITS, ROWS, WIDTH, generator=generator)


@pytest.mark.parametrize("criterion", CRITERIA)
def test_exits_one_by_one_say_what_they_say_together(criterion: str) -> None:
    scores, hidden = random_reading(0)
    together = features(criterion, Reading.of(scores, hidden, None))
    earlier: Earlier | None = None
    for exit_ in range(EXITS):
        reading = Reading.of(scores[exit_ : exit_ + 1], hidden[exit_ : exit_ + 1], earlier)
        assert torch.allclose(features(criterion, reading)[0], together[exit_], atol=1e-6)
        earlier = reading.last()


@pytest.mark.parametrize("criterion", CRITERIA)
def test_the_past_of_rows_that_stay_goes_with_them(criterion: str) -> None:
    scores, hidden = random_reading(1)
    whole = features(criterion, Reading.of(scores, hidden, None))
    staying = torch.tensor([4, 1])
    earlier = Reading.of(scores[:2], hidden[:2], None).last().rows(staying)
    rest = Reading.of(scores[2:, staying], hidden[2:, staying], earlier)
    assert torch.allclose(features(criterion, rest), whole[2:, staying], atol=1e-6)


def test_features_are_what_their_sources_say() -> None:
    scores, hidden = random_reading(2)
    reading = Reading.of(scores, hidden, None)
    probability = scores.softmax(-1)
    top = probability.topk(2, dim=-1).values
    assert torch.allclose(reading.log_odds, torch.logit(top[..., 0]), atol=1e-4)
    assert torch.allclose(reading.margin, (top[..., 0] / top[..., 1]).log(), atol=1e-4)
    entropy = -(probability * probability.log()).sum(-1)
    assert torch.allclose(-features("entropy", reading)[..., 0], entropy, atol=1e-5)
    cosine = torch.cosine_similarity(hidden[2], hidden[1], dim=-1)
    assert torch.allclose(features("saturation", reading)[2, :, 0], -torch.log(1 - cosine))
    answers = scores.argmax(-1)
    for row in range(ROWS):
        streak = 1
        for exit_ in range(1, EXITS):
            streak = streak + 1 if answers[exit_, row] == answers[exit_ - 1, row] else 1
            assert features("patience", reading)[exit_, row, 0] == streak


@pytest.mark.parametrize("criterion", ["margin", "learned_svm"])
def test_confidence_is_near_the_share_that_agrees(criterion: str) -> None:
    random = np.random.default_rng(0)
    values = random.normal(size=(600, len(CRITERIA[criterion])))
    truth = 1 / (1 + np.exp(-3 * values[:, 0] - 1))
    agrees = random.random(600) < truth
    confidence = cross_fitted(criterion, values, agrees)
    assert np.abs(confidence - truth).mean() < 0.08
    for sure in (confidence > 0.9, confidence < 0.5):
        assert abs(confidence[sure].mean() - agrees[sure].mean()) < 0.08


@pytest.mark.parametrize("criterion", ["top_probability", "learned", "learned_svm"])
def test_an_exit_that_never_disagreed_is_not_taken_for_certain(criterion: str) -> None:
    values = np.random.default_rng(1).normal(size=(20, len(CRITERIA[criterion])))
    judge = fit_judge(criterion, values, np.ones(20, dtype=bool))
    assert 0.8 < judged(judge, values).mean() < 0.99


def test_a_kernel_judge_padded_with_nothing_says_the_same() -> None:
    random = np.random.default_rng(2)
    values = random.normal(size=(80, 4))
    judge = fit_judge("learned_svm", values, values[:, 0] ** 2 < 0.5)
    assert 0 < len(judge.support) <= 48
    longer = Judge(judge.calibration, np.vstack([judge.support, np.zeros((5, 5))]))
    assert np.allclose(judged(judge, values), judged(longer, values))
    # A curved border, which no linear judge follows.
    agrees = values[:, 0] ** 2 < 0.5
    assert judged(judge, values)[agrees].mean() > judged(judge, values)[~agrees].mean() + 0.3


def test_linear_judges_of_several_exits_are_applied_each_to_its_own() -> None:
    values = torch.randn(3, 4, 2)
    calibration = torch.randn(3, 3)
    logits = judge_logits(values, calibration, torch.empty(3, 0, 3))
    for exit_ in range(3):
        expected = values[exit_] @ calibration[exit_, :2] + calibration[exit_, 2]
        assert torch.allclose(logits[exit_], expected, atol=1e-6)
