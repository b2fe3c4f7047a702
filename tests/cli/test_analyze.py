"""analyze: whose requests it takes, what it writes, and what it refuses with the row."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from tests.cli.conftest import Run


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Labels and template without a rollout.yaml."""
    (tmp_path / "labels.txt").write_text("refund\ninvoice\n")
    (tmp_path / "prompt.j2").write_text("mail : {{ text }}\nintent :\n")
    (tmp_path / "past.csv").write_text("text,label\nmy money back,refund\nthe bill,invoice\n")
    return tmp_path


@pytest.fixture
def two_domains(home: Path) -> Path:
    """A rollout.yaml with `support` and `claims`."""
    spec = home / "rollout.yaml"
    text = spec.read_text()
    domain = text[text.index("  support:") :]
    spec.write_text(text + domain.replace("  support:", "  claims:"))
    return home


def past(folder: Path, *rows: str) -> str:
    path = folder / "past.csv"
    path.write_text("\n".join(["domain,text,label", *rows]) + "\n")
    return str(path)


def standing_alone(files: Path, model: Path) -> list[str]:
    return [
        str(files / "past.csv"),
        "--model",
        str(model),
        "--labels",
        str(files / "labels.txt"),
        "--template",
        str(files / "prompt.j2"),
    ]


@pytest.fixture(scope="module")
def analysed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Model, labels, template and 120 requests, every third one labelled."""
    import torch

    from tests.models import LABELS, TEMPLATE, random_texts, save_model

    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("analysed")
    save_model(folder / "model", seed=0)
    (folder / "labels.txt").write_text("\n".join(LABELS))
    (folder / "prompt.j2").write_text(TEMPLATE + "\n")
    with (folder / "past.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["text", "label"])
        for row, text in enumerate(random_texts(120)):
            table.writerow([text, LABELS[row % 4] if row % 3 == 0 else ""])
    return folder


def test_without_rollout_yaml_or_database_a_file_a_model_labels_and_a_template_will_do(
    run: Run, analysed: Path, folder: Path, tmp_path: Path
) -> None:
    arguments = [*standing_alone(analysed, analysed / "model"), "--shots", "0,1", "--limit", "70"]
    found = run("analyze", *arguments, "--out", str(tmp_path / "out"), "--json")
    assert (found.code, found.err) == (0, "")
    (one,) = found.json["domains"]
    assert (one["domain"], one["rows"], one["depth"]) == ("past", 70, 6)
    assert [shot["shots"] for shot in one["shots"]] == [0, 1]
    assert 0 < one["labelled"] < 70
    assert found.json["about"]["source"] == "past.csv"
    assert json.loads((tmp_path / "out" / "analysis.json").read_text()) == found.json
    assert "<svg" in (tmp_path / "out" / "analysis.html").read_text()
    # Nothing else is left behind.
    assert list(folder.iterdir()) == []


def test_a_domain_of_rollout_yaml_brings_its_labels_template_and_guards(
    run: Run, analysed: Path, home: Path
) -> None:
    spec = home / "rollout.yaml"
    text = spec.read_text().replace("./model", str(analysed / "model"))
    guards = "guards: {refund: never_early, invoice: never_early, payment: never_early, "
    spec.write_text(text + f"    {guards}cancel: never_early}}\n")
    (home / "labels" / "support.txt").write_text((analysed / "labels.txt").read_text())
    (home / "prompts" / "support.j2").write_text((analysed / "prompt.j2").read_text())
    found = run("analyze", str(analysed / "past.csv"), "--limit", "70")
    assert (found.code, found.err) == (0, "")
    rows = [line.split("\t") for line in found.out.splitlines()]
    assert rows[0][:4] == ["domain", "shots", "target", "net saving"]
    # Where no label may be answered early, nothing can be saved.
    assert [row[:2] + row[3:4] for row in rows[1:4]] == [["support", "0", "none"]] * 3
    assert "full depth is right for this domain" in found.out
    assert (home / "var" / "analysis" / "analysis.html").exists()


def test_the_domain_column_splits_where_rollout_yaml_has_several(
    run: Run, two_domains: Path
) -> None:
    unknown = past(two_domains, "support,hello,", "sales,hi,")
    error = run("analyze", unknown).error
    assert "row 2: domain 'sales' is not one of rollout.yaml (support, claims)" in error
    assert "row 2: domain 'blank'" in run("analyze", past(two_domains, "support,a,", ",b,")).error
    error = run("analyze", past(two_domains, "support,hello,"), "--domain", "claims").error
    assert error.endswith("no row is of domain claims; it has support")
    path = two_domains / "plain.txt"
    path.write_text("hello\n")
    assert "it has no `domain` column" in run("analyze", str(path)).error


def test_only_the_named_domain_s_rows_are_read(run: Run, two_domains: Path) -> None:
    # The claims row has a label that neither domain has: it is not looked at.
    rows = past(two_domains, "claims,hello,nonsense", "support,hi,no such label")
    error = run("analyze", rows, "--domain", "support").error
    assert "row 2: label 'no such label' is not one of the" in error


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--domain", "sales"], "--domain sales: rollout.yaml has support"),
        (["--shots", "0,4"], "--shots 4: from 0 to 3 solved examples"),
        (["--shots", "few"], "--shots 'few': write numbers, such as 0,1,2,3"),
        (["--labels", "labels.txt"], "go together: --model is missing"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    run: Run, home: Path, arguments: list[str], error: str
) -> None:
    assert error in run("analyze", past(home, ",hello,"), *arguments).error


def test_a_label_that_is_not_in_the_list_is_named_with_its_row(run: Run, files: Path) -> None:
    (files / "past.csv").write_text("text,label\nmy money,refund\nhello,greeting\n")
    error = run("analyze", *standing_alone(files, files / "model")).error
    assert "row 2: label 'greeting' is not one of the 2 labels of past (refund, invoice)" in error


def test_a_file_without_texts_labels_or_template_is_refused(run: Run, files: Path) -> None:
    arguments = standing_alone(files, files / "model")
    (files / "past.csv").write_text("body\nhello\n")
    assert "name the column or key `text`" in run("analyze", *arguments).error
    (files / "past.csv").write_text("text\nhello\n")
    assert "no config.json there" in run("analyze", *arguments).error
    (files / "prompt.j2").unlink()
    assert "--template" in run("analyze", *arguments).error


def test_too_few_rows_and_too_long_ones_are_refused(
    run: Run, analysed: Path, tmp_path: Path
) -> None:
    arguments = standing_alone(analysed, analysed / "model")[1:]
    few = tmp_path / "few.csv"
    few.write_text("text\n" + "refund my invoice\n" * 30)
    error = run("analyze", str(few), *arguments).error
    assert error.startswith("domain few: 30 requests are too few")
    few.write_text("text\n" + "refund my invoice\n" * 80 + "refund " * 100 + "\n")
    assert "row 81: the prompt has" in run("analyze", str(few), *arguments).error
