"""Templates for the pages: autoescape always on, since requests are customers' words."""

from __future__ import annotations

from importlib.resources import files

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from rollout.reporting import wording

STYLE = files("rollout.reporting").joinpath("templates/page.css").read_text("utf-8")
"""The one style sheet of reports and console."""


def environment(*packages: str) -> Environment:
    """A Jinja environment over the templates of `packages`, then this package's."""
    templates = Environment(
        loader=ChoiceLoader([PackageLoader(name) for name in (*packages, "rollout.reporting")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters.update(
        percent=wording.percent,
        number=wording.number,
        money=wording.money,
        moment=wording.moment,
        duration=wording.duration,
        commands=wording.commands,
        words=lambda name: name.replace("_", " ").capitalize(),
    )
    return templates
