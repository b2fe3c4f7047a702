"""An analysis as page, JSON and tables: the same figures in all of them, and nothing fetched."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from markupsafe import Markup

from rollout.reporting.analysis import (
    About,
    analysis_page,
    verdict,
    without_sentence,
    write_analysis,
)
from rollout.reporting.analysis_charts import importance_map, prompts_chart, savings_chart
from rollout.reporting.svg import picture
from rollout.reporting.wording import percent
from rollout.stats.analysis import DomainAnalysis, ShotAnalysis
from rollout.stats.forecast import Estimate, Forecast
from rollout.stats.layers import UNLABELLED, layer_curve, layer_importance
from rollout.values import RolloutError

ABOUT = About("past <1>.csv", "./model", "abc123" * 10, 7, datetime(2026, 11, 24, tzinfo=UTC))
NOTHING = Forecast(0.99, None, Estimate(1, 1, 1), 0.0, 4.0, Estimate(0, 0, 0), None)


def shot(shots: int, *, labelled: bool = True, left_out: int = 0) -> ShotAnalysis:
    generator = np.random.default_rng(shots)
    answers = generator.integers(0, 3, (50, 4))
    truth = answers[:, -1] if labelled else np.full(50, UNLABELLED)
    curve = layer_curve(answers, [1, 2, 3, 4], truth)
    found = Forecast(
        0.95, 0.9, Estimate(0.96, 0.86, 0.99), 0.8, 2.5, Estimate(0.41, 0.33, 0.49), 0.37
    )
    return ShotAnalysis(
        shots=shots,
        rows=50,
        left_out=left_out,
        prompt_tokens=20.0 * (shots + 1),
        full_accuracy=curve.accuracy[-1] if curve.accuracy else None,
        no_label_share=0.03,
        lens=curve,
        calibrated=curve,
        probe_cost=0.02,
        exit_layers=(1, 3),
        head="label_head",
        criterion="margin",
        forecasts=(found, replace(found, target=0.98), NOTHING),
    )


def analysis(domain: str = "billing", *shots: ShotAnalysis) -> DomainAnalysis:
    agrees = np.ones((40, 4), dtype=bool)
    agrees[:20, 0] = False
    return DomainAnalysis(
        domain=domain,
        labels=3,
        rows=125,
        labelled=125,
        depth=4,
        examples=(("<b>refund</b>", "refund"),),
        shots=shots or (shot(0), shot(1)),
        importance=layer_importance(agrees, np.where(agrees, 0.01, 2.0)),
        skipped_rows=40,
    )


class Page(HTMLParser):
    """Text, tags and addresses of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.text, self.tags, self.addresses = "", [], []  # type: ignore[var-annotated]
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        named = [value for name, value in attrs if name in ("src", "href", "xlink:href")]
        self.addresses += [value for value in named if value and not value.startswith("#")]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_is_whole_in_itself_and_takes_texts_as_texts() -> None:
    page = Page(analysis_page([analysis()], ABOUT))
    assert page.addresses == []
    assert "script" not in page.tags and "b" not in page.tags
    assert "<b>refund</b> → refund" in page.text
    assert "past <1>.csv" in page.text


def test_the_style_reaches_the_page_unescaped() -> None:
    page = analysis_page([analysis()], ABOUT)
    style = page[page.index("<style>") : page.index("</style>")]
    assert 'content: attr(data-label) " "' in style and "&" not in style


def test_the_colours_of_the_charts_are_the_page_s_own() -> None:
    drawn = re.findall(r"<svg.*?</svg>", analysis_page([analysis()], ABOUT), flags=re.S)
    # Curves of two prompts, depth, layers left out and savings, in two shapes each.
    assert len(drawn) == 2 * 5
    for chart in drawn:
        assert "var(--accent)" in chart
        assert re.findall(r"#[0-9a-f]{6}", re.sub(r'="#\w+"|url\(#\w+\)', "", chart)) == []


def test_several_domains_are_compared_and_one_is_not() -> None:
    both = [analysis(), analysis("claims")]
    assert "Layers a domain can do without" in Page(analysis_page(both, ABOUT)).text
    assert "Layers a domain can do without" not in Page(analysis_page(both[:1], ABOUT)).text


