"""calibrate, report, classify, dashboard, worker: refusals, and what a calibration leaves."""

from __future__ import annotations

import json
import socket
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Run


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch

    from tests.models import save_model

    # Two test processes on two cores would wait for each other's threads.
    torch.set_num_threads(1)
    return save_model(tmp_path_factory.mktemp("model"), seed=0)


@pytest.fixture
def with_model(home: Path, model: Path, run: Run) -> Path:
    """The folder with a tiny random model, its labels and a target that it can reach, applied."""
    from tests.models import LABELS, TEMPLATE, random_texts

    spec = home / "rollout.yaml"
    text = spec.read_text().replace("./model", str(model))
    spec.write_text(text.replace("target: 0.98, floor: 0.95", "target: 0.6, floor: 0.5"))
    (home / "labels" / "support.txt").write_text("\n".join(LABELS))
    (home / "prompts" / "support.j2").write_text(TEMPLATE)
    (home / "texts.txt").write_text("\n".join(random_texts(100)))
    assert run("apply").code == 0
    return home


def test_a_calibration_goes_live_shadow_only_with_its_certificate(
    run: Run, with_model: Path
) -> None:
    texts = str(with_model / "texts.txt")
    found = run("calibrate", "support", "--texts", texts, "--exit-layers", "3", "--json")
    assert found.code == 0, found.err
    assert (found.json["version"], found.json["activated"]) == (1, True)
    certificate = found.json["certificate"]
    assert certificate["certified"] and 0 <= certificate["certified_risk"] <= 0.4
    curves = certificate["report"]["reliability"]
    assert [curve["exit_layer"] for curve in curves] == [None, 3]
    assert all(0 <= curve["error"] <= 1 for curve in curves)
    assert Path(found.json["figure"]).read_text().lstrip().startswith("<?xml")
    facts = run("status", "--json").json[0]["facts"]
    assert (facts["policy_version"], facts["stage"]) == (1, 0.0)
    row = run("history", "support", "--json").json[0]
    assert row["action"] == "calibrate"
    assert row["policy_version"] == 1
    assert row["reason"].endswith("live, shadow-only")


def test_a_calibration_can_be_kept_from_going_live(run: Run, with_model: Path) -> None:
    texts = str(with_model / "texts.txt")
    found = run("calibrate", "support", "--texts", texts, "--exit-layers", "2,4", "--no-activate")
    assert (found.code, found.err) == (0, "")
    assert "at layers 2, 4;" in found.out
    assert "calibration error" in found.out
    assert "policy v1 from 100 texts" in found.out
    assert "; not live" in found.out
    assert run("status", "--json").json[0]["facts"]["policy_version"] is None


def test_texts_too_few_to_certify_make_a_policy_that_is_only_shadowed(
    run: Run, with_model: Path
) -> None:
    lines = (with_model / "texts.txt").read_text().splitlines()[:48]
    (with_model / "few.txt").write_text("\n".join(lines))
    spec = with_model / "rollout.yaml"
    spec.write_text(spec.read_text().replace("target: 0.6", "target: 0.9"))
    run("apply")
    texts = str(with_model / "few.txt")
    found = run("calibrate", "support", "--texts", texts, "--exit-layers", "5")
    assert found.code == 0, found.err
    assert "48 texts certify nothing at 90.000%: policy v1 goes to shadow only" in found.out
    assert "promotion needs live evidence" in found.out
    facts = run("status", "--json").json[0]["facts"]
    assert (facts["policy_version"], facts["stage"]) == (1, 0.0)
    reason = run("history", "support", "--json").json[0]["reason"]
    assert "certify nothing" in reason and reason.endswith("live, shadow-only")


def test_where_nothing_can_be_saved_the_domain_stays_at_full_depth(
    run: Run, with_model: Path
) -> None:
    from tests.models import LABELS

    spec = with_model / "rollout.yaml"
    barred = ", ".join(f"{label}: never_early" for label in LABELS)
    text = spec.read_text()
    spec.write_text(text.replace("    agreement:", f"    guards: {{{barred}}}\n    agreement:", 1))
    assert run("apply").code == 0
    texts = str(with_model / "texts.txt")
    error = run("calibrate", "support", "--texts", texts, "--exit-layers", "1").error
    assert "no exit saves anything at 60.000% agreement" in error
    assert run("status", "--json").json[0]["facts"]["policy_version"] is None


