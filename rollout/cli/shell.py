"""What the commands share: the consoles, the store, who is acting, JSON output."""

from __future__ import annotations

import contextlib
import dataclasses
import getpass
import json
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rollout.control.spec import Spec, load_spec
from rollout.settings import Settings
from rollout.store.schema import SchemaError, check_revision
from rollout.store.session import Store, open_store

opened = contextlib.ExitStack()
"""The stores of this command; `main` closes them."""

Domain = Annotated[str, typer.Argument(help="A domain of rollout.yaml.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]
Why = Annotated[str, typer.Option("--why", help="Reason, kept in the ledger.")]


# A label or a reason in [brackets] is no markup.
out = Console(markup=False, highlight=False)
err = Console(stderr=True, markup=False, highlight=False)


def say(line: str | Text) -> None:
    """One line, however long: the terminal wraps it, a pipe keeps it whole."""
    out.print(line, soft_wrap=True)


def print_rows(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table for people; one tab-separated line a row for a file or a pipe, so `grep` finds it."""
    if out.is_terminal:
        out.print(table_of(columns, rows))
        return
    for row in [columns, *rows]:
        typer.echo("\t".join(row))


def table_of(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(*columns, box=box.SIMPLE_HEAD, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    return table


def now() -> datetime:
    return datetime.now(UTC)


def actor() -> str:
    """Who is acting, for the ledger."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        # A container may run under a number that no account has.
        return f"uid {os.getuid()}"


def settings() -> Settings:
    return Settings()


def spec() -> Spec:
    return load_spec(settings().spec_path)


def checked_store() -> Store:
    """The store, with its tables at the revision this program needs.

    Raises:
        RolloutError: unreachable, behind, ahead or empty, with the way out.
    """
    here = settings()
    if here.lacks_database:
        # Opening it would leave an empty database where --home was mistyped.
        raise SchemaError(
            f"there is no database at {here.database_path}: run `rollout init`, or name the "
            "rollout's folder with --home"
        )
    store = opened_store()
    check_revision(store)
    return store


def opened_store() -> Store:
    """The store, whatever its tables are."""
    store = open_store(settings().resolved_database_url)
    opened.callback(store.close)
    return store


def print_json(value: Any) -> None:
    """Plain JSON to standard output: dataclasses as objects, times in ISO 8601."""

    def plain(item: Any) -> Any:
        if dataclasses.is_dataclass(item) and not isinstance(item, type):
            return dataclasses.asdict(item)
        if isinstance(item, datetime):
            return item.isoformat()
        return str(item)

    typer.echo(json.dumps(value, default=plain, indent=2, ensure_ascii=False))
