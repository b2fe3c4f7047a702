"""Reading rollout.yaml: every error with its file, line and key. Comparing and hashing specs."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from rollout.control.schema import DomainSpec, Spec
from rollout.values import RolloutError

__all__ = [
    "DomainSpec",
    "Spec",
    "SpecError",
    "diff_specs",
    "load_section",
    "load_spec",
    "spec_hash",
]

Location = tuple[str | int, ...]
SectionT = TypeVar("SectionT", bound=BaseModel)

_EXPECTED = {
    "tuple_type": "must be a list in brackets",
    "dict_type": "must be a section with keys",
    "model_type": "must be a section with keys",
}
"""What pydantic calls by the names of Python's types."""


class SpecError(RolloutError):
    """rollout.yaml or a file it names is wrong: one line per error, with file, line and key."""


def load_spec(path: Path) -> Spec:
    """The validated spec. Files that it names are not opened here.

    Raises:
        SpecError: with all errors of the file at once.
    """
    return load_section(path, Spec, "`rollout init` writes one to start from")


def load_section(path: Path, schema: type[SectionT], way_out: str) -> SectionT:
    """A YAML file validated by `schema`; `way_out` is what to do where there is no such file.

    Raises:
        SpecError: with all errors of the file at once.
    """
    document = _parse(path, schema, way_out)
    try:
        return schema.model_validate(document)
    except ValidationError as error:
        found: dict[tuple[Location, int], list[str]] = {}
        for at, wrong in _problems(error, schema):
            found.setdefault(_place(document, at), []).append(wrong)
        # A union reports once per alternative: one line, any of them mends it.
        lines = [
            f"{path}:{line}: {_dotted(at)}: {', or '.join(dict.fromkeys(wrongs))}"
            for (at, line), wrongs in found.items()
        ]
        raise SpecError("\n".join(lines)) from None


def spec_hash(spec: DomainSpec) -> str:
    """SHA-256 (hex) of the domain's spec, defaults written out and keys sorted."""
    canonical = json.dumps(spec.to_json(), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def diff_specs(old: dict[str, Any] | None, new: DomainSpec) -> list[str]:
    """What applying `new` changes, one line per key; `old` as `to_json` wrote it, None if new.

    >>> task = {"labels": "labels.txt", "template": "prompt.j2"}
    >>> before = DomainSpec.from_json({"task": task, "stages": [0, 0.1]})
    >>> diff_specs(before.to_json(), DomainSpec.from_json({"task": task, "stages": [0, 0.5]}))
    ['stages: [0, 0.1] -> [0, 0.5]']
    """
    after = _flat(new.to_json())
    if old is None:
        return [f"{key}: {_shown(value)}" for key, value in after.items()]
    before = _flat(old)
    lines = []
    for key in [*before, *(key for key in after if key not in before)]:
        if key not in after:
            lines.append(f"{key}: {_shown(before[key])} -> (none)")
        elif key not in before:
            lines.append(f"{key}: (none) -> {_shown(after[key])}")
        elif before[key] != after[key]:
            lines.append(f"{key}: {_shown(before[key])} -> {_shown(after[key])}")
    return lines


def _parse(path: Path, schema: type[BaseModel], way_out: str) -> CommentedMap:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise SpecError(f"{path}: there is no such file; {way_out}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"{path}: cannot be read as UTF-8 text: {error}") from None
    try:
        document = YAML(typ="rt").load(text)
    except DuplicateKeyError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        what = str(error.problem).split(" with value")[0]
        raise SpecError(f"{path}:{line}: {what}: it stands twice; keep one") from None
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise SpecError(
            f"{path}:{line}: this is not YAML: {error.problem or error.context}; "
            "check indentation, quotes and brackets here"
        ) from None
    except YAMLError as error:
        raise SpecError(f"{path}: this is not YAML: {error}") from None
    if document is None:
        raise SpecError(f"{path}: the file is empty; {way_out}")
    if not isinstance(document, CommentedMap):
        first, last = list(schema.model_fields)[:-1], list(schema.model_fields)[-1]
        raise SpecError(f"{path}:1: expected the keys {', '.join(first)} and {last} at the top")
    return document


def _problems(error: ValidationError, schema: type[BaseModel]) -> Iterator[tuple[Location, str]]:
    for item in error.errors(include_url=False):
        at: Location = item["loc"]
        context: dict[str, Any] = item.get("ctx", {})
        if item["type"] == "spec":
            for below, wrong in context["problems"]:
                yield (*at, *below), wrong
        elif item["type"] == "extra_forbidden":
            yield at, _unknown_key(at, schema)
        elif item["type"] == "missing":
            yield at, "is missing; add it"
        elif item["type"] == "value_error":
            yield at, str(context["error"])
        elif item["type"] in _EXPECTED:
            yield at, f"{_EXPECTED[item['type']]} (is {item['input']!r})"
        else:
            wrong = item["msg"][0].lower() + item["msg"][1:]
            yield at, f"{wrong} (is {item['input']!r})"


def _unknown_key(at: Location, schema: type[BaseModel]) -> str:
    known = _keys_at(at[:-1], schema)
    close = difflib.get_close_matches(str(at[-1]), known, n=1)
    if close:
        return f"unknown key; did you mean {close[0]}?"
    return f"unknown key; known here: {', '.join(known)}"


def _keys_at(at: Location, schema: type[BaseModel]) -> list[str]:
    """The keys that the schema knows at a location."""
    section = schema
    for part in at:
        # The name of a domain is a key of the user's own, so it is no field: stay.
        field = section.model_fields.get(str(part))
        if field is not None:
            section = _section_of(field.annotation) or section
    return list(section.model_fields)


def _section_of(annotation: Any) -> type[BaseModel] | None:
    candidates = [annotation, *get_args(annotation)]
    return next(
        (kind for kind in candidates if isinstance(kind, type) and issubclass(kind, BaseModel)),
        None,
    )


def _place(document: CommentedMap, at: Location) -> tuple[Location, int]:
    """The key that an error is at, and the line (from 1) where it stands or ought to."""
    node: Any = document
    line = 1
    for index, part in enumerate(at):
        if not isinstance(node, CommentedMap | CommentedSeq):
            # What follows names an alternative of the schema, no key.
            return at[:index], line
        # Keys merged in from an anchor have no line of their own: keep the section's.
        position = (node.lc.data or {}).get(part)
        if position is not None:
            line = position[0] + 1
        if isinstance(node, CommentedMap) and part not in node:
            return at[: index + 1], line
        node = node[part]
    return at, line


def _dotted(at: Location) -> str:
    """
    >>> _dotted(("domains", "billing", "stages", 2))
    'domains.billing.stages[2]'
    """
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in at)[1:]


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_shown, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value)
