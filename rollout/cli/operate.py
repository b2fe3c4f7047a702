"""Commands by which a person overrules the controller. Each leaves a row with who and why."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from rollout.cli.shell import Domain, Json, Why, actor, checked_store, now, print_json, say
from rollout.control.commands import Verb, command
from rollout.store.catalog import set_kill_switch
from rollout.store.domains import load_domain
from rollout.store.ledger import commit_decision, load_state
from rollout.values import RolloutError


class OnOff(StrEnum):
    on = "on"
    off = "off"


def register(app: typer.Typer) -> None:
    for name, function in (
        ("pause", pause),
        ("resume", resume),
        ("promote", promote),
        ("abort", abort),
        ("kill-switch", kill_switch),
    ):
        app.command(name, rich_help_panel="Overrule the controller")(function)


def pause(domain: Domain, why: Why = "", json: Json = False) -> None:
    """Keep a domain from being promoted. Rollback stays live.

    Example: `rollout pause billing --why "price change on Monday"`
    """
    _command(domain, "pause", why, json)


def resume(domain: Domain, why: Why = "", json: Json = False) -> None:
    """Let a paused or aborted domain go on.

    Example: `rollout resume billing`
    """
    _command(domain, "resume", why, json)


def promote(domain: Domain, why: Why = "", json: Json = False) -> None:
    """Approve the next stage where it waits for that, else enter it now, without waiting.

    Example: `rollout promote billing --why "checked by hand"`
    """
    _command(domain, "promote", why, json)


def abort(domain: Domain, why: Why = "", json: Json = False) -> None:
    """Send a domain's whole traffic to full depth until `rollout resume`.

    Example: `rollout abort billing --why "complaints"`
    """
    _command(domain, "abort", why, json)


def kill_switch(
    position: Annotated[
        OnOff, typer.Argument(help="on: full depth for everybody; off: as decided per domain.")
    ],
    why: Why = "",
    json: Json = False,
) -> None:
    """Full depth for all new requests of all domains, within two seconds.

    Example: `rollout kill-switch on --why incident-4711`
    """
    with checked_store().write() as session:
        moved = set_kill_switch(
            session, on=position is OnOff.on, actor=actor(), reason=why, now=now()
        )
    if json:
        print_json({"kill_switch": position.value, "moved": moved})
        return
    say(f"kill switch is {position.value}{'' if moved else ' (it was before)'}")


def _command(domain: str, verb: Verb, why: str, json: bool) -> None:
    with checked_store().write() as session:
        applied = load_domain(session, domain)
        # Locked: a person's abort must not lose its race against the controller's next tick.
        found = load_state(session, domain, locked=True)
        if found is None:
            raise RolloutError(f"domain {domain!r} has no state: run `rollout apply`")
        state, lock_version = found
        decision = command(applied.spec, state, verb, actor(), why, now())
        commit_decision(
            session,
            domain=domain,
            lock_version=lock_version,
            decision=decision,
            state_before=state,
            actor=actor(),
            spec_hash=applied.spec_hash,
            now=now(),
        )
    if json:
        after = decision.state_after
        print_json(
            {
                "domain": domain,
                "action": decision.action,
                "reason": decision.reason,
                "stage": after.stage_weight(applied.spec),
                "mode": after.mode,
            }
        )
        return
    say(decision.reason)
