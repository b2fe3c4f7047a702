"""The references of the documentation, made from the commands and the schema themselves.

`python -m rollout.cli.reference` writes them to `docs/`; a test compares.
"""

from __future__ import annotations

import enum
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from rollout.cli import DEBUG, app
from rollout.control.durations import format_duration
from rollout.control.schema import Spec
from rollout.settings import Settings
from rollout.simulation.scenario import Scenario, load_shipped, shipped

COMMAND = "python -m rollout.cli.reference"
NOTICE = f"<!-- Made by `{COMMAND}`: change the code, not this file. -->"


def cli_reference() -> str:
    """docs/cli.md."""
    group: Any = typer.main.get_command(app)
    context = group.context_class(group, info_name="rollout")
    lines = [NOTICE, "# The `rollout` command", "", str(app.info.help), ""]
    lines += [
        "Exit codes: 0 done; 2 something you can mend, with `error: ...` on standard error; 1 "
        f"anything else (`{DEBUG}=1` shows the traceback); 130 interrupted.",
        "",
        "## Before every command",
        "",
        *_options_of(group, context),
    ]
    panels: dict[str, list[str]] = {}
    for name, command in group.commands.items():
        panels.setdefault(command.rich_help_panel, []).extend(_command(name, command, context))
    for panel, entries in panels.items():
        lines += [f"## {panel}", "", *entries]
    return "\n".join(lines).rstrip() + "\n"


def _command(name: str, command: Any, parent: Any) -> Iterator[str]:
    context = command.context_class(command, info_name=name, parent=parent)
    usage = " ".join(command.collect_usage_pieces(context))
    yield from (f"### rollout {name}", "", f"`rollout {name} {usage}`", "", command.help, "")
    yield from _options_of(command, context)


def _options_of(command: Any, context: Any) -> Iterator[str]:
    shown = [option for option in command.params if not option.hidden]
    rows = [_option(option, context) for option in shown if "completion" not in option.name]
    if rows:
        yield from ("| | type | default | |", "| --- | --- | --- | --- |", *rows, "")


def _option(option: Any, context: Any) -> str:
    names = [*option.opts, *option.secondary_opts]
    if option.param_type_name == "argument":
        names = [option.name]
    kind = option.display_type(context) or ""
    if isinstance(option.default, bool):
        default = f"`{option.opts[0]}`" if option.default else ""
    else:
        default = "required" if option.required else _default(option.default)
    meaning = option.help or ""
    if option.envvar:
        meaning += f" Environment: `{option.envvar}`."
    return _row(", ".join(f"`{name}`" for name in names), kind.strip("<>"), default, meaning)


def configuration_reference() -> str:
    """docs/configuration.md."""
    lines = [
        NOTICE,
        "# Configuration",
        "",
        "## rollout.yaml",
        "",
        "Unknown keys are errors. `rollout validate` names the line of each.",
        "",
        "| key | default | meaning |",
        "| --- | --- | --- |",
        *_keys(Spec),
        "",
        "## Environment",
        "",
        "| variable | default | meaning |",
        "| --- | --- | --- |",
    ]
    for name, field in Settings.model_fields.items():
        variable = f"`{Settings.model_config['env_prefix']}{name.upper()}`"
        lines.append(_row(variable, _default(field.default), field.description or ""))
    lines.append(_row(f"`{DEBUG}`", "", "1: show the traceback of every error."))
    return "\n".join(lines) + "\n"


def scenario_reference() -> str:
    """docs/scenarios.md."""
    lines = [
        NOTICE,
        "# Scenarios of `rollout simulate`",
        "",
        "A scenario is one synthetic future: what traffic and the true agreement do, which no "
        "controller sees. Shipped ones go by their name, others by their file.",
        "",
        "| shipped | shows |",
        "| --- | --- |",
        *[_row(f"`{name}`", load_shipped(name).shows) for name in shipped()],
        "",
        "## Keys",
        "",
        "| key | default | meaning |",
        "| --- | --- | --- |",
        *_keys(Scenario),
    ]
    return "\n".join(lines) + "\n"


def _keys(section: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in section.model_fields.items():
        below = _section_in(field)
        key = f"{prefix}{name}"
        if below is None:
            yield _row(f"`{key}`", _key_default(field), field.description or "")
            continue
        if get_origin(field.annotation) is dict:
            key += ".NAME"
        elif get_origin(field.annotation) is tuple:
            key += "[]"
        yield _row(f"**`{key}`**", "", field.description or "")
        yield from _keys(below, f"{key}.")


def _section_in(field: FieldInfo) -> type[BaseModel] | None:
    kinds = [field.annotation, *get_args(field.annotation)]
    found = (kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel))
    return next(found, None)


def _key_default(field: FieldInfo) -> str:
    return "required" if field.default is PydanticUndefined else _default(field.default)


def _default(value: Any) -> str:
    if value is None or value == "":
        return ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, enum.Enum):
        value = value.value
    if hasattr(value, "total_seconds"):
        return f"`{format_duration(value)}`"
    if isinstance(value, tuple):
        return f"`[{', '.join(map(_plain, value))}]`"
    return f"`{_plain(value)}`"


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _row(*cells: str) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def write(folder: Path) -> None:
    """Write the references."""
    folder.mkdir(exist_ok=True)
    (folder / "cli.md").write_text(cli_reference(), encoding="utf-8")
    (folder / "configuration.md").write_text(configuration_reference(), encoding="utf-8")
    (folder / "scenarios.md").write_text(scenario_reference(), encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1] if len(sys.argv) > 1 else "docs"))
