"""Two kinds of transaction, and one error for a database that is not there."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from rollout.store.outcomes import insert_outcomes
from rollout.store.session import Store, StoreUnreachable, open_store
from rollout.values import RolloutError
from tests.store.examples import an_outcome, with_domain


def test_a_sqlite_store_makes_its_folder(tmp_path: Path) -> None:
    store = open_store(f"sqlite:///{tmp_path / 'var' / 'deep' / 'rollout.db'}")
    with store.write() as session:
        session.execute(text("CREATE TABLE one (n INTEGER)"))
    store.close()
    assert (tmp_path / "var" / "deep" / "rollout.db").exists()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RolloutError, match="cannot make the database's folder .*file/below"):
        open_store(f"sqlite:///{tmp_path / 'file' / 'below' / 'rollout.db'}")


def test_sqlite_is_set_up_for_many_processes(sqlite_store: Store) -> None:
    with sqlite_store.read() as session:
        found = {
            name: session.execute(text(f"PRAGMA {name}")).scalar_one()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    assert found == {
        "journal_mode": "wal",
        "synchronous": 1,
        "foreign_keys": 1,
        "busy_timeout": 10_000,
    }


def test_an_exception_undoes_the_whole_transaction(store: Store) -> None:
    with_domain(store)
    with pytest.raises(KeyError), store.write() as session:
        session.execute(text("DELETE FROM domains"))
        raise KeyError
    with store.read() as session:
        assert session.execute(text("SELECT count(*) FROM domains")).scalar_one() == 1


def test_concurrent_writers_wait_for_each_other(store: Store) -> None:
    with store.write() as session:
        session.execute(text("CREATE TABLE tally (n INTEGER)"))
        session.execute(text("INSERT INTO tally VALUES (0)"))

    def raise_it() -> None:
        for _ in range(20):
            with store.write() as session:
                lock = "" if store.is_sqlite else " FOR UPDATE"
                n = session.execute(text(f"SELECT n FROM tally{lock}")).scalar_one()
                session.execute(text("UPDATE tally SET n = :n"), {"n": n + 1})

    threads = [threading.Thread(target=raise_it) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with store.read() as session:
        assert session.execute(text("SELECT n FROM tally")).scalar_one() == 80


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("no url at all", "the database URL cannot be read"),
        ("mysql://me:geheim@host/db", "database kind 'mysql' is not supported"),
        ("postgresql+nodriver://me:geheim@host/db", "no driver for postgresql\\+nodriver"),
        ("postgresql://me:geheim@host:port/db", "the database URL cannot be read"),
    ],
)
def test_a_wrong_url_is_explained_without_its_password(url: str, message: str) -> None:
    with pytest.raises(RolloutError, match=message) as caught:
        open_store(url)
    assert "geheim" not in str(caught.value)


def test_plain_postgresql_urls_get_the_driver_we_ship() -> None:
    for scheme in ("postgres", "postgresql"):
        assert open_store(f"{scheme}://u@h/db").engine.url.drivername == "postgresql+psycopg"


def test_a_missing_database_is_one_clear_error(store: Store) -> None:
    nowhere = open_store("postgresql://me:geheim@127.0.0.1:1/db")
    for transaction in (nowhere.read, nowhere.write):
        with (
            pytest.raises(StoreUnreachable, match=r"me:\*\*\*@127.0.0.1:1/db cannot be used"),
            transaction() as session,
        ):
            session.execute(text("SELECT 1"))


def test_a_connection_that_the_server_ended_is_replaced(postgres_store: Store) -> None:
    with postgres_store.read() as session:
        own = session.execute(text("SELECT pg_backend_pid()")).scalar_one()
    killer = open_store(postgres_store.engine.url.render_as_string(hide_password=False))
    with killer.read() as session:
        session.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": own})
    killer.close()
    with postgres_store.read() as session:
        assert session.execute(text("SELECT 1")).scalar_one() == 1


def test_no_error_carries_what_was_to_be_written(store: Store) -> None:
    with pytest.raises(IntegrityError) as caught, store.write() as session:
        insert_outcomes(session, [an_outcome("r1", text="a customer's words")])
    assert "words" not in str(caught.value)