def test_without_labels_nothing_is_said_of_accuracy() -> None:
    text = Page(analysis_page([analysis("billing", shot(0, labelled=False))], ABOUT)).text
    assert "The file has no labels" in text
    assert "Accuracy" not in text and "accuracy:" not in text


def test_prompts_that_were_left_out_are_told() -> None:
    text = Page(analysis_page([analysis("billing", shot(3, left_out=12))], ABOUT)).text
    assert "(12 too long, left out)" in " ".join(text.split())
    assert percent(0.03) in text


def test_a_target_at_which_nothing_can_be_saved_says_so() -> None:
    page = Page(analysis_page([analysis()], ABOUT))
    assert "none: no threshold that reached the target saved anything" in page.text
    nothing = replace(shot(0), forecasts=(NOTHING, replace(NOTHING, target=0.98), NOTHING))
    assert "nothing can be saved: full depth is right" in verdict(analysis("billing", nothing))


def test_a_verdict_gives_the_saving_with_its_interval_and_what_was_judged() -> None:
    sentence = verdict(analysis())
    for part in (percent(0.41, 0), percent(0.33, 0), percent(0.49, 0), percent(0.96), "of 4"):
        assert part in sentence
    short = replace(shot(0).forecasts[1], agreement=Estimate(0.9, 0.85, 0.94))
    missed = replace(shot(0), forecasts=(NOTHING, short, NOTHING))
    assert "90\u202f%, short of the target" in verdict(analysis("billing", missed))


def test_layers_to_do_without_are_named_or_said_not_to_be_there() -> None:
    assert "each of layers 2, 3, 4 changes" in without_sentence(analysis())
    needed = layer_importance(np.zeros((10, 2), dtype=bool), np.ones((10, 2)))
    assert "No layer can be left out" in without_sentence(replace(analysis(), importance=needed))


def test_json_and_tables_hold_every_domain_prompt_target_and_layer(tmp_path: Path) -> None:
    paths = write_analysis(tmp_path / "new", [analysis(), analysis("claims")], ABOUT)
    assert [path.name for path in paths] == [
        "analysis.html",
        "analysis.json",
        "forecast.csv",
        "layers.csv",
    ]
    found = json.loads(paths[1].read_text())
    assert [one["domain"] for one in found["domains"]] == ["billing", "claims"]
    assert found["about"]["seed"] == 7
    with paths[2].open(newline="") as file:
        forecasts = list(csv.DictReader(file))
    assert len(forecasts) == 2 * 2 * 3
    assert (forecasts[0]["net_saving"], forecasts[0]["net_saving_lower"]) == ("0.41", "0.33")
    assert forecasts[2]["threshold"] == ""
    with paths[3].open(newline="") as file:
        layers = list(csv.DictReader(file))
    assert len(layers) == 2 * (2 * 2 * 4 + 4)
    left_out = [row for row in layers if row["answer"] == "left out"]
    assert [row["agreement"] for row in left_out[:2]] == ["0.5", "1.0"]


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RolloutError, match=r"cannot write .*file"):
        write_analysis(tmp_path / "file", [analysis()], ABOUT)


def test_a_picture_is_a_whole_file_of_charts_under_their_titles() -> None:
    both = [analysis(), analysis("claims & more")]
    charts = [
        ("Saving & more", savings_chart(both, "Saving")),
        ("Layers", importance_map(both, "Layers")),
        ("Prompts", prompts_chart(both[0], "Prompts")),
    ]
    # Refused by the parser where a prefix is unbound or a sign is not escaped.
    root = ElementTree.fromstring(picture(charts, columns=2))
    svg = "{http://www.w3.org/2000/svg}"
    assert [text.text for text in root.findall(f"{svg}text")] == [
        "Saving & more",
        "Layers",
        "Prompts",
    ]
    boxes = [
        (float(part.get("x", 0)), float(part.get("y", 0))) for part in root.findall(f"{svg}svg")
    ]
    assert boxes[0][1] == boxes[1][1] < boxes[2][1]
    assert boxes[0][0] == boxes[2][0] < boxes[1][0]
    style = root.findtext(f"{svg}style") or ""
    assert "--accent" in style and "prefers-color-scheme: dark" in style


def test_a_picture_takes_charts_alone() -> None:
    with pytest.raises(ValueError, match="Words: not a chart"):
        picture([("Words", Markup("<p>nothing</p>"))])
