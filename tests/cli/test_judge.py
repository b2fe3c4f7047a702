"""why: what is missing and how long that takes. replay: another spec over the stored past."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from rollout.cli import shell
from rollout.control.state import DomainState
from rollout.store.catalog import save_policy
from rollout.store.domains import load_domain
from rollout.store.ledger import load_state, record_event, replace_state
from rollout.store.models import DecisionRow
from rollout.store.outcomes import insert_outcomes
from rollout.store.session import Store
from rollout.store.tick import tick
from tests.cli.conftest import Run
from tests.store.examples import a_policy, an_outcome

MINUTE = timedelta(minutes=1)


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> datetime:
    """The moment at which the command line's clock stands still."""
    start = datetime(2026, 11, 16, 9, 0, tzinfo=UTC)
    monkeypatch.setattr(shell, "now", lambda: start)
    for module in ("setup", "operate", "judge", "watch"):
        monkeypatch.setattr(f"rollout.cli.{module}.now", lambda: start)
    return start


@pytest.fixture
def live(start: datetime, home: Path, run: Run, store: Store) -> datetime:
    """Policy v1, in shadow since `start`."""
    assert run("apply").code == 0
    with store.write() as session:
        labels = load_domain(session, "support").labels
        policy = a_policy(domain="support", never_early=frozenset())
        save_policy(session, policy, labels, {}, "tester", start)
        found = load_state(session, "support")
        assert found is not None
        values = found[0].to_json() | {"policy_version": 1}
        replace_state(session, "support", DomainState.from_json(values), start)
        record_event(
            session, domain="support", action="calibrate", reason="v1", actor="tester", now=start
        )
    return start


def lived(
    store: Store,
    start: datetime,
    ticks: int,
    matched: int = 20,
    mismatched: int = 0,
    first: int = 1,
) -> None:
    """Compared requests and a tick, every ten minutes."""
    for number in range(first, first + ticks):
        at = start + number * 10 * MINUTE
        with store.write() as session:
            rows = [
                an_outcome(
                    f"r{number}-{place}",
                    domain="support",
                    created_at=at - MINUTE,
                    stage_weight=0.0,
                    policy_exit_layer=2,
                    agreement=1.0 if place < matched else 0.0,
                )
                for place in range(matched + mismatched)
            ]
            insert_outcomes(session, rows)
        tick(store, "support", at)


def at(monkeypatch: pytest.MonkeyPatch, moment: datetime) -> None:
    for module in ("judge", "watch"):
        monkeypatch.setattr(f"rollout.cli.{module}.now", lambda: moment)


def another_spec(home: Path, **changes: str) -> Path:
    """rollout.yaml with other values of some keys."""
    lines = (home / "rollout.yaml").read_text().splitlines()
    for key, value in changes.items():
        kept = [line for line in lines if not line.strip().startswith(f"{key}:")]
        place = next(i for i, line in enumerate(kept) if line.strip() == "support:")
        lines = [*kept[: place + 1], f"    {key}: {value}", *kept[place + 1 :]]
    path = home / "new.yaml"
    path.write_text("\n".join(lines) + "\n")
    return path


# --- why --------------------------------------------------------------------------------------


