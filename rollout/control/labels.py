"""The labels of a choice task, and the guards and severities that name them."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path

from rollout.control.schema import NEVER_EARLY, DomainSpec
from rollout.control.spec import SpecError
from rollout.control.steering import ANY_LABEL


def labels_of(path: Path) -> tuple[str, ...]:
    """The labels of a file with one label per line, in order.

    Raises:
        SpecError: for an unreadable file, an empty line, a duplicate or fewer than two labels,
            with the line numbers.
    """
    try:
        lines = path.read_text(encoding="utf-8").rstrip().splitlines()
    except FileNotFoundError:
        raise SpecError(
            f"{path}: there is no such labels file; write one label per line, or correct "
            "task.labels in rollout.yaml"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"{path}: cannot be read as UTF-8 text: {error}") from None
    problems: list[str] = []
    first_line: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        label = line.strip()
        if not label:
            problems.append(f"{path}:{number}: the line is empty; remove it")
        elif label in first_line:
            problems.append(
                f"{path}:{number}: label {label!r} already stands in line {first_line[label]}; "
                "remove one"
            )
        else:
            first_line[label] = number
    if len(first_line) < 2:
        problems.append(
            f"{path}: {len(first_line)} label{'' if len(first_line) == 1 else 's'}; "
            "a choice needs at least two"
        )
    if problems:
        raise SpecError("\n".join(problems))
    return tuple(first_line)


def never_early(spec: DomainSpec, labels: Sequence[str]) -> frozenset[int]:
    """Indices of the labels that may not be answered early.

    Raises:
        SpecError: where a guard names a label that the domain does not have.
    """
    for label in spec.guards:
        if label not in labels:
            raise SpecError(f"guards.{label}: {_no_such_label(spec, label, labels)}")
    return frozenset(
        labels.index(label) for label, guard in spec.guards.items() if guard == NEVER_EARLY
    )


def check_severity(spec: DomainSpec, labels: Sequence[str]) -> None:
    """Pass only where every severity names labels of the domain.

    Raises:
        SpecError: with the key that does not.
    """
    for full, costs in spec.agreement.severity.items():
        key = f"agreement.severity.{full}"
        if full not in (ANY_LABEL, *labels):
            raise SpecError(f"{key}: {_no_such_label(spec, full, labels)}")
        for early in costs if isinstance(costs, dict) else ():
            if early not in (ANY_LABEL, *labels):
                raise SpecError(f"{key}.{early}: {_no_such_label(spec, early, labels)}")


def _no_such_label(spec: DomainSpec, label: str, labels: Sequence[str]) -> str:
    close = difflib.get_close_matches(label, labels, n=1)
    hint = f"did you mean {close[0]}?" if close else f"labels are {', '.join(labels)}"
    return f"{spec.task.labels} has no such label; {hint}"
