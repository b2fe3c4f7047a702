"""Every route of the console, and what a person or a program gets where there is nothing."""

from __future__ import annotations

import re
from datetime import timedelta

import httpx
import pytest
from fastapi.testclient import TestClient

from dashboards.app import create_app
from dashboards.pages import render_snapshot
from dashboards.serve import listen, serve
from rollout.store.catalog import set_kill_switch
from rollout.store.session import Store, open_store
from rollout.values import RolloutError
from tests.reporting.seed import HOSTILE, MONDAY, add, decide, make_spec, outcome, prepare, shadowed

from .conftest import NOW, clock


def test_the_overview_links_every_domain_with_its_standing(client: TestClient) -> None:
    page = client.get("/")
    assert page.status_code == 200
    assert 'href="/domains/billing"' in page.text
    assert "1 open incident" in page.text
    assert "shadow only" in page.text


def test_an_empty_store_says_what_to_do_next(sqlite_store: Store) -> None:
    with TestClient(create_app(sqlite_store, make_spec(), clock)) as client:
        page = client.get("/").text
        assert "rollout apply" in page and "rollout calibrate" in page
        domain = client.get("/domains/billing")
        assert domain.status_code == 200
        assert "Not applied yet" in domain.text
        assert "no comparisons yet" in domain.text


def test_a_domain_page_tells_share_evidence_and_why_not_yet(client: TestClient) -> None:
    page = re.sub(r"[ \n]+", " ", client.get("/domains/billing").text)
    assert "123 of about" in page
    assert "comparisons needed before 1\u202f%" in page
    assert "cooling down after the rollback" in page
    assert "Roll back to shadow only" in page
    assert "target 98\u202f%" in page
    assert page.count("<svg") == 8


def test_customers_words_are_shown_and_never_run(client: TestClient) -> None:
    page = client.get("/domains/billing").text
    assert HOSTILE not in page
    assert "&lt;script&gt;alert(" in page


def test_a_hostile_address_is_shown_and_never_run(client: TestClient) -> None:
    page = client.get("/domains/%3Cscript%3Ealert(1)%3C%2Fscript%3E")
    assert page.status_code == 404
    assert "<script>alert" not in page.text


def test_an_event_in_the_ledger_does_not_hide_why_a_domain_stands_where_it_does(
    week_store: Store,
) -> None:
    decide(week_store, NOW, "calibrate", 0, 0, "fitted by ada", actor="ada")
    with TestClient(create_app(week_store, make_spec(), clock)) as client:
        latest = client.get("/api/domains/billing").json()["latest_decision"]
    assert latest["action"] == "hold"


def test_no_page_has_inline_styles_or_scripts_which_its_policy_forbids(client: TestClient) -> None:
    for path in ("/", "/domains/billing", "/nowhere"):
        page = client.get(path)
        assert "'unsafe-inline'" not in page.headers["Content-Security-Policy"]
        assert not re.search(r"\sstyle=|<style|<script>|\son[a-z]+=\"", page.text)
        assert not re.search(r"(src|href)=\"(https?:)?//", page.text)


@pytest.mark.parametrize(
    "path", ["/", "/domains/billing", "/api/domains", "/static/page.css", "/nowhere", "/healthz"]
)
def test_every_answer_carries_the_security_headers(client: TestClient, path: str) -> None:
    headers = client.get(path).headers
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"


@pytest.mark.parametrize("path", ["/domains/biling", "/domains/biling/fragment", "/nowhere"])
def test_an_unknown_page_names_the_domains_that_there_are(client: TestClient, path: str) -> None:
    page = client.get(path)
    assert page.status_code == 404
    assert page.headers["content-type"].startswith("text/html")
    assert 'href="/domains/billing"' in page.text


