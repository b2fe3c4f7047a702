"""The command that tries a spec against synthetic futures or the stored past: simulate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress

from rollout.cli.shell import Json, checked_store, err, now, print_json, print_rows, say, settings
from rollout.control.facts import percent
from rollout.control.schema import Spec
from rollout.control.spec import load_spec
from rollout.simulation.many import processes
from rollout.simulation.past_study import PastStudy, past_study
from rollout.simulation.rerun import counts
from rollout.simulation.scenario import Scenario, load_scenario, load_shipped, shipped
from rollout.simulation.study import Study, study
from rollout.simulation.summary import Summary
from rollout.values import RolloutError

COLUMNS = (
    "scenario",
    "domain",
    "all traffic after",
    "promotions",
    "steps down",
    "false",
    "blind",
    "taken back after",
    "saving",
    "of oracle",
    "wrong answers",
    "x oracle",
)

MOVES = ("promote", "tighten", "loosen", "narrow", "roll_back")
PAST_COLUMNS = ("domain", "", "mean share", *MOVES)


def register(app: typer.Typer) -> None:
    app.command("simulate", rich_help_panel="Set up")(simulate)


def simulate(
    more: Annotated[
        list[str] | None, typer.Argument(metavar="[SCENARIO]...", help="More scenarios.")
    ] = None,
    spec: Annotated[
        Path | None,
        typer.Option("--spec", help="The spec. Default: rollout.yaml.", show_default=False),
    ] = None,
    scenario: Annotated[
        list[str] | None,
        typer.Option(
            "--scenario",
            help="File or name of a scenario; several may follow. Default: all shipped.",
            show_default=False,
        ),
    ] = None,
    domain: Annotated[
        list[str] | None,
        typer.Option("--domain", help="Of the spec; may be repeated. Default: all."),
    ] = None,
    runs: Annotated[int, typer.Option("--runs", min=1, help="Futures a scenario.")] = 100,
    seed: Annotated[int, typer.Option("--seed", min=0, help="The same, the same futures.")] = 0,
    replay: Annotated[
        bool, typer.Option("--replay", help="Against the stored past, in place of scenarios.")
    ] = False,
    folder: Annotated[
        Path | None,
        typer.Option("--out", help="Folder of the page. Default: var/.", show_default=False),
    ] = None,
    json: Json = False,
) -> None:
    """Try a spec against synthetic futures: a table, and a page with a picture of each.

    Promotions, delays, false alarms, saving and wrong answers, beside an oracle that knows the
    truth. Every decision is made by the function that decides in production.

    Example: `rollout simulate --scenario sudden_break --runs 200`
    """
    # matplotlib takes a second that other commands need not wait for.
    from rollout.simulation.page import studies_page

    path = spec or settings().spec_path
    loaded = load_spec(path)
    domains = _domains(loaded, domain)
    names = [*(scenario or []), *(more or [])]
    if replay and names:
        raise RolloutError("--replay runs over the stored past: leave the scenarios out")
    pasts = _pasts(loaded, domains) if replay else []
    chosen = [] if replay else [_scenario(name) for name in names or shipped()]
    studies = _studies(loaded, domains, chosen, range(seed, seed + runs))
    page = (folder or settings().var) / "simulation.html"
    _write(page, studies_page(studies, pasts, loaded.cost, str(path), now()))
    if json:
        print_json(
            {
                "page": str(page),
                "studies": [
                    {"scenario": one.name, "domain": one.domain} | one.summary.to_json()
                    for one in studies
                ],
                "pasts": [one.to_json() for one in pasts],
            }
        )
        return
    if replay:
        print_rows(PAST_COLUMNS, [row for one in pasts for row in _past_cells(one)])
        say(f"the picture: {page}; `rollout replay` lists the moves side by side")
        return
    print_rows(COLUMNS, [_cells(one, loaded.cost.currency) for one in studies])
    say(f"{runs} runs each; the picture: {page}")


def _pasts(loaded: Spec, domains: list[str]) -> list[PastStudy]:
    with checked_store().read() as session:
        return [
            past_study(session, domain, loaded.domains[domain], None, now()) for domain in domains
        ]


def _past_cells(one: PastStudy) -> list[list[str]]:
    sides = (
        ("as it was", one.stored_mean_share, counts(one.past.rows)),
        ("under the spec", one.mean_share, counts(one.found.moves)),
    )
    return [
        [one.domain, side, percent(share), *(str(found[name]) for name in MOVES)]
        for side, share, found in sides
    ]


def _scenario(name: str) -> tuple[str, Scenario]:
    if name in shipped():
        return name, load_shipped(name)
    return Path(name).stem, load_scenario(Path(name))


def _domains(loaded: Spec, wanted: list[str] | None) -> list[str]:
    for name in wanted or []:
        if name not in loaded.domains:
            raise RolloutError(
                f"the spec has no domain {name!r}; it has {', '.join(loaded.domains)}"
            )
    return wanted or list(loaded.domains)


def _studies(
    loaded: Spec, domains: list[str], chosen: list[tuple[str, Scenario]], seeds: range
) -> list[Study]:
    studies: list[Study] = []
    tasks = [(domain, name, scenario) for domain in domains for name, scenario in chosen]
    with (
        processes(len(seeds) * len(tasks)) as pool,
        Progress(console=err, transient=True, disable=not err.is_terminal) as progress,
    ):
        bar = progress.add_task("", total=len(seeds) * len(tasks))
        for domain, name, scenario in tasks:
            progress.update(bar, description=name)
            spec = loaded.domains[domain]
            for done in study(name, domain, spec, loaded.cost, scenario, seeds, pool):
                if done is None:
                    progress.advance(bar)
                else:
                    studies.append(done)
    return studies


def _write(page: Path, html: str) -> None:
    try:
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(html, encoding="utf-8")
    except OSError as error:
        raise RolloutError(f"{page}: cannot be written: {error.strerror}; choose --out") from None


def _cells(one: Study, currency: str) -> list[str]:
    summary: Summary = one.summary
    return [
        one.name,
        one.domain,
        _hours(summary.top_after_h, "not in most"),
        f"{summary.promotions:.1f}",
        f"{summary.step_downs:.2f}",
        f"{summary.false_step_downs:.2f}",
        f"{summary.blind_steps:.2f}",
        _hours(summary.delay_h, "-"),
        f"{percent(summary.saving)}, {summary.money:,.0f} {currency}",
        _ratio(summary.saving_ratio),
        f"{summary.harm:,.0f}",
        _ratio(summary.harm_ratio),
    ]


def _hours(hours: float | None, unknown: str) -> str:
    return unknown if hours is None else f"{hours:.1f} h"


def _ratio(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.2f}"
