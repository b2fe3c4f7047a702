"""Commands that run something: worker, controller, dashboard, report, classify, pilot."""

from __future__ import annotations

import uuid
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from rollout.cli.shell import Domain, Json, checked_store, now, print_json, say, settings, spec
from rollout.store.domains import load_domain
from rollout.values import RolloutError


class Pool(StrEnum):
    threads = "threads"
    solo = "solo"
    prefork = "prefork"


def register(app: typer.Typer) -> None:
    for name, function in (
        ("worker", worker),
        ("controller", controller),
        ("classify", classify),
        ("report", report),
        ("dashboard", dashboard),
        ("pilot", pilot),
    ):
        app.command(name, rich_help_panel="Run")(function)


def worker(
    queues: Annotated[str, typer.Option("--queues", "-Q", help="serve, shadow or both.")] = (
        "serve,shadow"
    ),
    pool: Annotated[
        Pool, typer.Option(help="threads or solo: one model, all cores or the GPU.")
    ] = Pool.threads,
    concurrency: Annotated[
        int, typer.Option("--concurrency", "-c", min=1, help="Threads or processes of the pool.")
    ] = 1,
) -> None:
    """Serve requests: a Celery worker, with the embedded broker where none is configured.

    Example: `rollout worker -Q serve`
    """
    from workers.launch import run_worker

    checked_store()
    spec()
    raise typer.Exit(run_worker(settings(), queues, pool.value, concurrency, beat=False))


def controller() -> None:
    """Decide once a minute for every domain: a Celery worker on queue `control`, with its beat.

    Example: `rollout controller`
    """
    from workers.launch import run_worker

    checked_store()
    raise typer.Exit(run_worker(settings(), "control", "solo", 1, beat=True))


def classify(
    domain: Domain,
    text: Annotated[str, typer.Argument(help="The request's text.")],
    request_id: Annotated[str | None, typer.Option(help="Idempotency key.")] = None,
    key: Annotated[str | None, typer.Option(help="What the arm sticks to: a customer.")] = None,
    timeout_s: Annotated[float, typer.Option(min=0.1, help="Seconds to wait.")] = 30.0,
    json: Json = False,
) -> None:
    """Send one request through the broker and print its answer.

    Example: `rollout classify billing "i was charged twice"`
    """
    from workers.client import ask

    with checked_store().read() as session:
        load_domain(session, domain)
    answer = ask(domain, text, request_id or str(uuid.uuid4()), key=key, timeout_s=timeout_s)
    if json:
        print_json(answer)
        return
    layer = answer["exit_layer"] or answer["depth"]
    say(
        f"{answer['answer']}  (layer {layer} of {answer['depth']}, {answer['arm']} arm; "
        f"rollout explain {answer['request_id']})"
    )


def report(
    domain: Annotated[str, typer.Option(help="A domain of rollout.yaml.")],
    week: Annotated[str, typer.Option(help="ISO week, such as 2026-W47.")],
    to: Annotated[Path | None, typer.Option(help="Folder. Default: var/reports.")] = None,
    json: Json = False,
) -> None:
    """Write a week's report as HTML, CSV and JSON.

    Example: `rollout report --week 2026-W47 --domain billing`
    """
    from rollout.reporting.week import IsoWeek
    from rollout.reporting.weekly import write_report

    folder = to or settings().var / "reports"
    paths = write_report(checked_store(), spec(), domain, IsoWeek.parse(week), folder, now())
    if json:
        print_json(paths)
        return
    for path in (paths.html, paths.csv, paths.json):
        say(f"written  {path}")


def dashboard(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8080,
) -> None:
    """Serve the live page of every domain.

    Example: `rollout dashboard --port 8080`
    """
    try:
        from dashboards.serve import serve
    except ModuleNotFoundError as error:
        raise RolloutError(
            f"{error.name} is not installed: pip install 'early-exit-rollout[dashboards]'"
        ) from error
    serve(checked_store(), spec(), host=host, port=port)


def pilot(
    to: Annotated[Path, typer.Option(help="Folder for the pilot; must be new or empty.")] = Path(
        "pilot"
    ),
    seed: Annotated[int, typer.Option(help="Seed of the generated traffic.")] = 0,
    json: Json = False,
) -> None:
    """Watch one business line go from shadow-only to full share, break, and be rolled back.

    Real model, real Celery workers, generated traffic on a simulated clock; under five minutes.

    Example: `rollout pilot`
    """
    from rollout.pilot.run import run_pilot

    result = run_pilot(to, seed=seed, quiet=json)
    if json:
        print_json(result)
    if not result.went_as_planned:
        raise typer.Exit(1)
