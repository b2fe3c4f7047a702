"""Outcomes on their way to the store: into the database, or to a local spool while it is down."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.exc import DataError, IntegrityError, SQLAlchemyError, StatementError

from rollout.serving.spool import Spool, SpoolFile
from rollout.store.outcomes import insert_outcomes
from rollout.store.records import OutcomeRecord
from rollout.store.session import Store, StoreUnreachable

log = logging.getLogger(__name__)

ROWS_PER_TRANSACTION = 500


@dataclass(frozen=True)
class Written:
    """What became of a batch.

    Attributes:
        stored: Rows new in the database.
        spooled: Rows that wait in the local spool.
        rejected: Rows the database will never take (kept in the spool's rejected file).
        lost: Rows that neither took: the disk is full or read-only. Logged as an error.
    """

    stored: int = 0
    spooled: int = 0
    rejected: int = 0
    lost: int = 0


@dataclass(frozen=True)
class Drained:
    """What moved from the spool to the store.

    Attributes:
        stored: Rows new in the database.
        known: Rows that were there already.
        rejected: Unreadable lines and rows the database will never take (in the rejected file).
        torn: Lines cut off by a crash in the middle of a write, among the rejected.
        left: Files that still wait: the store failed again, or another process drains them.
    """

    stored: int = 0
    known: int = 0
    rejected: int = 0
    torn: int = 0
    left: int = 0


class Outbox:
    """Writes outcomes; while the store is down, keeps them on local disk, in order.

    Never raises for a store or disk that fails: an answer must not be lost to its bookkeeping.

    Args:
        spool_dir: Local folder; workers of one machine may share it.
        retry_s: After a failure the store is left alone this long, so that a store which takes
            seconds to fail does not slow every batch.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        store: Store,
        spool_dir: Path,
        *,
        retry_s: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._spool = Spool(spool_dir)
        self._retry_s = retry_s
        self._clock = clock
        self._retry_at = float("-inf")

    def write(self, records: Sequence[OutcomeRecord]) -> Written:
        """Store a batch in one transaction, after whatever waits in the spool."""
        if not records:
            return Written()
        if self._clock() < self._retry_at:
            return self._keep(records)
        if self._spool.files() and not self._drain()[1]:
            # Later rows must not overtake those that wait.
            return self._keep(records)
        try:
            stored, refused = self._insert(records)
        except (StoreUnreachable, SQLAlchemyError) as error:
            self._failed(error)
            return self._keep(records)
        return Written(stored=stored, rejected=self._reject(refused))

    def drain(self) -> Drained:
        """Move spooled outcomes to the store, oldest file first, each file in its order.

        Safe to interrupt and to run in several processes: rows are known by their request id, and a
        file is held by its lock (which dies with its process) until it is empty. Files of dead
        processes are drained like one's own.
        """
        return self._drain()[0]

    def _drain(self) -> tuple[Drained, bool]:
        """What moved, and whether the store took all that was offered."""
        total = Drained()
        files = self._spool.files()
        for position, path in enumerate(files):
            try:
                with self._spool.claim(path) as claimed:
                    moved = Drained(left=1) if claimed is None else self._drain_file(claimed)
            except OSError as error:
                # One broken file must not hold back the others.
                log.error("spool file %s cannot be drained: %s", path, error)
                moved = Drained(left=1)
            except (StoreUnreachable, SQLAlchemyError) as error:
                self._failed(error)
                return _add(total, Drained(left=len(files) - position)), False
            total = _add(total, moved)
        if total.stored or total.known or total.rejected:
            log.info("spool drained: %s", total)
        return total, True

    def _drain_file(self, claimed: SpoolFile) -> Drained:
        records, bad_lines, torn = claimed.read()
        stored = 0
        refused: list[OutcomeRecord] = []
        for start in range(0, len(records), ROWS_PER_TRANSACTION):
            added, failed = self._insert(records[start : start + ROWS_PER_TRANSACTION])
            stored += added
            refused += failed
        if bad_lines:
            log.warning(
                "%s: %d unreadable lines, %d of them torn by a crash; kept in %s",
                claimed.path, len(bad_lines), torn, self._spool.rejected_path,
            )  # fmt: skip
        if bad_lines or refused:
            self._spool.reject([*bad_lines, *(self._spool.line(record) for record in refused)])
        claimed.remove()
        return Drained(
            stored=stored,
            known=len(records) - stored - len(refused),
            rejected=len(bad_lines) + len(refused),
            torn=torn,
        )

    def _insert(self, records: Sequence[OutcomeRecord]) -> tuple[int, list[OutcomeRecord]]:
        """Rows added, and those the database will never take (an unknown domain, a broken value).

        Raises:
            StoreUnreachable, SQLAlchemyError: the store as a whole fails; nothing was refused.
        """
        try:
            with self._store.write() as session:
                return insert_outcomes(session, records), []
        except (IntegrityError, DataError, StatementError) as error:
            if not _is_about_values(error):
                raise
            if len(records) == 1:
                log.error("outcome %s refused: %s", records[0].request_id, error)
                return 0, [records[0]]
        stored = 0
        refused: list[OutcomeRecord] = []
        for record in records:
            added, failed = self._insert([record])
            stored += added
            refused += failed
        return stored, refused

    def _keep(self, records: Sequence[OutcomeRecord]) -> Written:
        try:
            self._spool.append(records)
        except OSError as error:
            log.error(
                "%d outcomes lost: the store is down and the spool %s cannot be written: %s. "
                "Answers go on; free the disk or mend the store",
                len(records), self._spool.folder, error,
            )  # fmt: skip
            return Written(lost=len(records))
        return Written(spooled=len(records))

    def _reject(self, records: Sequence[OutcomeRecord]) -> int:
        if records:
            try:
                self._spool.reject([self._spool.line(record) for record in records])
            except OSError as error:
                log.error("%d refused outcomes lost: %s", len(records), error)
        return len(records)

    def _failed(self, error: Exception) -> None:
        self._retry_at = self._clock() + self._retry_s
        log.warning("outcomes wait in %s: %s", self._spool.folder, error)


def _is_about_values(error: StatementError) -> bool:
    """Whether the row is to blame. A bare StatementError is a value the driver never saw."""
    return isinstance(error, IntegrityError | DataError) or type(error) is StatementError


def _add(a: Drained, b: Drained) -> Drained:
    return Drained(
        stored=a.stored + b.stored,
        known=a.known + b.known,
        rejected=a.rejected + b.rejected,
        torn=a.torn + b.torn,
        left=a.left + b.left,
    )
