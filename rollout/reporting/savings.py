"""The savings model: what early exit spared, less what it cost to find out and to check.

Everything is counted in decoder layers of one request. An early-arm request spares the layers
between its exit and the model's depth. Against that stand, for every request of either arm, the
exit heads asked (probes), the layers run only for a comparison (shadow), and the full passes run
again as an independent check (replay). Control requests spare nothing, yet their traces ask exit
heads: that is a cost of the rollout too.
"""

from __future__ import annotations

from dataclasses import dataclass

from rollout.values import Arm

MS_PER_HOUR = 3.6e6


@dataclass(frozen=True)
class Account:
    """Gross saving and costs in one unit (layers, layer milliseconds, or money).

    Attributes:
        full: What full depth for all requests would have cost.
        gross: Spared by early exits.
        probe: Spent on exit heads.
        shadow: Spent on continuing early answers to full depth.
        replay: Spent on replays from scratch.
    """

    full: float = 0.0
    gross: float = 0.0
    probe: float = 0.0
    shadow: float = 0.0
    replay: float = 0.0

    @property
    def cost(self) -> float:
        return self.probe + self.shadow + self.replay

    @property
    def net(self) -> float:
        """Negative where checking cost more than early exits spared."""
        return self.gross - self.cost

    @property
    def net_share(self) -> float | None:
        """Net saving as a share of `full`; None where there were no requests."""
        return self.net / self.full if self.full else None

    def __add__(self, other: Account) -> Account:
        return Account(
            self.full + other.full,
            self.gross + other.gross,
            self.probe + other.probe,
            self.shadow + other.shadow,
            self.replay + other.replay,
        )

    def times(self, factor: float) -> Account:
        """The same account in another unit: `factor` of it per present unit."""
        return Account(
            self.full * factor,
            self.gross * factor,
            self.probe * factor,
            self.shadow * factor,
            self.replay * factor,
        )


def request_account(
    arm: Arm,
    depth: int,
    layers_run: int,
    probes: int,
    probe_cost: float,
    shadow_layers: int,
    replay_layers: int,
) -> Account:
    """One request's account, in layers.

    >>> early = request_account("early", 32, 14, 2, 0.5, shadow_layers=0, replay_layers=0)
    >>> early.gross, early.net
    (18, 17.0)
    >>> request_account("control", 32, 32, 4, 0.5, shadow_layers=0, replay_layers=0).net
    -2.0
    """
    return Account(
        full=depth,
        gross=depth - layers_run if arm == "early" else 0,
        probe=probes * probe_cost,
        shadow=shadow_layers,
        replay=replay_layers,
    )


def price_per_ms(accelerator_hour: float) -> float:
    """Money per millisecond of accelerator time, from its price per hour."""
    return accelerator_hour / MS_PER_HOUR


@dataclass(frozen=True)
class Savings:
    """One period's account in layers and in money."""

    layers: Account
    money: Account
    currency: str
