"""The savings model summed over `outcomes` in SQL, so that a report costs no walk over the rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import SQLColumnExpression, case, func, select
from sqlalchemy.orm import Session
from sqlalchemy.sql.elements import ColumnElement, Label

from rollout.control.schema import CostSpec
from rollout.reporting.savings import Account, Savings, price_per_ms
from rollout.store.models import Outcome

LAYERS: dict[str, ColumnElement[Any]] = {
    "full": Outcome.depth * 1.0,
    "gross": case((Outcome.arm == "early", Outcome.depth - Outcome.layers_run), else_=0) * 1.0,
    "probe": Outcome.probes * Outcome.probe_cost,
    "shadow": Outcome.shadow_layers * 1.0,
    "replay": Outcome.replay_layers * 1.0,
}
"""`rollout.reporting.savings.request_account` as SQL expressions of one row, in layers."""


def layer_ms(cost: CostSpec) -> SQLColumnExpression[float] | float:
    """Milliseconds per layer: the row's own measurement, or the number the spec fixes."""
    return Outcome.layer_ms if cost.mean_layer_ms == "measured" else float(cost.mean_layer_ms)


def account_columns(cost: CostSpec) -> list[Label[float]]:
    """Sums over the rows of a query: five in layers, then five in layer milliseconds."""
    per_layer = layer_ms(cost)
    in_layers = [
        func.coalesce(func.sum(layers), 0.0).label(f"{name}_layers")
        for name, layers in LAYERS.items()
    ]
    in_ms = [
        func.coalesce(func.sum(layers * per_layer), 0.0).label(f"{name}_ms")
        for name, layers in LAYERS.items()
    ]
    return in_layers + in_ms


def savings_of(sums: Sequence[float], cost: CostSpec) -> Savings:
    """The ten sums of `account_columns`, as accounts in layers and in the spec's currency."""
    layers = Account(*(float(value) for value in sums[:5]))
    spent_ms = Account(*(float(value) for value in sums[5:10]))
    return Savings(layers, spent_ms.times(price_per_ms(cost.accelerator_hour)), cost.currency)


def measure_savings(
    session: Session, within: Sequence[ColumnElement[bool]], cost: CostSpec
) -> Savings:
    """Savings over the outcomes that satisfy `within`."""
    row = session.execute(select(*account_columns(cost)).where(*within)).one()
    return savings_of(list(row), cost)