def test_why_names_what_is_missing_and_how_long_that_takes(
    run: Run, live: datetime, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    lived(store, live, ticks=3)
    at(monkeypatch, live + 30 * MINUTE)
    lines = run("why", "support").out.splitlines()
    assert lines[0].startswith("support: 0 % of traffic, policy v1; verdict inconclusive (")
    assert any("needs: about" in line and "at the present rate" in line for line in lines)
    assert any(line.startswith("then: 1 % of traffic") for line in lines)
    assert any("chance that this promotion is wrong: at most 0.8" in line for line in lines)
    found = run("why", "support", "--json").json
    assert found["missing"] == found["facts"]["comparisons_needed"] or found["missing"] > 0
    assert found["per_hour"] == pytest.approx(60 / 21 * 60, rel=0.3)
    assert found["facts"]["error_budget"]["alpha"] == 0.05


def test_why_changes_nothing(run: Run, live: datetime, store: Store) -> None:
    lived(store, live, ticks=2)
    before = run("history", "support", "--json").json
    assert run("why", "support").code == 0
    assert run("history", "support", "--json").json == before


def test_why_of_an_unknown_domain_names_the_known(run: Run, live: datetime) -> None:
    assert "did you mean support?" in run("why", "suport").error


# --- replay -----------------------------------------------------------------------------------


def test_a_stricter_spec_over_the_past_promotes_less(
    run: Run, live: datetime, store: Store, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lived(store, live, ticks=40)
    at(monkeypatch, live + 400 * MINUTE)
    new = str(another_spec(home, min_evidence="500"))
    found = run("replay", "support", "--spec", new, "--json").json
    stored, replayed = found["stored"]["counts"], found["replayed"]["counts"]
    assert stored["promote"] > replayed["promote"] > 0
    first = [moves["moves"][0]["at"] for moves in (found["stored"], found["replayed"])]
    assert first[0] < first[1]
    assert found["between_ticks_s"] == 600.0


def test_the_same_spec_over_the_past_decides_the_same(
    run: Run, live: datetime, store: Store, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lived(store, live, ticks=30)
    lived(store, live, ticks=4, matched=10, mismatched=30, first=31)
    at(monkeypatch, live + 340 * MINUTE)
    found = run("replay", "support", "--spec", str(home / "rollout.yaml"), "--json").json
    told = [
        [(move["at"], move["action"], move["after"]) for move in found[side]["moves"]]
        for side in ("stored", "replayed")
    ]
    assert told[0] == told[1]
    assert [move[1] for move in told[0]][-1] == "roll_back"
    lines = run("replay", "support", "--spec", str(home / "rollout.yaml")).out.splitlines()
    assert lines[0].split("\t") == ["at (UTC)", "as it was", "under the new spec"]
    moved = [line.split("\t")[1:] for line in lines[1 : len(told[0]) + 1]]
    assert all(old == new for old, new in moved)


def test_what_people_did_is_done_again(
    run: Run, live: datetime, store: Store, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lived(store, live, ticks=2)
    monkeypatch.setattr("rollout.cli.operate.now", lambda: live + 21 * MINUTE)
    assert run("pause", "support", "--why", "audit").code == 0
    lived(store, live, ticks=30, first=3)
    at(monkeypatch, live + 320 * MINUTE)
    new = str(another_spec(home, min_evidence="50"))
    found = run("replay", "support", "--spec", new, "--json").json
    assert [move["action"] for move in found["replayed"]["moves"]] == ["pause"]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["support"], "name a domain and --spec"),
        (["support", "--spec", "SPEC", "--decision", "1"], "without a domain and --spec"),
        (["other", "--spec", "SPEC"], "has no domain 'other'"),
        (["support", "--spec", "SPEC", "--since", "yesterday"], "neither a date"),
        (["support", "--spec", "SPEC", "--every", "0s"], "longer than 0s"),
        (["support", "--spec", "SPEC", "--since", "2030-01-01"], "nothing was decided"),
        (["support", "--spec", "missing.yaml"], "there is no such file"),
    ],
)
def test_what_cannot_be_replayed_is_refused(
    run: Run, live: datetime, home: Path, arguments: list[str], error: str
) -> None:
    spec = str(home / "rollout.yaml")
    assert error in run("replay", *(spec if one == "SPEC" else one for one in arguments)).error


# --- one decision -----------------------------------------------------------------------------


def test_every_stored_decision_comes_out_the_same(run: Run, live: datetime, store: Store) -> None:
    lived(store, live, ticks=15)
    run("pause", "support", "--why", "audit")
    with store.read() as session:
        rows = session.execute(
            select(DecisionRow.id, DecisionRow.rule).where(DecisionRow.rule != "event")
        ).all()
    assert {"certified", "command_pause"} <= {row.rule for row in rows}
    for row in rows:
        found: dict[str, Any] = run("replay", "--decision", str(row.id), "--json").json
        assert found["equal"], found["differences"]
    assert "comes out the same" in run("replay", "--decision", str(rows[-1].id)).out


def test_a_decision_that_was_tampered_with_comes_out_otherwise(
    run: Run, live: datetime, store: Store
) -> None:
    lived(store, live, ticks=2)
    with store.write() as session:
        session.execute(
            update(DecisionRow).where(DecisionRow.action == "hold").values(action="promote")
        )
        found = session.scalar(select(DecisionRow.id).where(DecisionRow.action == "promote"))
    told = run("replay", "--decision", str(found)).out
    assert "comes out otherwise" in told
    assert "action\tpromote\thold" in told


def test_what_is_no_decision_is_refused(run: Run, live: datetime, store: Store) -> None:
    assert "records an event (apply)" in run("replay", "--decision", "1").error
    assert "there is no decision 99" in run("replay", "--decision", "99").error
