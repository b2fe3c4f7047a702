"""Outcomes reach the store once and in order, whatever happens to it meanwhile."""

from __future__ import annotations

import errno
import logging
import multiprocessing
import os
import resource
import threading
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import func, select

from rollout.serving.outbox import Drained, Outbox, Written
from rollout.serving.spool import Spool
from rollout.store.models import Outcome, Trace
from rollout.store.session import Store, open_store
from tests.conftest import PostgresServer
from tests.store.examples import a_trace, an_outcome, with_domain

NOWHERE = "postgresql://me:geheim@127.0.0.1:1/db"


def stored(store: Store) -> list[str]:
    with store.read() as session:
        return list(session.scalars(select(Outcome.request_id).order_by(Outcome.id)))


def spooled(folder: Path, *request_ids: str) -> Path:
    """A spool file as a process leaves it whose store is down."""
    Outbox(open_store(NOWHERE), folder).write([an_outcome(name) for name in request_ids])
    [path] = Spool(folder).files()
    return path


def test_a_batch_goes_straight_to_the_store(store: Store, tmp_path: Path) -> None:
    outbox = Outbox(with_domain(store), tmp_path / "spool")
    assert outbox.write([an_outcome("r1", trace=a_trace()), an_outcome("r2")]) == Written(stored=2)
    assert outbox.write([]) == Written()
    assert stored(store) == ["r1", "r2"]
    assert not (tmp_path / "spool").exists()


def test_while_the_store_is_down_outcomes_wait_and_then_drain_in_order(
    store: Store, tmp_path: Path
) -> None:
    outbox = Outbox(open_store(NOWHERE), tmp_path / "spool", retry_s=0.0)
    assert outbox.write([an_outcome("r1", trace=a_trace()), an_outcome("r2")]) == Written(spooled=2)
    assert outbox.write([an_outcome("r3")]) == Written(spooled=1)
    back = Outbox(with_domain(store), tmp_path / "spool")
    assert back.write([an_outcome("r4")]) == Written(stored=1)
    assert stored(store) == ["r1", "r2", "r3", "r4"]
    with store.read() as session:
        assert session.scalar(select(func.count()).select_from(Trace)) == 1
    assert list((tmp_path / "spool").iterdir()) == []


def test_a_real_server_that_stops_taking_connections_loses_nothing(
    postgres_server: PostgresServer, postgres_store: Store, tmp_path: Path
) -> None:
    store = with_domain(postgres_store)
    name = str(store.engine.url.database)
    outbox = Outbox(store, tmp_path, retry_s=0.0)
    assert outbox.write([an_outcome("r1")]) == Written(stored=1)
    admin: psycopg.Connection[tuple[object, ...]] = postgres_server.admin
    admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false'.encode())
    admin.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name]
    )
    try:
        assert outbox.write([an_outcome("r2")]) == Written(spooled=1)
        assert outbox.write([an_outcome("r3"), an_outcome("r4")]) == Written(spooled=2)
    finally:
        admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true'.encode())
    assert outbox.write([an_outcome("r5")]) == Written(stored=1)
    assert stored(store) == ["r1", "r2", "r3", "r4", "r5"]


def test_a_database_without_tables_is_as_good_as_down(empty_store: Store, tmp_path: Path) -> None:
    assert Outbox(empty_store, tmp_path).write([an_outcome("r1")]) == Written(spooled=1)


def test_a_failed_store_is_left_alone_for_a_while(store: Store, tmp_path: Path) -> None:
    now = 100.0
    outbox = Outbox(with_domain(store), tmp_path, retry_s=5.0, clock=lambda: now)
    with store.write() as session:
        session.connection().exec_driver_sql("ALTER TABLE outcomes RENAME TO hidden")
    assert outbox.write([an_outcome("r1")]) == Written(spooled=1)
    with store.write() as session:
        session.connection().exec_driver_sql("ALTER TABLE hidden RENAME TO outcomes")
    now = 104.9
    assert outbox.write([an_outcome("r2")]) == Written(spooled=1)
    now = 105.0
    assert outbox.write([an_outcome("r3")]) == Written(stored=1)
    assert stored(store) == ["r1", "r2", "r3"]


