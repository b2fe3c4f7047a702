"""rollout.yaml: the design's example is valid, and each error names file, line, key and way out."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from rollout.control.durations import FreezeWindow, format_duration, parse_duration
from rollout.control.labels import check_severity, labels_of, never_early
from rollout.control.schema import DomainSpec, Spec
from rollout.control.spec import SpecError, diff_specs, load_spec, spec_hash
from tests.control.examples import DAY, HOUR, MONDAY, billing

EXAMPLE = """\
model: {id: ./models/support-llama, device: auto, dtype: auto, quantization: none}
cost:  {currency: JPY, accelerator_hour: 450, mean_layer_ms: measured}
domains:
  billing:
    task: {kind: choice, labels: labels/billing.txt, template: prompts/billing.j2}
    agreement: {target: 0.98, floor: 0.95, alpha: 0.05}
    stages: [0, 0.01, 0.05, 0.25, 0.5, 1.0]
    dwell: 30m
    min_evidence: 200
    shadow: {rate: 0.1, min: 0.02, max: 1.0}
    guards: {fraud_report: never_early, refund: 0.995}   # labels whose error costs more
    approval: {before: [0.5]}                            # a person promotes past this
    freeze: ["Fri 18:00 - Mon 08:00 Asia/Tokyo"]
    rollback: {to: 0, cooldown: 24h}
    evidence: {stale_after: 2h, blind_after: 12h, mean_time_to_false_alarm: 20000}
    text: {store: false, retention: 30d}
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "rollout.yaml"


def errors_of(path: Path, text: str) -> list[str]:
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SpecError) as caught:
        load_spec(path)
    return [line.replace(str(path), "rollout.yaml") for line in str(caught.value).splitlines()]


def test_the_designs_example_is_valid(path: Path) -> None:
    path.write_text(EXAMPLE)
    domain = load_spec(path).domains["billing"]
    assert domain.stages == (0.0, 0.01, 0.05, 0.25, 0.5, 1.0)
    assert domain.rollback.cooldown == timedelta(hours=24)
    assert domain.guarded == {"refund": 0.995}
    assert domain.shadow.replay_share == 0.05


