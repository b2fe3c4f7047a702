"""The spool: one append-only file of JSON lines per process, in a folder workers may share."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rollout.store.records import OutcomeRecord

_LOADED_NS = time.time_ns()


@dataclass(frozen=True)
class SpoolFile:
    """A spool file whose lock is held."""

    path: Path
    descriptor: int

    def read(self) -> tuple[list[OutcomeRecord], list[bytes], int]:
        """Records in order, lines that are none, and how many of those were cut off at the end."""
        records: list[OutcomeRecord] = []
        bad: list[bytes] = []
        content = self.path.read_bytes()
        for line in content.splitlines(keepends=True):
            try:
                records.append(OutcomeRecord.from_json(json.loads(line)))
            except (ValueError, KeyError, TypeError, AttributeError):
                bad.append(line)
        torn = 1 if bad and not content.endswith(b"\n") and content.endswith(bad[-1]) else 0
        return records, bad, torn

    def remove(self) -> None:
        self.path.unlink()


class Spool:
    """Lines wait here, each file in the order it was written.

    A file is named by host, process and start, so that no two processes append to one file; an
    advisory lock on it keeps appending and draining apart and ends with the process that holds it,
    however that ends.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def rejected_path(self) -> Path:
        """Lines the store will never take, for a person to look at."""
        return self.folder / "rejected.txt"

    @staticmethod
    def line(record: OutcomeRecord) -> bytes:
        return json.dumps(record.to_json(), separators=(",", ":")).encode() + b"\n"

    def files(self) -> list[Path]:
        """The files that wait, by the time their processes started."""
        try:
            return sorted(self.folder.glob("outcomes-*.jsonl"))
        except OSError:
            return []

    def own_path(self) -> Path:
        """Where this process spools."""
        # Asked anew each time: a pool's child inherits this object by fork.
        return self.folder / f"outcomes-{_LOADED_NS}-{os.uname().nodename}-{os.getpid()}.jsonl"

    def append(self, records: Sequence[OutcomeRecord]) -> None:
        """Add the records to this process's file and wait until the disk has them: all or none.

        Raises:
            OSError: the disk is full, read-only or broken.
        """
        self._append(self.own_path(), b"".join(self.line(record) for record in records))

    def reject(self, lines: Sequence[bytes]) -> None:
        """Keep lines apart, each on a line of its own.

        Raises:
            OSError: as for `append`.
        """
        self._append(self.rejected_path, b"".join(line.rstrip(b"\n") + b"\n" for line in lines))

    @contextmanager
    def claim(self, path: Path) -> Iterator[SpoolFile | None]:
        """Hold a file's lock; None where another process holds it or has just removed the file."""
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            yield None
            return
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield None
                return
            yield SpoolFile(path, descriptor) if _is_at(descriptor, path) else None
        finally:
            os.close(descriptor)

    def _append(self, path: Path, data: bytes) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                if not _is_at(descriptor, path):
                    continue  # drained and removed between open and lock
                size = os.fstat(descriptor).st_size
                if size and os.pread(descriptor, 1, size - 1) != b"\n":
                    data = b"\n" + data  # a crash tore the last line: do not join it
                try:
                    _write_all(descriptor, data)
                    os.fsync(descriptor)
                except OSError:
                    os.ftruncate(descriptor, size)
                    raise
                return
            finally:
                os.close(descriptor)


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
