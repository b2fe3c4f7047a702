"""Few-shot prompts: a template with solved examples in front, chosen by seed and by label."""

from __future__ import annotations

import jinja2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rollout.engine.few_shot import PastRow, choose_examples, encode_row, few_shot_template
from rollout.engine.full_depth import full_depth_answer
from rollout.engine.loading import LoadedModel
from rollout.engine.segments import Segments
from rollout.engine.task import ChoiceTask, compile_task
from rollout.values import RolloutError
from tests.models import LABELS, TEMPLATE


def rendered(template: str, text: str) -> str:
    return jinja2.Environment().from_string(template).render(text=text)


@settings(max_examples=40)
@given(st.text(), st.text(min_size=1), st.text())
def test_examples_stand_in_the_template_s_own_form_word_for_word(
    example: str, label: str, question: str
) -> None:
    template = few_shot_template("mail : {{ text }}\nintent :", [(example, label)])
    expected = f"mail : {example}\nintent : {label}\n\nmail : {question}\nintent :"
    assert rendered(template, question) == expected


def test_an_example_cannot_break_out_of_its_place() -> None:
    hostile = '"}} {% endwith %} {{ 7 * 7 }} \\" {# \\'
    template = few_shot_template("{{ text | upper }} ->", [(hostile, "x"), ("two", "y")])
    assert rendered(template, "q") == f"{hostile.upper()} -> x\n\nTWO -> y\n\nQ ->"


def test_without_examples_the_template_is_as_it_was() -> None:
    assert few_shot_template(TEMPLATE, []) == TEMPLATE


def test_a_few_shot_template_compiles_with_the_same_label_tokens(loaded: LoadedModel) -> None:
    template = few_shot_template(TEMPLATE, [("refund please", "refund")])
    few = compile_task(loaded, LABELS, template)
    plain = compile_task(loaded, LABELS, TEMPLATE)
    assert few.label_tokens == plain.label_tokens
    # What follows the solved example is the plain prompt.
    question = plain.encode("my invoice")[0]
    assert few.encode("my invoice")[0][-len(question) :] == question


def asked(texts: list[str], labels: list[int | None]) -> list[PastRow]:
    return [
        PastRow(row, text, label)
        for row, (text, label) in enumerate(zip(texts, labels, strict=True), start=1)
    ]


def test_examples_have_different_labels_and_leave_the_requests(
    segments: Segments, task: ChoiceTask
) -> None:
    texts = [f"refund {number}" for number in range(20)]
    requests = asked(texts, [0] * 10 + [2] * 5 + [3] * 5)
    examples, rest = choose_examples(segments, task, requests, 3)
    assert {label for _, label in examples} == {"refund", "payment", "cancel"}
    assert len(rest) == 17
    assert not {text for text, _ in examples} & {request.text for request in rest}


def test_with_fewer_labels_than_examples_a_label_comes_twice(
    segments: Segments, task: ChoiceTask
) -> None:
    examples, _ = choose_examples(segments, task, asked(["a b", "c d", "e f"], [1, 1, 0]), 3)
    assert [label for _, label in examples] == ["invoice", "refund", "invoice"]


def test_another_row_with_an_example_s_text_goes_with_it(
    segments: Segments, task: ChoiceTask
) -> None:
    requests = asked(["same", "other one", "same"], [0, 1, 0])
    assert [one.row for one in choose_examples(segments, task, requests, 1)[1]] == [2]


def test_without_labels_the_full_model_solves_the_examples(
    segments: Segments, task: ChoiceTask, texts: list[str]
) -> None:
    examples, _ = choose_examples(segments, task, asked(texts, [None] * len(texts)), 2)
    for text, label in examples:
        assert LABELS[full_depth_answer(task, task.encode(text))] == label


def test_a_request_that_is_too_long_is_named_by_its_row(task: ChoiceTask) -> None:
    with pytest.raises(RolloutError, match="row 17: the prompt has"):
        encode_row(task, PastRow(17, "refund " * 100, None))
