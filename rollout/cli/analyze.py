"""analyze: what early exit could save on past requests, before any rollout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import Progress

from rollout.cli.shell import Json, err, now, print_json, print_rows, say, settings, spec
from rollout.control.labels import labels_of, never_early
from rollout.control.sections import ModelSpec
from rollout.reporting.wording import percent
from rollout.serving.past import PastRequest, read_past
from rollout.store.domains import read_domain
from rollout.values import RolloutError

if TYPE_CHECKING:
    from rollout.stats.analysis import DomainAnalysis

MOST_SHOTS = 3


@dataclass(frozen=True)
class _Job:
    """One domain's requests and what the model is asked about them."""

    domain: str
    labels: tuple[str, ...]
    template: str
    never_early: frozenset[int]
    requests: tuple[PastRequest, ...]


def register(app: typer.Typer) -> None:
    app.command("analyze", rich_help_panel="Set up")(analyze)


def analyze(
    past: Annotated[
        Path,
        typer.Argument(
            help="Past requests: .csv or .jsonl with `text`, and `label` and `domain` where they "
            "are known; or one text a line."
        ),
    ],
    domain: Annotated[
        str | None,
        typer.Option(
            help="A domain of rollout.yaml. Default: each that the file's `domain` column names; "
            "the only one of rollout.yaml."
        ),
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(
            help="Without rollout.yaml: folder of the model; needs --labels and --template."
        ),
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(help="Without rollout.yaml: one label a line.")
    ] = None,
    template: Annotated[
        Path | None, typer.Option(help="Without rollout.yaml: the prompt, with {{ text }}.")
    ] = None,
    shots: Annotated[
        str, typer.Option(help="Solved examples in front of the prompt, such as 0,1,2,3.")
    ] = "0",
    limit: Annotated[
        int, typer.Option(min=1, help="Use at most this many requests of a domain, drawn by seed.")
    ] = 1000,
    seed: Annotated[int, typer.Option(help="Of the shuffle and of the examples.")] = 0,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for page, JSON and tables. Default: var/analysis."),
    ] = None,
    json: Json = False,
) -> None:
    """Before any rollout: which depth past requests need, and what early exit would save on them.

    Per domain: the layer from which answers no longer change, agreement with the last layer and
    accuracy by layer, layers to do without, and the net saving at 95, 98 and 99 % agreement, with
    intervals. Needs no database; changes nothing but the folder it writes.

    Example: `rollout analyze last_month.csv --domain support --shots 0,1`
    """
    counts = _shots(shots)
    requests = read_past(past)
    given = {"--model": model, "--labels": labels, "--template": template}
    if any(given.values()):
        missing = [name for name, value in given.items() if value is None]
        if missing:
            raise RolloutError(
                f"without rollout.yaml {', '.join(given)} go together: {missing[0]} is missing"
            )
        assert model and labels and template
        jobs = [_job_of_files(domain or past.stem, labels, template, requests)]
        home, wanted = Path("."), ModelSpec(id=str(model))
    else:
        checked = spec()
        home, wanted = settings().home, checked.model
        jobs = []
        for name, theirs in _by_domain(past, requests, tuple(checked.domains), domain).items():
            read = read_domain(home, name, checked.domains[name])
            barred = never_early(read.spec, read.labels)
            jobs.append(_Job(name, read.labels, read.template, barred, theirs))
    # torch and matplotlib are slow to import; a mistake in the file is told before.
    asked = [_asked(past, job) for job in jobs]

    from rollout.engine.analysis import analyse
    from rollout.engine.few_shot import PastRow
    from rollout.reporting.analysis import About, analysis_json, write_analysis
    from rollout.serving.model import load_checked

    segments = load_checked(home, wanted)
    found: list[DomainAnalysis] = []
    with Progress(console=err, transient=True, disable=not err.is_terminal) as bar:
        running = bar.add_task("analysing", total=None)
        for job, rows in zip(jobs, asked, strict=True):
            found.append(
                analyse(
                    segments,
                    job.domain,
                    job.labels,
                    job.template,
                    [PastRow(*row) for row in rows],
                    shots=counts,
                    never_early=job.never_early,
                    limit=limit,
                    seed=seed,
                    progress=lambda what, step, total: bar.update(
                        running, description=what, completed=step, total=total
                    ),
                )
            )
    about = About(past.name, wanted.id, segments.loaded.revision, seed, now())
    folder = out or settings().var / "analysis"
    paths = write_analysis(folder, found, about)
    if json:
        print_json(analysis_json(found, about))
        return
    _show(found)
    say(f"page: {paths[0]}; beside it {', '.join(path.name for path in paths[1:])}")


