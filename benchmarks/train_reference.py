"""Train the reference model: `python -m benchmarks.train_reference`; goes on where it was killed.

Llama architecture, all sets of ../shared/data and two generated tasks in one model, kept outside
git in ~/.cache/early-exit-rollout/reference or in the folder that ROLLOUT_REFERENCE names.
`--depth 6` trains the half-depth twin in the same way.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from benchmarks.reference import reference_folder, reference_model_folder
from benchmarks.reference.preparing import prepare
from benchmarks.reference.training import Plan, Progress, train
from rollout.values import RolloutError

_LINE_EVERY_S = 60.0


def main(
    depth: Annotated[int, typer.Option(help="Decoder layers; 6: the half-depth twin.")] = 12,
    threads: Annotated[int, typer.Option(help="Processor threads.")] = 1,
    epochs_scale: Annotated[float, typer.Option(help="Train this much of the usual.")] = 1.0,
) -> None:
    """Train; `python -m benchmarks reference_model` evaluates. 45 minutes on one free core."""
    torch.set_num_threads(threads)
    console = Console(stderr=True)
    plan = Plan(depth=depth, epochs_scale=epochs_scale)
    try:
        prepared = prepare(
            reference_folder() / "prepared",
            plan.width,
            lambda what: console.print(f"making {what}"),
        )
    except RolloutError as error:
        print(error, file=sys.stderr)
        raise typer.Exit(2) from error
    folder = reference_model_folder(depth)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:.1f} %"),
        TimeElapsedColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    latest = Progress(0.0, 0.0, 0, 0.0)
    with Bar(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(f"{depth} layers", total=1.0)

        def report(progress: Progress) -> None:
            nonlocal latest
            told = latest.seconds // _LINE_EVERY_S
            latest = progress
            words = f"{depth} layers, loss {progress.loss:.3f}"
            bar.update(task, completed=progress.done, description=words)
            # A log file sees no bar: a line a minute instead.
            if not console.is_terminal and progress.seconds // _LINE_EVERY_S != told:
                speed = progress.tokens / max(progress.seconds, 1e-9)
                left = progress.seconds * (1 - progress.done) / max(progress.done, 1e-9)
                print(
                    f"{100 * progress.done:.1f} % {words}, {speed:.0f} tokens/s, "
                    f"{left / 60:.0f} min left",
                    flush=True,
                )

        model = train(plan, prepared, folder, report)
    model.save_pretrained(folder)
    prepared.tokenizer.save_pretrained(folder)
    (folder / "baselines.json").write_text(json.dumps(prepared.baselines))
    cost = {"tokens": latest.tokens, "seconds": round(latest.seconds), "threads": threads}
    (folder / "training.json").write_text(json.dumps({"plan": asdict(plan), "cost": cost}))
    print(f"trained: {folder}")


if __name__ == "__main__":
    typer.run(main)
