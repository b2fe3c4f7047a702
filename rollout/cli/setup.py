"""Commands that set a rollout up: init, migrate, validate, plan, apply, calibrate."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress
from rich.table import Table

from rollout.cli.shell import Json, actor, checked_store, err, now, out, print_json, settings, spec
from rollout.control.commands import policy_changed
from rollout.store.domains import DomainChange, apply, load_domain, plan, read_domain
from rollout.store.ledger import load_state, record_event, replace_state
from rollout.store.schema import upgrade
from rollout.store.session import open_store
from rollout.values import RolloutError

STARTING_FILES = {
    "rollout.yaml": "rollout.yaml",
    "labels/support.txt": "labels.txt",
    "prompts/support.j2": "prompt.j2",
}


def register(app: typer.Typer) -> None:
    app.command("init")(init)
    app.command("migrate")(migrate)
    app.command("validate")(validate)
    app.command("plan")(plan_command)
    app.command("apply")(apply_command)
    app.command("calibrate")(calibrate)


def init() -> None:
    """Write a rollout.yaml to start from, and create the database. Overwrites nothing.

    Example: `rollout --home billing init`
    """
    home = settings().home
    for name, asset in STARTING_FILES.items():
        path = home / name
        if (home / "rollout.yaml").exists() and name != "rollout.yaml":
            continue
        if path.exists():
            out.print(f"kept     {path} (it was there)")
            break
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(files("rollout.cli").joinpath("assets", asset).read_text("utf-8"), "utf-8")
        out.print(f"written  {path}")
    settings().var.mkdir(parents=True, exist_ok=True)
    store = open_store(settings().resolved_database_url)
    upgrade(store)
    out.print(f"database {store.address} is ready")
    out.print("next: put a model in place, edit rollout.yaml, then `rollout validate`")


def migrate() -> None:
    """Bring the database to the revision this program needs.

    Example: `ROLLOUT_DATABASE_URL=postgresql+psycopg://host/rollout rollout migrate`
    """
    store = open_store(settings().resolved_database_url)
    upgrade(store)
    out.print(f"database {store.address} is ready")


def validate() -> None:
    """Check rollout.yaml and every file it names. Exit code 2 where something is wrong.

    Example: `rollout validate`
    """
    checked = spec()
    for name, domain in checked.domains.items():
        read_domain(settings().home, name, domain)
    count = len(checked.domains)
    out.print(f"{settings().spec_path} is valid: {count} domain{'' if count == 1 else 's'}")


def plan_command(json: Json = False) -> None:
    """Show what `rollout apply` would change. Changes nothing but the ledger.

    Example: `rollout plan --json`
    """
    with checked_store().write() as session:
        changes = plan(session, spec(), settings().home)
        for change in changes:
            if change.lines and load_state(session, change.domain) is not None:
                record_event(
                    session,
                    domain=change.domain,
                    action="plan",
                    reason=f"planned by {actor()}: {'; '.join(change.lines)}",
                    actor=actor(),
                    now=now(),
                    facts={"changes": list(change.lines)},
                )
    _show(changes, json, "would change")


def apply_command(json: Json = False) -> None:
    """Apply rollout.yaml: new and changed domains go to the store. Never widens a domain's share.

    Example: `rollout apply`
    """
    with checked_store().write() as session:
        changes = apply(session, spec(), settings().home, actor=actor(), now=now())
    _show(changes, json, "changed")


def _show(changes: list[DomainChange], json: bool, verb: str) -> None:
    if json:
        print_json({change.domain: list(change.lines) for change in changes})
        return
    for change in changes:
        if not change.lines:
            out.print(f"[bold]{change.domain}[/]: nothing {verb.removeprefix('would ')}s")
            continue
        out.print(f"[bold]{change.domain}[/] {verb}:")
        for line in change.lines:
            out.print(f"  {line}", markup=False, highlight=False)


def calibrate(
    domain: Annotated[str, typer.Argument(help="A domain of rollout.yaml, applied before.")],
    texts: Annotated[
        Path, typer.Option(help="Past requests, unlabelled: .csv or .jsonl with `text`, or lines.")
    ],
    exit_layers: Annotated[
        str | None, typer.Option(help="Such as 2,4,6. Default: spread evenly, 8 at most.")
    ] = None,
    criterion: Annotated[
        str, typer.Option(help="learned, margin, top_probability or entropy.")
    ] = "learned",
    activate: Annotated[
        bool, typer.Option(help="Make it the live policy, shadow-only at first.")
    ] = True,
    json: Json = False,
) -> None:
    """Fit exit heads to the full model's own answers and certify a threshold: a new exit policy.

    Example: `rollout calibrate billing --texts last_month.csv`
    """
    # torch is slow to import, and only this command needs it.
    from rollout.engine.criteria import CRITERIA
    from rollout.engine.loading import load_model
    from rollout.engine.segments import Segments, check_exactness
    from rollout.serving.calibrate import calibrate_domain, read_texts

    if criterion not in CRITERIA:
        raise RolloutError(f"--criterion {criterion!r} is not one of {', '.join(CRITERIA)}")
    layers = None if exit_layers is None else _layers(exit_layers)
    store = checked_store()
    with store.read() as session:
        applied = load_domain(session, domain)
    past = read_texts(texts)
    model = spec().model
    segments = Segments(
        load_model(settings().home / model.id, device=model.device, dtype=model.dtype)
    )
    check_exactness(segments)
    with Progress(console=err, transient=True) as bar:
        running = bar.add_task("calibrating", total=None)
        done = calibrate_domain(
            segments,
            store,
            settings().heads,
            applied,
            past,
            criterion=criterion,
            exit_layers=layers,
            actor=actor(),
            now=now(),
            progress=lambda step, total: bar.update(running, completed=step, total=total),
        )
    if activate:
        with store.write() as session:
            found = load_state(session, domain)
            assert found is not None, "an applied domain has a state"
            changed = policy_changed(applied.spec, found[0], done.policy.version, now())
            replace_state(session, domain, changed, now())
    if json:
        print_json(
            {"version": done.policy.version, "activated": activate, "certificate": done.choice}
        )
        return
    table = Table("threshold", "certified", "agreement", "exit early", "net saving")
    for tried in done.choice.tried:
        chosen = tried.threshold == done.choice.threshold
        table.add_row(
            f"{tried.threshold:.4f}",
            "yes" if tried.certified else "no",
            f"{1 - tried.mismatches / done.choice.rows:.2%}",
            f"{tried.exit_share:.0%}",
            f"{tried.net_saving:.0%}",
            style="bold green" if chosen else None,
        )
    out.print(table)
    out.print(
        f"policy v{done.policy.version}: threshold {done.choice.threshold:.4f} at layers "
        f"{', '.join(map(str, done.policy.exit_layers))}; disagreement at most "
        f"{done.choice.certified_risk:.2%}, net saving {done.choice.net_saving:.0%}"
        + ("; live, shadow-only" if activate else "; not live")
    )


def _layers(text: str) -> tuple[int, ...]:
    try:
        return tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError as error:
        raise RolloutError(f"--exit-layers {text!r}: write numbers, such as 2,4,6") from error