@pytest.mark.parametrize(
    ("name", "text", "error"),
    [
        ("few.txt", "refund my invoice\n" * 15, "15 texts are too few"),
        ("empty.txt", "\n \n", "there is no text in it"),
        ("no.csv", "body\nrefund\n", "name the column or key `text`"),
        ("no.jsonl", '{"body": "refund"}\n', "name the column or key `text`"),
        ("broken.jsonl", '{"text": \n', "cannot be read"),
    ],
)
def test_texts_that_cannot_be_used_are_refused(
    run: Run, with_model: Path, name: str, text: str, error: str
) -> None:
    (with_model / name).write_text(text)
    assert error in run("calibrate", "support", "--texts", str(with_model / name)).error


def test_an_over_long_text_is_named_by_its_number(run: Run, with_model: Path) -> None:
    lines = ["refund my invoice"] * 150
    lines[119] = "refund " * 100
    (with_model / "long.txt").write_text("\n".join(lines))
    error = run("calibrate", "support", "--texts", str(with_model / "long.txt")).error
    assert "text 120 of 150: the prompt has" in error
    assert "shorten the text" in error


def test_a_missing_file_of_texts_is_named(run: Run, with_model: Path) -> None:
    assert (
        "nope.txt: there is no such file"
        in run("calibrate", "support", "--texts", "nope.txt").error
    )


@pytest.mark.parametrize(
    ("option", "value", "error"),
    [
        ("--exit-layers", "2,six", "write numbers, such as 2,4,6"),
        ("--exit-layers", "2,6", "exit layer 6 is outside 1 to 5: the model has 6 layers"),
        ("--criterion", "marginn", "is not one of"),
        ("--head", "tuned", "is not one of"),
    ],
)
def test_what_the_model_has_not_cannot_be_calibrated(
    run: Run, with_model: Path, option: str, value: str, error: str
) -> None:
    texts = str(with_model / "texts.txt")
    assert error in run("calibrate", "support", "--texts", texts, option, value).error


def test_a_checkpoint_of_another_architecture_is_refused(run: Run, with_model: Path) -> None:
    other = with_model / "model"
    (other / "config.json").write_text(json.dumps({"model_type": "bert"}))
    spec = with_model / "rollout.yaml"
    lines = spec.read_text().splitlines()
    lines = [f"  id: {other}" if line.startswith("  id:") else line for line in lines]
    spec.write_text("\n".join(lines))
    error = run("calibrate", "support", "--texts", str(with_model / "texts.txt")).error
    assert "model type 'bert' is not one the engine runs layer by layer" in error


@pytest.mark.parametrize(
    ("week", "error"),
    [
        ("2026-W99", "2026 has no week 99"),
        ("last", "week 'last'"),
        ("2126-W01", "nothing has happened in it yet"),
    ],
)
def test_a_week_that_cannot_be_reported_is_refused(
    run: Run, applied: Path, week: str, error: str
) -> None:
    assert error in run("report", "--domain", "support", "--week", week).error


def test_a_report_names_the_files_it_wrote(run: Run, applied: Path) -> None:
    found = run("report", "--domain", "support", "--week", "2026-W40", "--json")
    assert found.code == 0, found.err
    assert set(found.json) == {"html", "csv", "json"}
    assert all(Path(path).is_file() for path in found.json.values())


def test_a_port_in_use_is_named(run: Run, applied: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        error = run("dashboard", "--port", str(port)).error
    assert f"cannot listen on 127.0.0.1 port {port}" in error
    assert "choose another with --port" in error


def test_a_missing_extra_is_named_with_its_command(
    run: Run, applied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in [name for name in sys.modules if name.startswith("dashboards")]:
        monkeypatch.delitem(sys.modules, module)
    # What Python raises where a package is not there.
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert "pip install 'early-exit-rollout[dashboards]'" in run("dashboard").error


def test_a_worker_of_a_broken_spec_does_not_start(run: Run, applied: Path) -> None:
    (applied / "rollout.yaml").write_text("model: {")
    assert "this is not YAML" in run("worker").error


def test_help_names_every_criterion() -> None:
    from rollout.cli.reference import cli_reference
    from rollout.engine.criteria import CRITERIA

    line = next(line for line in cli_reference().splitlines() if "--criterion" in line)
    assert all(criterion in line for criterion in CRITERIA)