def test_the_examples_values_are_the_defaults(path: Path) -> None:
    path.write_text(EXAMPLE)
    example = load_spec(path).domains["billing"].to_json()
    example |= {"guards": {}, "freeze": [], "approval": {"before": []}}
    assert billing().to_json() == example


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        (
            "0.25, 0.5, 1.0",
            "0.6, 0.5, 1.0",
            "rollout.yaml:7: domains.billing.stages[4]: 0.5 is below the stage before it (0.6); "
            "stages must rise",
        ),
        ("[0, 0.01", "[0.01", "rollout.yaml:7: domains.billing.stages[0]: 0.01 must be 0"),
        ("0.5, 1.0", "0.5, 1.5", "rollout.yaml:7: domains.billing.stages[5]: 1.5 is above 1"),
        ("0.05, 0.25", "0.05, 0.05", "domains.billing.stages[3]: 0.05 stands twice"),
        ("dwell", "dwel", "rollout.yaml:8: domains.billing.dwel: unknown key; did you mean dwell?"),
        ("target: 0.98", "tagret: 0.98", "agreement.tagret: unknown key; did you mean target?"),
        ("model:", "x: 1\nmodel:", "rollout.yaml:1: x: unknown key; known here: model, cost"),
        ("cost:  {", "cost: { y: 2, ", "rollout.yaml:2: cost.y: unknown key; known here: currency"),
        ("floor: 0.95", "floor: 0.99", "floor: 0.99 is not below the target (0.98)"),
        ("floor: 0.95", "floor: 0.2", "floor: 0.2 is outside [0.5, 1)"),
        ("target: 0.98", "target: 1", "target: 1 must lie strictly between 0.5 and 1"),
        ("alpha: 0.05", "alpha: 0.9", "agreement.alpha: input should be less than or equal to 0.5"),
        ("alpha: 0.05", "alpha: 0", "agreement.alpha: input should be greater than 0"),
        ("alpha: 0.05", "alpha: .nan", "agreement.alpha: input should be a finite number"),
        ("30m", "30", "rollout.yaml:8: domains.billing.dwell: 30 is no duration; write"),
        ("24h", "1 day", "rollback.cooldown: '1 day' is no duration; write"),
        ("{to: 0,", "{to: 0.3,", "rollback.to: 0.3 is not a stage below the last; stages are 0,"),
        ("[0.5]}", "[0.4]}", "approval.before[0]: 0.4 is not a stage one can be promoted to"),
        ("Asia/Tokyo", "Asia/Tokio", "freeze[0]: 'Asia/Tokio' is no time zone"),
        ("Fri 18:00", "Friday", "freeze[0]: 'Friday - Mon 08:00 Asia/Tokyo' is no window"),
        ("rate: 0.1", "rate: 0", "shadow.rate: input should be greater than 0 (is 0)"),
        ("rate: 0.1", "rate: 0.01", "shadow.rate: 0.01 is outside min to max (0.02 to 1)"),
        ("max: 1.0", "max: 0.01", "shadow.min: 0.02 is above max (0.01)"),
        ("never_early", "sometimes", "guards.fraud_report: input should be 'never_early'"),
        ("blind_after: 12h", "blind_after: 1h", "blind_after: 1h is not after stale_after (2h)"),
        (
            "stale_after: 2h,",
            "safe_share: 0.3, stale_after: 2h,",
            "rollout.yaml:15: domains.billing.evidence.safe_share: 0.3 is not a stage; stages are",
        ),
        (
            "cooldown: 24h",
            "backoff: 0.5",
            "rollback.backoff: input should be greater than or equal",
        ),
        (
            "cooldown: 24h",
            "budget: 0",
            "rollback.budget: input should be greater than or equal to 1",
        ),
        ("max: 1.0", "budget: 1.5", "shadow.budget: input should be less than or equal to 1"),
        (
            "max: 1.0",
            "max: 1.2",
            "rollout.yaml:10: domains.billing.shadow.max: input should be less",
        ),
        ("rate: 0.1", "rate: -0.1", "shadow.rate: input should be greater than 0 (is -0.1)"),
        ("alpha: 0.05", "severity: {refund: 2}", "agreement.severity.refund"),
        (
            "alpha: 0.05",
            "severity: {refund: 0.5}, noise_ceiling: true",
            "agreement.noise_ceiling: does not go together with severity; leave one of them out",
        ),
        ("dwell: 30m", "levers: {up: [threshold]}", "levers.up: name share, and threshold at most"),
        ("dwell: 30m", "levers: {down: [share, share]}", "levers.down: name share, and threshold"),
        ("dwell: 30m", "levers: {up: [depth]}", "rollout.yaml:8: domains.billing.levers.up"),
        ("kind: choice", "kind: poem", "rollout.yaml:5: domains.billing.task.kind: input should"),
        (", template: prompts/billing.j2", "", "billing.task.template: is missing; add it"),
        ("  billing:", "  Big Co:", "rollout.yaml:4: domains.Big Co: a domain's name has"),
        ("[0, 0.01, 0.05, 0.25, 0.5, 1.0]", "0.5", "stages: must be a list in brackets (is 0.5)"),
        ("30m", "30m\n    dwell: 40m", 'rollout.yaml:9: found duplicate key "dwell"'),
        ("stages: [", "stages: [[", "this is not YAML"),
    ],
)
def test_an_error_names_file_line_key_and_way_out(
    path: Path, old: str, new: str, error: str
) -> None:
    assert EXAMPLE.count(old) >= 1
    errors = errors_of(path, EXAMPLE.replace(old, new, 1))
    assert len(errors) == 1
    assert error in errors[0]
    assert errors[0].startswith("rollout.yaml:")


def test_a_severity_must_name_labels_of_the_domain() -> None:
    labels = ["refund", "fraud"]
    check_severity(billing(agreement={"severity": {"*": 0.2, "fraud": {"refund": 1}}}), labels)
    with pytest.raises(SpecError, match=r"agreement.severity.frauds: .* did you mean fraud\?"):
        check_severity(billing(agreement={"severity": {"frauds": 1}}), labels)
    with pytest.raises(SpecError, match=r"agreement.severity.\*.x: .* labels are refund, fraud"):
        check_severity(billing(agreement={"severity": {"*": {"x": 1}}}), labels)


def test_all_errors_of_a_file_are_told_at_once(path: Path) -> None:
    text = EXAMPLE.replace("dwell", "dwel").replace("device: auto", "device: gpu")
    errors = errors_of(path, text.replace("[0.5]", "[0.4, 0.3]"))
    assert [line.split(": ")[0] for line in errors] == ["rollout.yaml:1", "rollout.yaml:8"]
    errors = errors_of(path, EXAMPLE.replace("[0.5]", "[0.4, 0.3]").replace("{to: 0", "{to: 1"))
    assert len(errors) == 3


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("", "the file is empty"),
        ("# only a remark\n", "the file is empty"),
        ("- a list\n", "expected the keys model, cost and domains"),
        ("model: 'open\n", "this is not YAML"),
        ("\tmodel: x\n", "this is not YAML"),
        ("model: !!python/object:os.system {}\n", "model"),
        ("domains: {}\nmodel: {id: x}\ncost: {currency: JPY, accelerator_hour: 1}", "domains"),
    ],
)
def test_a_file_that_is_no_spec_is_refused(path: Path, text: str, wrong: str) -> None:
    assert any(wrong in line for line in errors_of(path, text))


