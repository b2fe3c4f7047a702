"""The pilot end to end: the command, real workers, and what is left in the store afterwards."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from sqlalchemy import text
from sqlalchemy.orm import Session

from rollout.store.session import open_store
from tests.conftest import PostgresServer

PILOT_TIMEOUT_S = 900
ROLLOUT = str(Path(sys.executable).with_name("rollout"))
STAGES = ["0 %", "1 %", "5 %", "25 %", "50 %", "100 %"]

BY_ARM = """
    SELECT
        COUNT(*) AS requests,
        SUM(CASE WHEN arm = 'early' THEN 1 ELSE 0 END) AS early,
        SUM(CASE WHEN arm = 'early' THEN depth - layers_run ELSE 0 END) AS gross_layers,
        SUM(probes * probe_cost) AS probe_layers,
        SUM(shadow_layers) AS shadow_layers,
        SUM(replay_layers) AS replay_layers,
        SUM((CASE WHEN arm = 'early' THEN depth - layers_run ELSE 0 END
             - probes * probe_cost - shadow_layers - replay_layers)
            * layer_ms / 3600000.0 * 450) AS net_money
    FROM outcomes WHERE domain = 'billing'
"""
EXIT_AGREEMENT = """
    SELECT SUM(agreement / inclusion_probability) / SUM(1.0 / inclusion_probability)
    FROM outcomes
    WHERE domain = 'billing' AND arm = 'early' AND exit_layer IS NOT NULL
      AND shadow AND agreement IS NOT NULL
"""
EXITED_SHARE = """
    SELECT AVG(CASE WHEN exit_layer IS NOT NULL THEN 1.0 ELSE 0.0 END)
    FROM outcomes WHERE domain = 'billing' AND arm = 'early'
"""


@contextmanager
def reading(database: str) -> Iterator[Session]:
    store = open_store(database)
    try:
        with store.read() as session:
            yield session
    finally:
        store.close()


@pytest.fixture(scope="module")
def pilot_database(postgres_server: PostgresServer) -> Iterator[str]:
    name = postgres_server.create()
    yield postgres_server.url_of(name)
    postgres_server.drop(name)


@pytest.fixture(scope="module")
def pilot_broker(redis_url: str) -> Iterator[str]:
    """A database of the Redis server that no other test uses."""
    url = redis_url.rsplit("/", 1)[0] + "/12"
    with closing(redis.Redis.from_url(url)) as client:
        client.flushdb()
        yield url
        client.flushdb()


@pytest.fixture(scope="module", params=["embedded", "redis and postgresql"])
def pilot(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[dict[str, Any], str]]:
    """(what `rollout pilot --json` printed, the database's URL)."""
    home = tmp_path_factory.mktemp("pilot") / "billing"
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("ROLLOUT_")
    }
    database = f"sqlite:///{home / 'var' / 'rollout.db'}"
    if request.param == "redis and postgresql":
        database = request.getfixturevalue("pilot_database")
        environment["ROLLOUT_DATABASE_URL"] = database
        environment["ROLLOUT_BROKER_URL"] = request.getfixturevalue("pilot_broker")
    done = subprocess.run(
        [ROLLOUT, "pilot", "--to", str(home), "--json"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=PILOT_TIMEOUT_S,
    )
    logs = "".join(path.read_text()[-2000:] for path in home.glob("var/*.log"))
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{logs}"
    yield json.loads(done.stdout), database


@pytest.mark.timeout(PILOT_TIMEOUT_S + 60)
def test_it_is_promoted_through_every_stage_in_order(pilot: tuple[dict[str, Any], str]) -> None:
    result, _ = pilot
    promotions = [event for event in result["events"] if event["action"] == "promote"]
    assert [event["reason"].split(" of traffic")[0] for event in promotions] == [
        f"Promoted from {before} to {after}"
        for before, after in zip(STAGES, STAGES[1:], strict=False)
    ]


def test_it_is_rolled_back_after_the_change_and_not_before(
    pilot: tuple[dict[str, Any], str],
) -> None:
    result, _ = pilot
    (rollback,) = (event for event in result["events"] if event["action"] == "roll_back")
    assert rollback["at"] > result["changed_at"]
    assert result["went_as_planned"]


def test_the_reports_figures_equal_plain_sql(pilot: tuple[dict[str, Any], str]) -> None:
    result, database = pilot
    figures = json.loads(Path(result["report"]["json"]).read_text())["period"]["summary"]
    with reading(database) as session:
        row = session.execute(text(BY_ARM)).mappings().one()
        exits = float(session.execute(text(EXIT_AGREEMENT)).scalar_one())
        exited = float(session.execute(text(EXITED_SHARE)).scalar_one())
    layers, money = figures["savings"]["layers"], figures["savings"]["money"]
    assert figures["requests"] == row["requests"] == result["requests"]
    assert figures["early"] == row["early"]
    for kind in ("gross", "probe", "shadow", "replay"):
        assert layers[kind] == pytest.approx(float(row[f"{kind}_layers"]), abs=1e-6)
    net = money["gross"] - money["probe"] - money["shadow"] - money["replay"]
    assert net == pytest.approx(float(row["net_money"]), abs=5e-3)
    agreement = figures["agreement"]
    assert agreement["exits"]["value"] == pytest.approx(exits)
    assert agreement["early"]["value"] == pytest.approx(1 - exited * (1 - exits))


def test_every_request_has_one_outcome_and_every_replay_agrees(
    pilot: tuple[dict[str, Any], str],
) -> None:
    result, database = pilot
    with reading(database) as session:
        count, ids, replays, differing = session.execute(
            text(
                "SELECT COUNT(*), COUNT(DISTINCT request_id), COUNT(replay_matches), "
                "SUM(CASE WHEN replay_matches THEN 0 ELSE 1 END) FILTER "
                "(WHERE replay_matches IS NOT NULL) FROM outcomes"
            )
        ).one()
    assert count == ids == result["requests"]
    assert replays > 0 and differing == 0


def test_the_report_and_the_page_are_there_and_self_contained(
    pilot: tuple[dict[str, Any], str],
) -> None:
    result, _ = pilot
    for path in (result["report"]["html"], result["page"]):
        page = Path(path).read_text()
        assert "<svg" in page and "billing" in page
        assert "http://" not in page.replace("http://www.w3.org/", "") and "https://" not in page


def test_a_request_that_disagreed_can_be_explained(pilot: tuple[dict[str, Any], str]) -> None:
    result, database = pilot
    with reading(database) as session:
        request_id = session.execute(
            text("SELECT request_id FROM outcomes WHERE arm = 'early' AND agreement = 0 LIMIT 1")
        ).scalar_one()
    done = subprocess.run(
        [ROLLOUT, "--home", result["folder"], "explain", request_id],
        env=os.environ | {"ROLLOUT_DATABASE_URL": database},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "reached the threshold" in done.stdout and "differs from full depth" in done.stdout
