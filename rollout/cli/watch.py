"""Commands that look: status, history, explain."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from rollout.cli.shell import (
    Domain,
    Json,
    checked_store,
    now,
    out,
    print_json,
    print_rows,
    say,
    table_of,
)
from rollout.control.facts import percent
from rollout.control.verdicts import verdict_of
from rollout.store.domains import load_domain
from rollout.store.ledger import history
from rollout.store.models import DecisionRow
from rollout.store.queries import DomainStatus, Explanation, explain, status
from rollout.store.session import Store, StoreUnreachable
from rollout.values import RolloutError

COLUMNS = (
    "domain",
    "share",
    "mode",
    "policy",
    "agreement",
    "comparisons",
    "verdict",
    "why not further",
)
WIDE_COLUMNS = 110
"""From here the table of domains has room for reasons; below, each domain is a paragraph."""


def register(app: typer.Typer) -> None:
    for name, function in (
        ("status", status_command),
        ("history", history_command),
        ("explain", explain_command),
    ):
        app.command(name, rich_help_panel="Look")(function)


def status_command(
    watch: Annotated[bool, typer.Option("--watch", help="Keep showing, until Ctrl-C.")] = False,
    interval: Annotated[
        float, typer.Option(min=0.2, help="Seconds between looks, with --watch.")
    ] = 2.0,
    json: Json = False,
) -> None:
    """Where every domain stands, and why it is not further.

    Example: `rollout status --watch`
    """
    if watch and json:
        raise RolloutError("--watch is for people: call `rollout status --json` again instead")
    store = checked_store()
    if json:
        print_json([row.to_json() for row in _statuses(store)])
        return
    if not watch:
        _print(_statuses(store))
        return
    with Live(console=out, auto_refresh=False) as live:
        while True:
            live.update(_latest(store), refresh=True)
            time.sleep(interval)


def _latest(store: Store) -> RenderableType:
    """Who watches a database restart wants to see it come back."""
    try:
        return _shown(_statuses(store))
    except StoreUnreachable as error:
        return Text(str(error), "bold red")


def _statuses(store: Store) -> list[DomainStatus]:
    with store.read() as session:
        return status(session, now())


def _print(rows: list[DomainStatus]) -> None:
    if out.is_terminal or not rows:
        out.print(_shown(rows))
        return
    print_rows(COLUMNS, [_cells(row) for row in rows])
    for line in _incidents(rows):
        typer.echo(line.plain)


def _shown(rows: list[DomainStatus]) -> RenderableType:
    if not rows:
        return Text("no domain is applied yet: edit rollout.yaml, then `rollout apply`")
    domains: list[RenderableType] = (
        [table_of(COLUMNS, [_cells(row) for row in rows])]
        if out.width >= WIDE_COLUMNS
        else [_paragraph(row) for row in rows]
    )
    return Group(*domains, *_incidents(rows))


def _incidents(rows: list[DomainStatus]) -> list[Text]:
    return [
        Text.assemble(("open incident ", "bold red"), f"{row.domain}: {line}")
        for row in rows
        for line in row.open_incidents
    ]


def _paragraph(row: DomainStatus) -> RenderableType:
    domain, share, mode, policy, agreement, comparisons, verdict, reason = _cells(row)
    return Text.assemble(
        (domain, "bold"),
        f"  {share}, {mode}, policy {policy}\n"
        f"agreement {agreement}, comparisons {comparisons}, verdict {verdict}\n"
        f"{reason}\n",
    )


def _cells(row: DomainStatus) -> tuple[str, ...]:
    facts = row.facts
    interval = facts["interval"]
    return (
        row.domain,
        percent(facts["stage"]),
        "kill switch" if row.killed else row.mode,
        "none" if facts["policy_version"] is None else f"v{facts['policy_version']}",
        "not known yet"
        if facts["agreement"] is None
        else f"{facts['agreement']:.2%} ({interval[0]:.1%} to {interval[1]:.1%})",
        f"{facts['comparisons']:,}",
        row.verdict or "none",
        row.reason or "the controller has not looked yet",
    )


def history_command(
    domain: Domain,
    limit: Annotated[int, typer.Option(min=1, help="Rows to show, newest first.")] = 30,
    json: Json = False,
) -> None:
    """Every decision in a domain, with who and why. Unchanged holds are one row.

    Example: `rollout history billing --limit 10`
    """
    with checked_store().read() as session:
        load_domain(session, domain)
        rows = history(session, domain, limit)
    if json:
        print_json(
            [
                {
                    "id": row.id,
                    "at": row.at,
                    "last_at": row.last_at,
                    "repeats": row.repeats,
                    "action": row.action,
                    "verdict": verdict_of(row.rule),
                    "rule": row.rule,
                    "reason": row.reason,
                    "actor": row.actor,
                    "policy_version": row.policy_version,
                    "spec_hash": row.spec_hash,
                    "evidence": row.evidence,
                    "state_before": row.state_before,
                    "state_after": row.state_after,
                }
                for row in rows
            ]
        )
        return
    if not rows:
        say(f"nothing was decided in {domain} yet")
        return
    print_rows(
        ("at (UTC)", "action", "verdict", "by", "reason"),
        [
            (_when(row), row.action, verdict_of(row.rule) or "", row.actor, row.reason)
            for row in rows
        ],
    )


def _when(row: DecisionRow) -> str:
    times = "" if row.repeats == 1 else f" ×{row.repeats} until {row.last_at:%m-%d %H:%M}"
    return f"{row.at:%Y-%m-%d %H:%M}{times}"


def explain_command(
    request_id: Annotated[str, typer.Argument(help="The request's id.")], json: Json = False
) -> None:
    """Why one request was answered as it was: layer, confidence, threshold, policy, arm, shadow.

    Example: `rollout explain 7c1f-42`
    """
    with checked_store().read() as session:
        found = explain(session, request_id)
    if json:
        print_json(found.to_json())
        return
    for line in _sentences(found):
        say(line)
    if found.exits:
        points = [_exit_cells(point, found) for point in found.exits]
        points.append([str(found.outcome["depth"]), str(found.outcome["full_answer"]), "", "", ""])
        columns = ("exit layer", "would have answered", "confidence", "threshold", "")
        print_rows(columns, points)


def _sentences(found: Explanation) -> list[str]:
    row = found.outcome
    layer, depth = row["exit_layer"], row["depth"]
    where = (
        f"at layer {layer} of {depth}" if layer is not None else f"at full depth ({depth} layers)"
    )
    lines = [f"{row['answer']} {where}, domain {row['domain']}, {row['created_at']}"]
    policy = "no policy" if row["policy_version"] is None else f"policy v{row['policy_version']}"
    share = f"{percent(row['stage_weight'])} of traffic could exit early"
    lines.append(f"arm: {row['arm']} ({share}), {policy}, model {row['model_revision'][:12]}")
    if layer is not None:
        lines.append(
            f"why: confidence {row['confidence']:.4f} reached the threshold "
            f"{row['threshold']:.4f} there"
        )
    elif row["fallback_reason"]:
        lines.append(f"why: {row['fallback_reason']}")
    elif row["arm"] == "control":
        lines.append("why: the control arm always gets full depth")
    lines.append(f"shadow: {_shadow(row)}")
    if row["replay_answer"] is not None:
        verdict = "the same" if row["replay_matches"] else "NOT the same"
        lines.append(f"replay from scratch: {row['replay_answer']}, {verdict}")
    if found.decision is not None:
        lines.append(f"stage then: {found.decision['reason']} ({found.decision['at']})")
    return lines


def _shadow(row: dict[str, Any]) -> str:
    if row["not_comparable"]:
        return f"not comparable: {row['not_comparable']}"
    if row["agreement"] is None:
        if row["policy_version"] is None:
            return "nothing to compare, there was no policy"
        return f"not drawn (rate {percent(row['inclusion_probability'])})"
    verdict = "agrees with" if row["agreement"] == 1.0 else "differs from"
    subject = "the answer" if row["arm"] == "early" else "what the policy would have said"
    return f"{subject} {verdict} full depth ({row['full_answer']})"


def _exit_cells(point: dict[str, Any], found: Explanation) -> list[str]:
    threshold = point["threshold"]
    confidence = point["confidence"]
    taken = point["layer"] == found.outcome["policy_exit_layer"]
    return [
        str(point["layer"]),
        point["answer"],
        "not finite" if confidence is None else f"{confidence:.4f}",
        "" if threshold is None else f"{threshold:.4f}",
        "exit" if taken else "",
    ]
