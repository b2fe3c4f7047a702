"""The pilot: a business line goes from shadow-only to full share, breaks, and is rolled back.

Everything is real but the clock and the customers: the model, the Celery workers, the store and
the controller are those of production; requests carry the simulated hour they arrive in.
"""

from __future__ import annotations

import math
import os
import subprocess
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from sqlalchemy import func, select

from dashboards.pages import render_snapshot
from rollout.control.spec import Spec, load_spec
from rollout.pilot.home import DOMAIN, free_folder, write_home
from rollout.pilot.processes import answers, running_workers
from rollout.pilot.texts import generate
from rollout.reporting.week import IsoWeek
from rollout.reporting.weekly import ReportPaths, write_report
from rollout.serving.calibrate import CalibratedPolicy, calibrate_domain
from rollout.serving.model import load_checked
from rollout.serving.policy_cache import POLICY_TTL_S
from rollout.settings import Settings
from rollout.store.domains import apply, load_domain
from rollout.store.ledger import history
from rollout.store.models import Outcome
from rollout.store.schema import upgrade
from rollout.store.session import Store, open_store
from rollout.values import RolloutError
from workers.embedded_broker import embedded_broker

ACTOR = "pilot"
CALIBRATION_TEXTS = 3000
HOURS = 7 * 24
CHANGE_AT = timedelta(days=4, hours=9)
"""Friday 09:00: from then on customers write otherwise than the exits were calibrated on."""

BUSY, QUIET = 80, 20
"""Requests an hour, by day and by night."""


@dataclass(frozen=True)
class Event:
    """A decision other than a hold, at its simulated time."""

    at: datetime
    action: str
    reason: str


@dataclass(frozen=True)
class PilotResult:
    """What happened. `went_as_planned`: every stage entered in order, one rollback, in time."""

    folder: Path
    week: str
    requests: int
    changed_at: datetime
    events: tuple[Event, ...]
    report: ReportPaths
    page: Path
    seconds: float
    went_as_planned: bool


def run_pilot(to: Path, *, seed: int, quiet: bool = False) -> PilotResult:
    """Run the whole pilot in a new folder; 2 to 4 minutes on two cores.

    Raises:
        RolloutError: the store already holds requests of the pilot's domain, or a worker died.
    """
    started = time.monotonic()
    console = Console(quiet=quiet)
    folder = free_folder(to)
    write_home(folder)
    os.environ["ROLLOUT_HOME"] = str(folder.resolve())
    settings = Settings()
    spec = load_spec(settings.spec_path)
    week = IsoWeek.of(datetime.now(UTC) - timedelta(days=7))
    store = open_store(settings.resolved_database_url)
    upgrade(store)
    _say_what_comes(console, folder, settings, spec)
    with store.write() as session:
        if session.scalar(select(func.count()).where(Outcome.domain == DOMAIN)):
            raise RolloutError(
                f"{store.address} already holds requests of domain {DOMAIN!r}: "
                "give the pilot an empty database"
            )
        apply(session, spec, folder, actor=ACTOR, now=week.start)
    with _bar(console) as bar:
        calibrated = _calibrate(bar, store, settings, spec, week.start, seed)
    _say_policy(console, calibrated)
    with embedded_broker(settings), running_workers(folder) as alive, _bar(console) as bar:
        requests = _replay_week(bar, console, alive, store, week.start, seed)
    changed_at = week.start + CHANGE_AT
    report = write_report(store, spec, DOMAIN, week, folder / "report", week.end)
    page = folder / "page.html"
    page.write_text(render_snapshot(store, spec, DOMAIN, week.end), encoding="utf-8")
    with store.read() as session:
        rows = list(reversed(history(session, DOMAIN, 10_000)))
    events = tuple(
        Event(row.at, row.action, row.reason)
        for row in rows
        if row.action in ("promote", "narrow", "tighten", "roll_back")
    )
    result = PilotResult(
        folder,
        str(week),
        requests,
        changed_at,
        events,
        report,
        page,
        round(time.monotonic() - started, 1),
        _as_planned(events, len(spec.domains[DOMAIN].stages) - 1, changed_at),
    )
    _say_result(console, store, result)
    return result


def _as_planned(events: tuple[Event, ...], promotions: int, changed_at: datetime) -> bool:
    before = [event.action for event in events if event.at < changed_at]
    after = [event.action for event in events if event.at >= changed_at]
    return before == ["promote"] * promotions and after[:1] == ["roll_back"]