def _show(found: Sequence[DomainAnalysis]) -> None:
    from rollout.reporting.analysis import verdict, without_sentence

    rows = [
        (
            one.domain,
            str(shot.shots),
            percent(each.target, 0),
            "none" if each.threshold is None else percent(each.saving.value),
            f"{percent(each.saving.lower)} to {percent(each.saving.upper)}",
            percent(each.agreement.value),
            f"{percent(each.agreement.lower)} to {percent(each.agreement.upper)}",
            f"{each.mean_layers:.1f} of {one.depth}",
            "" if shot.full_accuracy is None else percent(shot.full_accuracy.value),
        )
        for one in found
        for shot in one.shots
        for each in shot.forecasts
    ]
    columns = (
        "domain",
        "shots",
        "target",
        "net saving",
        "95 % interval",
        "agreement",
        "95 % interval",
        "layers",
        "accuracy",
    )
    print_rows(columns, rows)
    for one in found:
        say(f"{one.domain}: {verdict(one)} {without_sentence(one)}")


def _shots(text: str) -> tuple[int, ...]:
    try:
        counts = tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError as error:
        raise RolloutError(f"--shots {text!r}: write numbers, such as 0,1,2,3") from error
    wrong = [count for count in counts if not 0 <= count <= MOST_SHOTS]
    if wrong:
        raise RolloutError(f"--shots {wrong[0]}: from 0 to {MOST_SHOTS} solved examples")
    return counts


def _by_domain(
    past: Path, requests: Sequence[PastRequest], known: tuple[str, ...], wanted: str | None
) -> dict[str, tuple[PastRequest, ...]]:
    """The requests of each domain to analyse.

    The file's `domain` column counts where rollout.yaml has several domains.
    """
    if wanted is not None and wanted not in known:
        raise RolloutError(f"--domain {wanted}: rollout.yaml has {', '.join(known)}")
    named = any(request.domain for request in requests)
    if len(known) == 1 or (wanted and not named):
        return {wanted or known[0]: tuple(requests)}
    if not named:
        raise RolloutError(
            f"{past}: it has no `domain` column and rollout.yaml has {', '.join(known)}: name one "
            "with --domain"
        )
    parts: dict[str, list[PastRequest]] = {}
    for request in requests:
        if wanted is None and request.domain not in known:
            raise RolloutError(
                f"{past}: row {request.row}: domain {request.domain or 'blank'!r} is not one of "
                f"rollout.yaml ({', '.join(known)})"
            )
        parts.setdefault(request.domain or "", []).append(request)
    if wanted is not None and wanted not in parts:
        raise RolloutError(f"{past}: no row is of domain {wanted}; it has {', '.join(parts)}")
    return {name: tuple(rows) for name, rows in parts.items() if wanted in (None, name)}


def _job_of_files(name: str, labels: Path, template: Path, requests: Sequence[PastRequest]) -> _Job:
    try:
        prompt = template.read_text(encoding="utf-8").rstrip("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise RolloutError(f"--template {template}: cannot be read: {error}") from error
    return _Job(name, labels_of(labels), prompt, frozenset(), tuple(requests))


def _asked(past: Path, job: _Job) -> list[tuple[int, str, int | None]]:
    """Row, text and label number of each request."""
    numbers = {label: number for number, label in enumerate(job.labels)}
    rows: list[tuple[int, str, int | None]] = []
    for request in job.requests:
        if request.label is not None and request.label not in numbers:
            raise RolloutError(
                f"{past}: row {request.row}: label {request.label!r} is not one of the "
                f"{len(numbers)} labels of {job.domain} ({', '.join(job.labels[:5])}"
                f"{', ...' if len(numbers) > 5 else ''}): correct it, or leave the column blank"
            )
        label = None if request.label is None else numbers[request.label]
        rows.append((request.row, request.text, label))
    return rows
