"""The `rollout` command."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import click
import typer
from sqlalchemy.exc import SQLAlchemyError

from rollout.cli import operate, run, setup, watch
from rollout.cli.shell import err
from rollout.values import RolloutError

app = typer.Typer(
    name="rollout",
    help="Staged rollout with shadow evaluation for early-exit LLM inference.\n\n"
    "Start with `rollout pilot`, or with `rollout init` for a domain of your own.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _options(
    home: Annotated[
        Path | None,
        typer.Option(
            envvar="ROLLOUT_HOME",
            help="Folder of rollout.yaml; data lie in var/ below it. Default: here.",
            show_default=False,
        ),
    ] = None,
) -> None:
    if home is not None:
        # Workers that this command starts read the same variable.
        os.environ["ROLLOUT_HOME"] = str(home)


for module in (setup, watch, operate, run):
    module.register(app)


def main() -> None:
    """Run the command; a user's mistake ends with its message and exit code 2, no traceback."""
    try:
        code = app(standalone_mode=False)
    except click.exceptions.Abort:
        err.print("aborted")
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except RolloutError as error:
        err.print(f"[bold red]error:[/] {_escaped(str(error))}", soft_wrap=True)
        sys.exit(2)
    except SQLAlchemyError as error:
        first_line = str(error).splitlines()[0]
        err.print(f"[bold red]error:[/] the database refused: {_escaped(first_line)}")
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(code if isinstance(code, int) else 0)


def _escaped(message: str) -> str:
    return message.replace("[", r"\[")