@pytest.mark.parametrize("path", ["/api/domains/biling", "/api/nothing", "/api/requests/none"])
def test_an_unknown_resource_is_a_404_that_names_the_domains(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 404
    assert answer.json()["domains"] == ["billing"]
    assert answer.json()["error"]


def test_the_events_of_an_unknown_domain_are_a_404(client: TestClient) -> None:
    assert client.get("/domains/biling/events").status_code == 404


def test_the_api_gives_the_same_figures_as_the_page(client: TestClient) -> None:
    (summary,) = client.get("/api/domains").json()["domains"]
    domain = client.get("/api/domains/billing").json()
    assert summary["figures"] == domain["figures"]["summary"]
    assert domain["stage"] == 0
    assert domain["health"] == {"words": "1 open incident", "tone": "bad"}
    assert domain["progress"]["compared"] == 123
    assert domain["latest_decision"]["repeats"] == 1439


def test_a_request_is_told_with_its_account_and_trace(week_store: Store) -> None:
    add(week_store, [shadowed("x/1", MONDAY, 2, agrees=False)])
    with TestClient(create_app(week_store, make_spec(), clock)) as client:
        early = client.get("/api/requests/x/1").json()
        control = client.get("/api/requests/r005-000").json()
    assert early["outcome"]["exit_layer"] == 2
    assert early["layers"]["gross"] == 6
    assert early["layers"]["net"] == pytest.approx(6 - 6 - 2 * 0.05)
    assert early["exits"] == []
    assert [point["layer"] for point in control["exits"]] == [2, 4, 6]


def test_health_is_ok_only_while_the_store_answers(client: TestClient) -> None:
    assert client.get("/healthz").json() == {"status": "ok"}


def test_an_unreachable_store_is_a_503_with_its_reason() -> None:
    store = open_store("postgresql+psycopg://nobody@127.0.0.1:1/none")
    with TestClient(create_app(store, make_spec(), clock)) as client:
        assert client.get("/healthz").status_code == 503
        page = client.get("/domains/billing")
        assert page.status_code == 503
        assert "The store does not answer" in page.text


def test_the_kill_switch_is_the_first_thing_a_page_says(week_store: Store) -> None:
    with week_store.write() as session:
        set_kill_switch(session, on=True, actor="ada", reason="drill", now=NOW)
    with TestClient(create_app(week_store, make_spec(), clock)) as client:
        assert "Kill switch on" in client.get("/").text


def test_a_domain_without_fresh_comparisons_says_for_how_long(sqlite_store: Store) -> None:
    prepare(sqlite_store, make_spec(), MONDAY)
    with TestClient(create_app(sqlite_store, make_spec(), clock)) as client:
        assert "No comparisons yet" in client.get("/domains/billing").text


def test_a_new_outcome_changes_the_token_and_the_fragment(week_store: Store) -> None:
    with TestClient(create_app(week_store, make_spec(), clock)) as client:
        before = client.get("/domains/billing/fragment")
        assert client.get("/domains/billing/fragment").text == before.text
        add(week_store, [outcome("new", MONDAY + timedelta(hours=140), agreement=1.0)])
        after = client.get("/domains/billing/fragment")
    assert before.headers["X-Token"] != after.headers["X-Token"]
    assert "2,409" in after.text


def test_a_stream_tells_the_present_token_at_once(server: str) -> None:
    with httpx.stream("GET", f"{server}/domains/billing/events", timeout=20) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        lines = stream.iter_lines()
        assert next(lines) == "event: change"
        assert next(lines).startswith("data: 2408-")


def test_a_snapshot_needs_neither_server_nor_network(week_store: Store) -> None:
    page = render_snapshot(week_store, make_spec(), "billing", NOW)
    assert "<style>" in page and "<svg" in page
    assert "<script" not in page and "http" not in page
    assert not re.search(r"(src|href)=\"(?!#)", page)
    with pytest.raises(RolloutError, match="billing"):
        render_snapshot(week_store, make_spec(), "biling", NOW)


def test_a_port_in_use_is_refused_with_the_way_out(sqlite_store: Store) -> None:
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(RolloutError, match=f"port {port}.*--port"):
            serve(sqlite_store, make_spec(), port=port)