def _calibrate(
    bar: Progress, store: Store, settings: Settings, spec: Spec, now: datetime, seed: int
) -> CalibratedPolicy:
    # A model this small is no faster on more, and much slower where cores are shared.
    torch.set_num_threads(1)
    segments = load_checked(settings.home, spec.model)
    with store.read() as session:
        applied = load_domain(session, DOMAIN)
    running = bar.add_task("calibrating on last month's mails", total=None)
    return calibrate_domain(
        segments,
        store,
        settings.heads,
        applied,
        [ticket.text for ticket in generate(CALIBRATION_TEXTS, seed=seed + 1)],
        activate=True,
        actor=ACTOR,
        now=now,
        progress=lambda step, total: bar.update(running, completed=step, total=total),
    )


def _replay_week(
    bar: Progress,
    console: Console,
    workers: dict[str, subprocess.Popen[bytes]],
    store: Store,
    start: datetime,
    seed: int,
) -> int:
    # The Celery app reads the environment when it is imported: not before ROLLOUT_HOME is set.
    from workers.client import submit
    from workers.control import tick

    counts = [_requests_in(start + timedelta(hours=hour)) for hour in range(HOURS)]
    before = sum(counts[: int(CHANGE_AT / timedelta(hours=1))])
    texts = [ticket.text for ticket in generate(before, seed=seed + 2)]
    texts += [ticket.text for ticket in generate(sum(counts) - before, seed=seed + 3, drift=1.0)]
    running = bar.add_task("Monday", total=len(texts))
    sent = 0
    for hour, count in enumerate(counts):
        opened = start + timedelta(hours=hour)
        results = [
            submit(
                DOMAIN,
                texts[number],
                f"pilot-{seed}-{number:06d}",
                requested_at=opened + timedelta(hours=1) * (number - sent) / count,
            )
            for number in range(sent, sent + count)
        ]
        for answer in answers(results, workers):
            if "error" in answer:
                raise RolloutError(f"the workers refused a request of the pilot: {answer['error']}")
        sent += count
        now = opened + timedelta(hours=1)
        if now == start + CHANGE_AT:
            console.print(
                f"  {now:%a %H:%M}  [yellow]the mails change[/] (nobody tells the system)"
            )
        (action,) = answers([tick.delay(now.isoformat())], workers)
        if action.get(DOMAIN, "hold") != "hold":
            _say_decision(console, store, now)
            # The simulated hours pass faster than the workers' policy cache: let it expire.
            time.sleep(POLICY_TTL_S)
        bar.update(running, completed=sent, description=f"{now:%A}")
    return sent


def _requests_in(hour: datetime) -> int:
    """A day's rhythm: quietest at 02:00, busiest at 14:00."""
    share = (1 + math.cos((hour.hour - 14) / 24 * 2 * math.pi)) / 2
    return round(QUIET + (BUSY - QUIET) * share)


def _bar(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
    return Progress(*columns, TimeRemainingColumn(), console=console, transient=True)


def _say_what_comes(console: Console, folder: Path, settings: Settings, spec: Spec) -> None:
    domain = spec.domains[DOMAIN]
    store = "SQLite" if not settings.database_url else settings.database_url.split("://")[0]
    broker = "embedded" if settings.is_embedded else settings.broker_url.split("://")[0]
    stages = ", ".join(f"{stage:.0%}" for stage in domain.stages)
    console.print(
        f"[bold]Pilot of business line {DOMAIN}[/] in {folder}/ ({store}, {broker} broker)"
    )
    console.print(
        f"  success   agreement certified above {domain.agreement.floor:.0%} at every stage "
        f"({stages}), target {domain.agreement.target:.0%}"
    )
    console.print("  fallback  full depth for everybody, by itself, when agreement drops\n")


def _say_policy(console: Console, calibrated: CalibratedPolicy) -> None:
    console.print(f"  {calibrated.in_words()}\n")


def _say_decision(console: Console, store: Store, now: datetime) -> None:
    with store.read() as session:
        row = history(session, DOMAIN, 1)[0]
    colour = {"promote": "green", "roll_back": "red"}.get(row.action, "yellow")
    console.print(f"  {now:%a %H:%M}  [{colour}]{row.action.replace('_', ' ')}[/]  {row.reason}")


def _say_result(console: Console, store: Store, result: PilotResult) -> None:
    with store.read() as session:
        example = session.scalar(
            select(Outcome.request_id).where(
                Outcome.domain == DOMAIN, Outcome.arm == "early", Outcome.agreement == 0.0
            )
        )
    verdict = "went as planned" if result.went_as_planned else "did NOT go as planned"
    console.print(
        f"\n[bold]{result.requests:,} requests in {result.seconds:.0f} s; the pilot {verdict}.[/]"
    )
    console.print(f"  report  {result.report.html}", soft_wrap=True)
    console.print(f"  page    {result.page}   (live: rollout --home {result.folder} dashboard)")
    if example is not None:
        console.print(f"  why     rollout --home {result.folder} explain {example}")
