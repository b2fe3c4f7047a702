"""What the commands share: the consoles, the store, who is acting, JSON output."""

from __future__ import annotations

import dataclasses
import getpass
import json
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.console import Console

from rollout.control.spec import Spec, load_spec
from rollout.settings import Settings
from rollout.store.schema import check_revision
from rollout.store.session import Store, open_store

out = Console()
err = Console(stderr=True)

Json = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]
Why = Annotated[str, typer.Option("--why", help="Reason, kept in the ledger.")]


def now() -> datetime:
    return datetime.now(UTC)


def actor() -> str:
    """Who is acting, for the ledger."""
    return getpass.getuser()


def settings() -> Settings:
    return Settings()


def spec() -> Spec:
    return load_spec(settings().spec_path)


def checked_store() -> Store:
    """The store, with its tables at the revision this program needs.

    Raises:
        RolloutError: unreachable, behind, ahead or empty, with the way out.
    """
    store = open_store(settings().resolved_database_url)
    check_revision(store)
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
