"""The report's files: safe to open, complete, kept in the store."""

from __future__ import annotations

import csv
import json
import re
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import select

from rollout.reporting.week import IsoWeek
from rollout.reporting.weekly import write_report
from rollout.store.models import Report
from rollout.store.session import Store
from rollout.values import RolloutError

from .seed import HOSTILE, MONDAY, add, decide, early, make_spec, outcome, prepare, seed_week

WEEK = IsoWeek.parse("2026-W47")
NOW = MONDAY + timedelta(days=8)


def html_of(store: Store, folder: Path, week: IsoWeek = WEEK) -> str:
    paths = write_report(store, make_spec(), "billing", week, folder, NOW)
    return re.sub(r"[ \n]+", " ", paths.html.read_text("utf-8"))


def test_the_first_page_has_the_recommendation_and_three_numbers(
    store: Store, tmp_path: Path
) -> None:
    seed_week(store, make_spec())
    first_page = html_of(store, tmp_path).split("<section")[0]
    assert "<strong>Hold:</strong>" in first_page
    assert "19 mismatches in the last 143 comparisons" in first_page
    assert first_page.count('class="figure') == 3
    assert first_page.count("last week") == 3
    assert first_page.count("<svg") == 2


def test_the_report_needs_nothing_outside_itself(store: Store, tmp_path: Path) -> None:
    seed_week(store, make_spec())
    page = html_of(store, tmp_path)
    assert not re.search(r"<script|<link|<img|<iframe|@import|url\((?!#)", page)
    assert not re.search(r"(src|href)=\"(?!#)", page)
    assert "@page" in page


def test_customers_words_are_escaped_wherever_they_stand(store: Store, tmp_path: Path) -> None:
    prepare(store, make_spec(), MONDAY)
    row = early(
        "<b>id</b>",
        MONDAY,
        2,
        shadow=True,
        agreement=0.0,
        answer="<i>early</i>",
        full_answer="<i>full</i>",
        text=HOSTILE,
    )
    add(store, [row])
    decide(store, MONDAY, "hold", 0, 0, "<u>reason</u>", actor="<s>actor</s>")
    page = html_of(store, tmp_path)
    assert not re.search(r"<(b|i|u|s|img)>|<script", page)
    assert "&lt;script&gt;" in page and "&lt;u&gt;reason" in page


def test_a_week_without_requests_is_a_report_that_says_so(store: Store, tmp_path: Path) -> None:
    prepare(store, make_spec(), MONDAY)
    page = html_of(store, tmp_path)
    assert "there were no requests" in page
    assert "no comparisons yet" in page
    assert "nan" not in page.lower().replace("tenant", "")


def test_unknown_agreement_is_words_in_html_and_empty_in_csv(store: Store, tmp_path: Path) -> None:
    prepare(store, make_spec(), MONDAY)
    add(store, [early(str(index), MONDAY, 2) for index in range(9)])
    paths = write_report(store, make_spec(), "billing", WEEK, tmp_path, NOW)
    rows = {row["figure"]: row for row in csv.DictReader(paths.csv.read_text("utf-8").splitlines())}
    assert "no comparisons yet" in re.sub(r"\s+", " ", paths.html.read_text("utf-8"))
    assert rows["agreement"]["value"] == ""
    assert rows["agreement_compared"]["value"] == "0"


def test_csv_json_and_store_have_the_same_figures(store: Store, tmp_path: Path) -> None:
    seed_week(store, make_spec())
    paths = write_report(store, make_spec(), "billing", WEEK, tmp_path, NOW)
    rows = {row["figure"]: row for row in csv.DictReader(paths.csv.read_text("utf-8").splitlines())}
    plain = json.loads(paths.json.read_text("utf-8"))
    with store.read() as session:
        kept = session.scalars(select(Report)).one()
    assert kept.figures == plain
    assert (kept.domain, kept.week, kept.created_at) == ("billing", "2026-W47", NOW)
    account = plain["period"]["summary"]["savings"]["money"]
    assert float(rows["gross_money"]["value"]) == account["gross"]
    net = account["gross"] - account["probe"] - account["shadow"] - account["replay"]
    assert float(rows["net_money"]["value"]) == pytest.approx(net)
    assert rows["requests"]["value"] == str(plain["period"]["summary"]["requests"])


def test_times_are_told_in_the_weeks_zone(store: Store, tmp_path: Path) -> None:
    prepare(store, make_spec(), MONDAY)
    add(store, [outcome("a", MONDAY)])
    decide(store, MONDAY + timedelta(hours=1), "hold", 0, 0, "too little evidence")
    page = html_of(store, tmp_path, IsoWeek.parse("2026-W47", "Asia/Tokyo"))
    assert "Mon 16 Nov, 10:00" in page
    assert "(Asia/Tokyo)" in page


def test_next_weeks_report_is_refused(store: Store, tmp_path: Path) -> None:
    with pytest.raises(RolloutError, match="nothing has happened"):
        html_of(store, tmp_path, IsoWeek.parse("2026-W49"))
    assert list(tmp_path.glob("*.html")) == []


def test_a_folder_that_cannot_be_written_is_a_clear_error(
    sqlite_store: Store, tmp_path: Path
) -> None:
    prepare(sqlite_store, make_spec(), MONDAY)
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(RolloutError, match="cannot write the report"):
        html_of(sqlite_store, tmp_path / "taken")