def test_a_missing_or_unreadable_file_is_told(path: Path) -> None:
    with pytest.raises(SpecError, match="no such file; `rollout init`"):
        load_spec(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SpecError, match="cannot be read as UTF-8"):
        load_spec(path)


def test_an_error_in_a_merged_section_has_a_line(path: Path) -> None:
    text = EXAMPLE.replace("domains:\n", "domains:\n  base: &base {dwell: 1}\n").replace(
        "    dwell: 30m\n", "    <<: *base\n"
    )
    errors = errors_of(path, text)
    assert any("domains.billing.dwell: 1 is no duration" in line for line in errors)


def test_every_key_is_described() -> None:
    def check(section: type[BaseModel]) -> None:
        for name, field in section.model_fields.items():
            assert field.description, f"{section.__name__}.{name}"
            if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
                check(field.annotation)

    check(Spec)
    check(DomainSpec)


def test_json_gives_the_spec_back_and_keeps_its_hash() -> None:
    spec = billing(guards={"refund": 0.99, "fraud": "never_early"}, dwell="90s")
    again = DomainSpec.from_json(json.loads(json.dumps(spec.to_json())))
    assert again == spec
    assert spec_hash(again) == spec_hash(spec)


def test_the_hash_tells_specs_apart_but_not_ways_of_writing() -> None:
    assert (
        spec_hash(billing(dwell="30m")) == spec_hash(billing()) == spec_hash(billing(dwell="1800s"))
    )
    assert spec_hash(billing(dwell="31m")) != spec_hash(billing())


def test_a_diff_names_what_changes() -> None:
    before = billing(guards={"refund": 0.99}).to_json()
    after = billing(guards={"fraud": "never_early"}, dwell="1h", stages=[0, 1])
    assert diff_specs(before, after) == [
        "stages: [0, 0.01, 0.05, 0.25, 0.5, 1] -> [0, 1]",
        "dwell: 30m -> 1h",
        "guards.refund: 0.99 -> (none)",
        "guards.fraud: (none) -> never_early",
    ]
    assert diff_specs(after.to_json(), after) == []
    assert "stages: [0, 1]" in diff_specs(None, after)


@given(st.integers(0, 10**8).map(lambda seconds: timedelta(seconds=seconds)))
def test_a_duration_reads_as_it_is_written(duration: timedelta) -> None:
    assert parse_duration(format_duration(duration)) == duration


@pytest.mark.parametrize(
    "text", ["", "m", "3", "-3h", "3 h", "1.5h", "3y", None, 3, "9" * 30 + "d"]
)
def test_what_is_no_duration_is_refused(text: Any) -> None:
    with pytest.raises(ValueError):
        parse_duration(text)


def test_a_window_within_the_week_and_one_over_its_end() -> None:
    within = FreezeWindow.parse("Mon 09:00 - Mon 10:00 UTC")
    over = FreezeWindow.parse("Sun 12:00 - Mon 09:00 UTC")
    assert within.holds(MONDAY) and not within.holds(MONDAY + HOUR)
    assert not over.holds(MONDAY) and over.holds(MONDAY - HOUR) and not over.holds(MONDAY - DAY)


def test_labels_are_read_in_order(tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    path.write_text("refund\n invoice \n\n")
    assert labels_of(path) == ("refund", "invoice")


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("refund\ninvoice\nrefund\n", r"labels.txt:3: label 'refund' already stands in line 1"),
        ("refund\n\ninvoice\n", r"labels.txt:2: the line is empty"),
        ("refund\n", "1 label; a choice needs at least two"),
        ("", "0 labels; a choice needs at least two"),
    ],
)
def test_a_wrong_labels_file_is_refused_with_line_numbers(
    tmp_path: Path, text: str, wrong: str
) -> None:
    path = tmp_path / "labels.txt"
    path.write_text(text)
    with pytest.raises(SpecError, match=wrong):
        labels_of(path)


def test_guards_must_name_labels_of_the_domain() -> None:
    spec = billing(guards={"refund": 0.99, "fraud": "never_early"})
    assert never_early(spec, ["refund", "fraud"]) == frozenset({1})
    with pytest.raises(SpecError, match=r"guards.fraud: .* did you mean frauds\?"):
        never_early(spec, ["refund", "frauds"])
