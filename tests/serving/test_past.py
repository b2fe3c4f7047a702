"""Past requests are read with their labels and domains, or refused with the row."""

from __future__ import annotations

from pathlib import Path

import pytest

from rollout.serving.past import PastRequest, read_past, read_texts
from rollout.values import RolloutError


def written(folder: Path, name: str, content: str) -> Path:
    path = folder / name
    path.write_text(content, encoding="utf-8")
    return path


def test_labels_and_domains_are_read_where_the_file_has_them(tmp_path: Path) -> None:
    rows = [PastRequest(1, "refund, please", "refund", "billing"), PastRequest(3, "hello")]
    table = 'id,text,label,domain\n1,"refund, please",refund,billing\n2,  ,refund,\n3,hello,,\n'
    assert read_past(written(tmp_path, "past.csv", table)) == rows
    lines = (
        '{"text": "refund, please", "label": "refund", "domain": "billing"}\n'
        '{"text": " "}\n\n{"text": "hello", "label": null}\n'
    )
    assert read_past(written(tmp_path, "past.jsonl", lines)) == rows


def test_a_byte_order_mark_does_not_hide_the_first_column(tmp_path: Path) -> None:
    assert read_texts(written(tmp_path, "past.csv", "\ufefftext\nhello\n")) == ["hello"]


def test_a_line_separator_within_a_json_text_is_part_of_it(tmp_path: Path) -> None:
    path = written(tmp_path, "past.jsonl", '{"text": "one\u2028two"}\n')
    assert read_texts(path) == ["one\u2028two"]


def test_lines_keep_their_numbers_past_blank_ones(tmp_path: Path) -> None:
    path = written(tmp_path, "past.txt", "hello\n\nagain\n")
    assert [(one.row, one.text) for one in read_past(path)] == [(1, "hello"), (3, "again")]


def test_numbers_may_name_labels(tmp_path: Path) -> None:
    path = written(tmp_path, "past.jsonl", '{"text": "good", "label": 1}\n')
    assert read_past(path)[0].label == "1"


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        ("a.csv", "body,label\nhello,x\n", "row 1 has body, label"),
        ("a.jsonl", '{"text": "x"}\n["hello"]\n', "row 2 has no columns"),
        ("a.jsonl", '{"text": 5}\n', "row 1: `text` is 5, not a text"),
        ("a.csv", "text\n", "there is no text in it"),
        ("a.jsonl", "{", "cannot be read"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_with_the_row(
    tmp_path: Path, name: str, content: str, error: str
) -> None:
    with pytest.raises(RolloutError, match=error):
        read_past(written(tmp_path, name, content))
