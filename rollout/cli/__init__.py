"""The `rollout` command."""

from __future__ import annotations

import os
import sys
import traceback
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from rollout.cli import analyze, judge, operate, run, setup, simulate, watch
from rollout.cli.shell import err, opened
from rollout.values import RolloutError

DEBUG = "ROLLOUT_DEBUG"

app = typer.Typer(
    name="rollout",
    help="Staged rollout with shadow evaluation for early-exit LLM inference.\n\n"
    "Start with `rollout pilot`, or with `rollout init` for a domain of your own.",
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"rollout {version('early-exit-rollout')}")
        raise typer.Exit()


@app.callback(invoke_without_command=True)
def _options(
    context: typer.Context,
    home: Annotated[
        Path | None,
        typer.Option(
            envvar="ROLLOUT_HOME",
            help="Folder of rollout.yaml; data lie in var/ below it. Default: here.",
            show_default=False,
        ),
    ] = None,
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    if home is not None:
        # Workers that this command starts read the same variable.
        os.environ["ROLLOUT_HOME"] = str(home)
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


for module in (setup, analyze, simulate, watch, judge, operate, run):
    module.register(app)


def main() -> None:
    """Run the command.

    Exit codes: 0 done; 2 something the user can mend, with its message; 1 anything else, in one
    line; 130 interrupted.
    """
    try:
        with opened:
            code = app(standalone_mode=False)
    except typer.Abort:
        sys.exit(130)
    except typer.TyperException as error:
        context = getattr(error, "ctx", None)
        hint = "" if context is None else f"\nsee `{context.command_path} --help`"
        _fail(error.format_message() + hint, error.exit_code)
    except RolloutError as error:
        _fail(str(error), 2)
    except Exception as error:
        what = (str(error).splitlines() or ["no message"])[0]
        hint = "" if _debugging() else f" (set {DEBUG}=1 for the traceback)"
        _fail(f"unexpected {type(error).__name__}: {what}{hint}", 1)
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(code if isinstance(code, int) else 0)


def _debugging() -> bool:
    return os.environ.get(DEBUG, "") not in ("", "0")


def _fail(message: str, code: int) -> None:
    if _debugging():
        traceback.print_exc()
    err.print(Text.assemble(("error: ", "bold red"), message), soft_wrap=True)
    sys.exit(code)