def test_draining_twice_stores_once(store: Store, tmp_path: Path) -> None:
    with_domain(store)
    path = spooled(tmp_path, "r1", "r2")
    content = path.read_bytes()
    outbox = Outbox(store, tmp_path)
    assert outbox.drain() == Drained(stored=2)
    path.write_bytes(content)  # as if killed between the commit and the removal
    assert outbox.drain() == Drained(known=2)
    assert outbox.drain() == Drained()
    assert stored(store) == ["r1", "r2"]


def test_a_torn_last_line_is_reported_and_kept_and_the_rest_drains(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with_domain(store)
    path = spooled(tmp_path, "r1", "r2", "r3")
    path.write_bytes(path.read_bytes()[:-40])
    with caplog.at_level(logging.WARNING):
        assert Outbox(store, tmp_path).drain() == Drained(stored=2, rejected=1, torn=1)
    assert "1 unreadable lines, 1 of them torn by a crash" in caplog.text
    assert stored(store) == ["r1", "r2"]
    assert b'"request_id":"r3"' in Spool(tmp_path).rejected_path.read_bytes()


def test_a_line_after_a_torn_one_is_not_joined_to_it(store: Store, tmp_path: Path) -> None:
    with_domain(store)
    path = spooled(tmp_path, "r1", "r2")
    path.write_bytes(path.read_bytes()[:-40])
    Spool(tmp_path).append([an_outcome("r3")])
    assert Outbox(store, tmp_path).drain() == Drained(stored=2, rejected=1)
    assert stored(store) == ["r1", "r3"]


def test_a_row_the_store_will_never_take_holds_nobody_back(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    outbox = Outbox(with_domain(store), tmp_path)
    batch = [an_outcome("r1"), an_outcome("bad", domain="nobody"), an_outcome("r2")]
    assert outbox.write(batch) == Written(stored=2, rejected=1)
    assert stored(store) == ["r1", "r2"]
    assert "outcome bad refused" in caplog.text
    assert b'"nobody"' in Spool(tmp_path).rejected_path.read_bytes()


def test_a_full_disk_costs_the_record_and_never_the_answer(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with_domain(store)
    path = spooled(tmp_path, "r1")
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    # The kernel takes the first bytes and refuses the rest, as a disk does that fills up.
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 100, unlimited[1]))
    try:
        written = Outbox(open_store(NOWHERE), tmp_path).write([an_outcome("r2")])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    assert written == Written(lost=1)
    assert "1 outcomes lost: the store is down and the spool" in caplog.text
    assert os.strerror(errno.EFBIG) in caplog.text
    assert Outbox(store, tmp_path).drain() == Drained(stored=1)


def test_a_spool_folder_that_cannot_be_made_never_costs_the_answer(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    outbox = Outbox(open_store(NOWHERE), tmp_path / "file" / "spool")
    assert outbox.write([an_outcome("r1")]) == Written(lost=1)


def _spool_and_die(folder: Path) -> None:
    Outbox(open_store(NOWHERE), folder).write([an_outcome("from the dead")])
    os._exit(1)


def test_the_files_of_dead_processes_drain_too(store: Store, tmp_path: Path) -> None:
    with_domain(store)
    child = multiprocessing.get_context("spawn").Process(target=_spool_and_die, args=(tmp_path,))
    child.start()
    child.join()
    assert Outbox(store, tmp_path).write([an_outcome("r1")]) == Written(stored=1)
    assert stored(store) == ["from the dead", "r1"]


def test_a_file_that_another_process_holds_is_left_to_it(store: Store, tmp_path: Path) -> None:
    with_domain(store)
    path = spooled(tmp_path, "r1")
    with Spool(tmp_path).claim(path) as claimed:
        assert claimed is not None
        assert Outbox(store, tmp_path).drain() == Drained(left=1)
    assert Outbox(store, tmp_path).drain() == Drained(stored=1)


def test_appending_and_draining_at_once_loses_nothing(store: Store, tmp_path: Path) -> None:
    with_domain(store)
    spool = Spool(tmp_path)
    outbox = Outbox(store, tmp_path)

    def append(worker: int) -> None:
        for n in range(30):
            spool.append([an_outcome(f"w{worker}-{n}")])

    threads = [threading.Thread(target=append, args=(worker,)) for worker in range(3)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        outbox.drain()
    outbox.drain()
    found = stored(store)
    assert len(found) == 90
    for worker in range(3):
        mine = [name for name in found if name.startswith(f"w{worker}-")]
        assert mine == [f"w{worker}-{n}" for n in range(30)]
