"""Commands that ask the controller: why not further, what would another spec have done."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer

from rollout.cli.shell import Domain, Json, checked_store, now, print_json, print_rows, say
from rollout.control.durations import parse_duration
from rollout.control.facts import count_of, percent
from rollout.control.outlook import Outlook
from rollout.control.spec import load_spec
from rollout.simulation.rerun import Rerun, counts, rerun, side_by_side, to_json
from rollout.store.domains import load_domain
from rollout.store.models import DecisionRow
from rollout.store.outlook import domain_outlook
from rollout.store.past import Past, PastRow, decided_again, load_past, past_requests
from rollout.store.queries import open_incidents
from rollout.values import RolloutError

EFFECTIVE = frozenset(
    {"promote", "loosen", "tighten", "narrow", "roll_back", "abort", "pause", "resume", "approve"}
)
"""Actions that stand in both ledgers."""


def register(app: typer.Typer) -> None:
    app.command("why", rich_help_panel="Look")(why)
    app.command("replay", rich_help_panel="Look")(replay)


def why(domain: Domain, json: Json = False) -> None:
    """Why a domain is not further: what is missing, how long that takes, what happens then.

    Example: `rollout why billing`
    """
    with checked_store().read() as session:
        found = domain_outlook(session, domain, now())
        incidents = [f"{one.kind}: {one.summary}" for one in open_incidents(session, domain)]
    if json:
        print_json({"domain": domain} | found.to_json() | {"open_incidents": incidents})
        return
    for line in _reasons(domain, found):
        say(line)
    for incident in incidents:
        say(f"open incident {incident}")


def _reasons(domain: str, found: Outlook) -> list[str]:
    facts, decision = found.decision.facts, found.decision
    budget = facts["error_budget"]
    policy = (
        "no policy" if facts["policy_version"] is None else f"policy v{facts['policy_version']}"
    )
    lines = [
        f"{domain}: {percent(facts['stage'])} of traffic, {policy}; verdict {decision.verdict} "
        f"({decision.rule})",
        f"why: {decision.reason}",
        f"needs: {found.needs}",
        f"then: {found.then}",
    ]
    if facts["chance_wrong"]:
        lines.append(
            "error budget: chance that this promotion is wrong: at most "
            f"{percent(facts['chance_wrong'])}; of the {percent(budget['alpha'])} for all that "
            f"this policy tries for, {percent(budget['spent'])} spent, "
            f"{percent(budget['left'])} left"
        )
    lines.append(f"shadow rate: {percent(facts['shadow_rate'])}, {facts['shadow_reason']}")
    if facts["setbacks"]:
        lines.append(f"setbacks lately: {', '.join(facts['setbacks'])}")
    return lines


def replay(
    domain: Annotated[
        str | None, typer.Argument(help="A domain; not with --decision.", show_default=False)
    ] = None,
    spec: Annotated[
        Path | None,
        typer.Option("--spec", help="Another rollout.yaml to run over the past."),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option("--since", help="From here on: 2026-11-16, or a span such as 7d."),
    ] = None,
    every: Annotated[
        str | None,
        typer.Option("--every", help="Span between ticks, such as 5m. Default: the ledger's."),
    ] = None,
    decision: Annotated[
        int | None,
        typer.Option("--decision", help="Make this stored decision again, from its row."),
    ] = None,
    json: Json = False,
) -> None:
    """Run a new spec over the stored past, and see what it would have decided otherwise.

    Comparisons are those that were made then. With --decision: make one decision again from its
    stored row, and tell whether it is the same.

    Example: `rollout replay billing --spec new.yaml --since 7d`
    """
    if decision is not None:
        if domain is not None or spec is not None:
            raise RolloutError("--decision goes without a domain and --spec: its row names both")
        _replay_decision(decision, json)
        return
    if domain is None or spec is None:
        raise RolloutError(
            "name a domain and --spec (`rollout replay billing --spec new.yaml`), or a --decision"
        )
    wanted = load_spec(spec).domains.get(domain)
    if wanted is None:
        raise RolloutError(f"{spec} has no domain {domain!r}")
    with checked_store().read() as session:
        load_domain(session, domain)
        past = load_past(session, domain, _moment(since), now())
        between = past.between_ticks if every is None else _span(every)
        requests = past_requests(session, domain, wanted, past.start, past.end)
        found = rerun(wanted, past, requests, between)
    stored = [row for row in past.rows if row.action in EFFECTIVE]
    if json:
        print_json(_told(domain, past, between, stored, found))
        return
    _print(past, between, stored, found)


def _told(
    domain: str, past: Past, between: timedelta, stored: list[PastRow], found: Rerun
) -> dict[str, Any]:
    return {
        "domain": domain,
        "start": past.start,
        "end": past.end,
        "between_ticks_s": between.total_seconds(),
        "stored": {"counts": counts(stored), "moves": [to_json(row) for row in stored]},
        "replayed": {
            "counts": counts(found.moves),
            "moves": [to_json(row) for row in found.moves],
            "holds": found.holds,
            "mean_share": found.mean_share,
            "last_reason": None if found.last is None else found.last.reason,
        },
    }


def _print(past: Past, between: timedelta, stored: list[PastRow], found: Rerun) -> None:
    lines = side_by_side(stored, found.moves, between)
    print_rows(
        ("at (UTC)", "as it was", "under the new spec"),
        [[f"{one.at:%Y-%m-%d %H:%M}", _move(one.stored), _move(one.rerun)] for one in lines],
    )
    then, now_ = counts(stored), counts(found.moves)
    print_rows(
        ("", *then),
        [
            ["as it was", *map(str, then.values())],
            ["under the new spec", *map(str, now_.values())],
        ],
    )
    last = "" if found.last is None else f"; at the end: {found.last.reason}"
    say(
        f"{past.start:%Y-%m-%d %H:%M} to {past.end:%Y-%m-%d %H:%M}, "
        f"{count_of(found.holds, 'hold')}, {percent(found.mean_share)} of traffic on average{last}"
    )


def _move(row: PastRow | None) -> str:
    if row is None:
        return ""
    shares = [percent(share) for share in (row.before, row.after) if share is not None]
    return f"{row.action} {' -> '.join(dict.fromkeys(shares))} ({row.rule}, {row.actor})"


def _replay_decision(decision_id: int, json: bool) -> None:
    with checked_store().read() as session:
        row, again = decided_again(session, decision_id)
        differences = _differences(row, again.to_json())
    if json:
        print_json(
            {"id": decision_id, "equal": not differences, "differences": differences}
            | {"decided_again": again.to_json()}
        )
        return
    if not differences:
        say(f"decision {decision_id} ({row.action}, {row.rule}) comes out the same: {row.reason}")
        return
    say(f"decision {decision_id} comes out otherwise:")
    print_rows(("", "stored", "made again"), differences)


def _differences(row: DecisionRow, again: dict[str, Any]) -> list[list[str]]:
    """What differs, a line each: name, stored, made again."""
    stored = {"action": row.action, "rule": row.rule, "reason": row.reason}
    pairs: list[tuple[str, Any, Any]] = [
        (name, value, again[name]) for name, value in stored.items()
    ]
    after = again["state_after"]
    pairs += [(f"state.{name}", row.state_after.get(name), after[name]) for name in after]
    return [[name, str(old), str(new)] for name, old, new in pairs if old != new]


def _span(text: str) -> timedelta:
    try:
        span = parse_duration(text)
    except ValueError as error:
        raise RolloutError(f"--every: {error}") from None
    if not span:
        raise RolloutError("--every: a span between ticks must be longer than 0s")
    return span


def _moment(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        at = datetime.fromisoformat(text)
        return at if at.tzinfo is not None else at.replace(tzinfo=UTC)
    except ValueError:
        pass
    try:
        return now() - parse_duration(text)
    except ValueError:
        raise RolloutError(
            f"--since: {text!r} is neither a date (2026-11-16T09:00) nor a span (7d)"
        ) from None
