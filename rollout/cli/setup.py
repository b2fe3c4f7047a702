"""Commands that set a rollout up: init, migrate, validate, plan, apply, calibrate."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress
from rich.text import Text

from rollout.cli.calibrated import save_reliability_figure, show_calibration
from rollout.cli.shell import (
    Json,
    actor,
    checked_store,
    err,
    now,
    opened_store,
    print_json,
    say,
    settings,
    spec,
)
from rollout.store.domains import (
    DomainChange,
    apply,
    left_out,
    load_domain,
    plan,
    read_domain,
)
from rollout.store.ledger import load_state, record_event
from rollout.store.schema import upgrade
from rollout.values import RolloutError

STARTING_FILES = {
    "rollout.yaml": "rollout.yaml",
    "labels/support.txt": "labels.txt",
    "prompts/support.j2": "prompt.j2",
}


def register(app: typer.Typer) -> None:
    for name, function in (
        ("init", init),
        ("migrate", migrate),
        ("validate", validate),
        ("plan", plan_command),
        ("apply", apply_command),
        ("calibrate", calibrate),
    ):
        app.command(name, rich_help_panel="Set up")(function)


def init() -> None:
    """Write a rollout.yaml to start from, and create the database. Overwrites nothing.

    Example: `rollout --home billing init`
    """
    here = settings()
    # A rollout.yaml that is there names files of its own.
    wanted = {"rollout.yaml": ""} if here.spec_path.exists() else STARTING_FILES
    try:
        for name, asset in wanted.items():
            path = here.home / name
            if path.exists():
                say(f"kept     {path} (it was there)")
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            text = files("rollout.cli").joinpath("assets", asset).read_text("utf-8")
            path.write_text(text, encoding="utf-8")
            say(f"written  {path}")
        here.var.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RolloutError(f"cannot write {error.filename}: {error.strerror}") from error
    _upgrade()
    say(
        f"next: put a model in place, edit {here.spec_path}, then `rollout validate`, `rollout "
        "apply` and `rollout calibrate`"
    )


def migrate() -> None:
    """Bring the database to the revision this program needs.

    Example: `ROLLOUT_DATABASE_URL=postgresql+psycopg://host/rollout rollout migrate`
    """
    _upgrade()


def _upgrade() -> None:
    store = opened_store()
    upgrade(store)
    say(f"database {store.address} is ready")


def validate() -> None:
    """Check rollout.yaml and every file it names. Exit code 2 where something is wrong.

    Example: `rollout validate`
    """
    checked = spec()
    for name, domain in checked.domains.items():
        read_domain(settings().home, name, domain)
    model = settings().home / checked.model.id
    if not (model / "config.json").is_file():
        raise RolloutError(
            f"model.id: {model} has no config.json; name a folder written by save_pretrained()"
        )
    count = len(checked.domains)
    say(f"{settings().spec_path} is valid: {count} domain{'' if count == 1 else 's'}")


def plan_command(json: Json = False) -> None:
    """Show what `rollout apply` would change. Changes nothing but the ledger.

    Example: `rollout plan --json`
    """
    wanted = spec()
    with checked_store().write() as session:
        changes = plan(session, wanted, settings().home)
        others = left_out(session, wanted)
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
    _show(changes, others, json, "would change", "nothing would change")


def apply_command(json: Json = False) -> None:
    """Apply rollout.yaml: new and changed domains go to the store. Never widens a domain's share.

    Example: `rollout apply`
    """
    wanted = spec()
    with checked_store().write() as session:
        changes = apply(session, wanted, settings().home, actor=actor(), now=now())
        others = left_out(session, wanted)
    _show(changes, others, json, "changed", "nothing to change")


def _show(
    changes: list[DomainChange], others: list[str], json: bool, verb: str, nothing: str
) -> None:
    if json:
        print_json({change.domain: list(change.lines) for change in changes})
    else:
        for change in changes:
            name = Text(change.domain, "bold")
            if not change.lines:
                say(name + f": {nothing}")
                continue
            say(name + f" {verb}:")
            for line in change.lines:
                say(f"  {line}")
    for other in others:
        err.print(
            f"note: {other} is no longer in rollout.yaml and runs on as last applied; "
            f"`rollout abort {other}` takes it to full depth",
            soft_wrap=True,
        )


def calibrate(
    domain: Annotated[str, typer.Argument(help="A domain of rollout.yaml, applied before.")],
    texts: Annotated[
        Path, typer.Option(help="Past requests, unlabelled: .csv or .jsonl with `text`, or lines.")
    ],
    exit_layers: Annotated[
        str, typer.Option(help="Such as 2,4,6; auto: those that save most.")
    ] = "auto",
    head: Annotated[
        str,
        typer.Option(
            help="logit_lens, tuned_lens or label_head; auto: label_head or logit_lens, whichever "
            "saves more."
        ),
    ] = "auto",
    criterion: Annotated[
        str,
        typer.Option(
            help="top_probability, margin, entropy, patience, saturation, learned or learned_svm; "
            "auto: the one that saves most."
        ),
    ] = "auto",
    activate: Annotated[
        bool, typer.Option(help="Make it the live policy, shadow-only at first.")
    ] = True,
    json: Json = False,
) -> None:
    """Fit exit heads to the full model's own answers and certify a threshold: a new exit policy.

    Texts too few to certify the domain's target still make a policy: it is shadowed, and serves
    nobody until live comparisons earn it a promotion. 16 texts are the least.

    Example: `rollout calibrate billing --texts last_month.csv`
    """
    # torch is slow to import, and only this command needs it.
    from rollout.engine.criteria import CRITERIA
    from rollout.engine.heads import HEAD_KINDS
    from rollout.serving.calibrate import calibrate_domain
    from rollout.serving.model import load_checked
    from rollout.serving.past import read_texts

    for option, chosen, known in (("criterion", criterion, CRITERIA), ("head", head, HEAD_KINDS)):
        if chosen not in ("auto", *known):
            raise RolloutError(f"--{option} {chosen!r} is not one of auto, {', '.join(known)}")
    layers = None if exit_layers == "auto" else _layers(exit_layers)
    model = spec().model
    store = checked_store()
    with store.read() as session:
        applied = load_domain(session, domain)
    past = read_texts(texts)
    segments = load_checked(settings().home, model)
    with Progress(console=err, transient=True, disable=not err.is_terminal) as bar:
        running = bar.add_task("calibrating", total=None)
        done = calibrate_domain(
            segments,
            store,
            settings().heads,
            applied,
            past,
            criterion=criterion,
            head=head,
            exit_layers=layers,
            activate=activate,
            actor=actor(),
            now=now(),
            progress=lambda step, total: bar.update(running, completed=step, total=total),
        )
    figure = settings().var / "calibration" / f"{domain}-v{done.policy.version}.svg"
    save_reliability_figure(done.report.reliability, figure)
    if json:
        print_json(
            {
                "version": done.policy.version,
                "activated": activate,
                "certificate": done.certificate,
                "figure": str(figure),
            }
        )
        return
    show_calibration(done)
    say(f"{done.in_words()}{'; live, shadow-only' if activate else '; not live'}")
    say(f"reliability curve: {figure}")


def _layers(text: str) -> tuple[int, ...]:
    try:
        return tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError as error:
        raise RolloutError(f"--exit-layers {text!r}: write numbers, such as 2,4,6") from error
