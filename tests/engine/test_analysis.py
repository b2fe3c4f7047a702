"""An analysis judges on requests that nothing was fitted or chosen on, whatever the prompt."""

from __future__ import annotations

from typing import Any

import pytest

from rollout.engine.analysis import MIN_REQUESTS, TARGETS, analyse
from rollout.engine.few_shot import PastRow
from rollout.engine.full_depth import full_depth_answer
from rollout.engine.segments import Segments
from rollout.engine.task import ChoiceTask
from rollout.stats.analysis import DomainAnalysis
from rollout.values import RolloutError
from tests.models import LABELS, TEMPLATE, random_texts

ROWS = 200


@pytest.fixture(scope="module")
def requests(task: ChoiceTask) -> list[PastRow]:
    """Labelled with the full model's answers, every tenth row with another one."""
    rows = []
    for row, text in enumerate(random_texts(ROWS, seed=3), start=1):
        label = full_depth_answer(task, task.encode(text))
        rows.append(PastRow(row, text, (label + (row % 10 == 0)) % len(LABELS)))
    return rows


@pytest.fixture(scope="module")
def analysis(segments: Segments, requests: list[PastRow]) -> DomainAnalysis:
    return run(segments, requests, shots=(0, 1, 3))


def run(segments: Segments, requests: list[PastRow], **options: Any) -> DomainAnalysis:
    return analyse(segments, "billing", LABELS, TEMPLATE, requests, **options)


def test_every_layer_and_target_is_judged_on_the_part_kept_aside(analysis: DomainAnalysis) -> None:
    assert (analysis.domain, analysis.labels, analysis.depth) == ("billing", 4, 6)
    zero = analysis.shots[0]
    assert zero.rows == round(0.4 * analysis.rows)
    assert zero.lens.layers == (1, 2, 3, 4, 5, 6)
    assert zero.calibrated.layers == (1, 2, 3, 4, 5, 6)
    assert zero.lens.agreement[-1].value == zero.calibrated.agreement[-1].value == 1.0
    assert [one.target for one in zero.forecasts] == list(TARGETS)
    assert zero.probe_cost > 0
    # A random model's favourite among 500 tokens is hardly ever one of four labels.
    assert zero.no_label_share > 0.5
    assert [one.layer for one in analysis.importance] == [1, 2, 3, 4, 5, 6]
    assert analysis.skipped_rows == zero.rows


def test_accuracy_is_the_labels_and_agreement_the_model_s(analysis: DomainAnalysis) -> None:
    zero = analysis.shots[0]
    assert zero.full_accuracy is not None and zero.lens.accuracy is not None
    # One row in ten was given another label than the model's.
    assert zero.full_accuracy.lower < 0.9 < zero.full_accuracy.upper
    assert zero.lens.accuracy[-1] == zero.full_accuracy


def test_calibrated_heads_agree_at_least_about_as_well_as_the_lens(
    analysis: DomainAnalysis,
) -> None:
    zero = analysis.shots[0]
    lens = sum(point.value for point in zero.lens.agreement)
    calibrated = sum(point.value for point in zero.calibrated.agreement)
    assert calibrated > lens - 0.3


def test_examples_are_no_rows_and_prompts_that_no_longer_fit_are_counted(
    analysis: DomainAnalysis,
) -> None:
    assert len(analysis.examples) == 3
    assert analysis.rows == ROWS - 3
    zero, one, three = analysis.shots
    assert (zero.shots, one.shots, three.shots) == (0, 1, 3)
    assert zero.prompt_tokens < one.prompt_tokens < three.prompt_tokens
    assert zero.left_out == one.left_out == 0
    # The context of 64 tokens does not take the longest ones behind three examples.
    assert 0 < three.left_out < analysis.rows - MIN_REQUESTS
    assert three.rows == pytest.approx(0.4 * (analysis.rows - three.left_out), abs=1)


def test_a_seed_gives_the_same_rows_and_answers_and_another_seed_others(
    segments: Segments, requests: list[PastRow]
) -> None:
    one, again, other = (run(segments, requests, limit=80, seed=seed) for seed in (1, 1, 2))
    assert one.rows == 80
    assert (one.shots[0].lens, one.importance) == (again.shots[0].lens, again.importance)
    assert one.shots[0].lens != other.shots[0].lens


def test_unlabelled_requests_are_analysed_without_accuracy(
    segments: Segments, requests: list[PastRow]
) -> None:
    unlabelled = [PastRow(one.row, one.text, None) for one in requests]
    found = run(segments, unlabelled, shots=(1,), limit=80)
    assert found.labelled == 0
    assert len(found.examples) == 1
    assert found.shots[0].full_accuracy is None
    assert found.shots[0].calibrated.accuracy is None


def test_progress_is_told_stage_by_stage_to_its_end(
    segments: Segments, requests: list[PastRow]
) -> None:
    told: dict[str, tuple[int, int]] = {}

    def note(what: str, done: int, total: int) -> None:
        told[what] = (done, total)

    run(segments, requests, limit=80, progress=note)
    assert list(told) == [
        "billing, 0-shot: calibrating",
        "billing, 0-shot: judging",
        "billing: without each layer",
    ]
    assert all(done == total for done, total in told.values())


def test_too_few_requests_are_refused(segments: Segments, requests: list[PastRow]) -> None:
    with pytest.raises(RolloutError, match=f"too few .* give {MIN_REQUESTS} or more"):
        run(segments, requests[: MIN_REQUESTS - 1])
    with pytest.raises(RolloutError, match="0 requests are too few"):
        run(segments, [], shots=(1,))


def test_a_request_longer_than_the_context_is_refused_with_its_row(
    segments: Segments, requests: list[PastRow]
) -> None:
    with pytest.raises(RolloutError, match="row 900: the prompt has"):
        run(segments, [*requests, PastRow(900, "refund " * 100, None)])


def test_examples_that_leave_too_few_prompts_are_refused(segments: Segments) -> None:
    long = [text for text in random_texts(1200) if len(text.split()) >= 12]
    asked = [PastRow(row, text, 0) for row, text in enumerate(long, start=1)]
    assert len(asked) > MIN_REQUESTS
    with pytest.raises(RolloutError, match="ask for fewer --shots"):
        run(segments, asked, shots=(3,))
