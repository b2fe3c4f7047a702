"""Commands that look: status, history, explain."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer
from rich.console import Group
from rich.live import Live
from rich.table import Table

from rollout.cli.shell import Json, checked_store, now, out, print_json
from rollout.control.facts import percent
from rollout.store.domains import load_domain
from rollout.store.ledger import history
from rollout.store.queries import DomainStatus, Explanation, explain, status
from rollout.store.session import Store

Domain = Annotated[str, typer.Argument(help="A domain of rollout.yaml.")]


def register(app: typer.Typer) -> None:
    app.command("status")(status_command)
    app.command("history")(history_command)
    app.command("explain")(explain_command)


def status_command(
    watch: Annotated[bool, typer.Option("--watch", help="Keep showing, until Ctrl-C.")] = False,
    interval: Annotated[float, typer.Option(min=0.2, help="Seconds between looks.")] = 2.0,
    json: Json = False,
) -> None:
    """Where every domain stands, and why it is not further.

    Example: `rollout status --watch`
    """
    store = checked_store()
    if json:
        print_json([row.to_json() for row in _statuses(store)])
        return
    if not watch:
        out.print(_status_table(_statuses(store)))
        return
    with Live(_status_table(_statuses(store)), console=out, auto_refresh=False) as live:
        while True:
            time.sleep(interval)
            live.update(_status_table(_statuses(store)), refresh=True)


def _statuses(store: Store) -> list[DomainStatus]:
    with store.read() as session:
        return status(session, now())


def _status_table(rows: list[DomainStatus]) -> Table | Group | str:
    if not rows:
        return "no domain is applied yet: edit rollout.yaml, then `rollout apply`"
    table = Table(
        "domain", "share", "mode", "policy", "agreement", "comparisons", "why not further"
    )
    for row in rows:
        facts = row.facts
        interval = facts["interval"]
        agreement = (
            "not known yet"
            if facts["agreement"] is None
            else f"{facts['agreement']:.2%} ({interval[0]:.1%} to {interval[1]:.1%})"
        )
        policy = "none" if facts["policy_version"] is None else f"v{facts['policy_version']}"
        table.add_row(
            row.domain,
            percent(facts["stage"]),
            "kill switch" if row.killed else row.mode,
            policy,
            agreement,
            f"{facts['comparisons']:,}",
            row.reason or "the controller has not looked yet",
        )
    incidents = [f"{row.domain}: {line}" for row in rows for line in row.open_incidents]
    return Group(table, *(f"[bold red]open incident[/] {line}" for line in incidents))


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
    table = Table("at (UTC)", "action", "by", "reason")
    for row in rows:
        times = "" if row.repeats == 1 else f" ×{row.repeats} until {row.last_at:%m-%d %H:%M}"
        table.add_row(f"{row.at:%Y-%m-%d %H:%M}{times}", row.action, row.actor, row.reason)
    out.print(table if rows else f"nothing was decided in {domain} yet")


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
        out.print(line, highlight=False)
    if found.exits:
        table = Table("exit layer", "would have answered", "confidence", "threshold", "")
        for point in found.exits:
            table.add_row(*_exit_cells(point, found))
        table.add_row(str(found.outcome["depth"]), str(found.outcome["full_answer"]), "", "", "")
        out.print(table)


def _sentences(found: Explanation) -> list[str]:
    row = found.outcome
    layer, depth = row["exit_layer"], row["depth"]
    where = (
        f"at layer {layer} of {depth}" if layer is not None else f"at full depth ({depth} layers)"
    )
    lines = [f"[bold]{row['answer']}[/] {where}, domain {row['domain']}, {row['created_at']}"]
    policy = "no policy" if row["policy_version"] is None else f"policy v{row['policy_version']}"
    share = f"{row['stage_weight']:.0%} of traffic could exit early"
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
        return f"not drawn (rate {row['inclusion_probability']:.0%})"
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
