"""Which threshold may be served: of all whose disagreement is certified, the one that saves most.

Learn-then-Test with fixed-sequence testing: candidates are walked from the safest on, each tested
against "risk > limit" at the full level alpha, until the first one fails. The chance that any
certified candidate's true risk exceeds the limit is at most alpha, so the best saving may be picked
among them on the same rows. The candidates themselves must not come from these rows: they are
proposed on a part that certifies nothing.

Reference: Angelopoulos, Bates, Candès, Jordan, Lei (2021), Learn then Test: calibrating predictive
algorithms to achieve risk control, sec. 2 (p-values from losses) and sec. 3.2 (fixed sequence).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rollout.stats.risk import risk_p_value, risk_upper_bound

_PROPOSING = 5
"""Without an explicit split, every fifth row only proposes candidates."""


@dataclass(frozen=True)
class TriedThreshold:
    """One candidate, judged on the certifying rows: a point of the trade-off curve.

    Attributes:
        threshold: Confidence from which an exit is taken.
        certified: Whether its risk is certified not to exceed the limit.
        p_value: Against "risk > limit".
        risk: Mean loss: the share of mismatches, each times its severity.
        mismatches: Rows answered early and differently from full depth.
        exit_share: Share of rows answered early.
        mean_layers: Mean layers run for an answer, probes not counted.
        net_saving: Share of the full depth saved, net of probes; below 0 it costs.
    """

    threshold: float
    certified: bool
    p_value: float
    risk: float
    mismatches: int
    exit_share: float
    mean_layers: float
    net_saving: float


@dataclass(frozen=True)
class ThresholdChoice:
    """The certified threshold with the largest net saving, and all that were tried.

    Attributes:
        threshold: One confidence threshold for all exits.
        certified_risk: Upper bound, at level alpha, of the mean loss: of the share of requests
            answered differently (one-sided Clopper-Pearson), each times its severity.
        rows: Rows that certified it.
        tried: All candidates, safest first.
    """

    threshold: float
    certified_risk: float
    rows: int
    mismatches: int
    mean_layers: float
    net_saving: float
    alpha: float
    tried: tuple[TriedThreshold, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"tried": [asdict(row) for row in self.tried]}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> ThresholdChoice:
        tried = tuple(TriedThreshold(**row) for row in values["tried"])
        return cls(**{**values, "tried": tried})


def choose_threshold(
    confidence: ArrayLike,
    agrees: ArrayLike,
    allowed: ArrayLike,
    exit_layers: Sequence[int],
    depth: int,
    probe_cost: float,
    risk_limit: float,
    alpha: float,
    candidates: int = 20,
    choose_on: ArrayLike | None = None,
    severity: ArrayLike | None = None,
) -> ThresholdChoice | None:
    """The threshold to serve, from depth traces of independent requests.

    Risk is the share of *all* requests answered differently from full depth, each times the
    severity of its mistake; a request that no exit answers agrees by construction.

    Args:
        confidence: [rows, exits]; NaN never exits.
        agrees: [rows, exits], whether that exit's answer equals the full-depth answer.
        allowed: [rows, exits], False where that exit's answer may never be given early.
        exit_layers: Rising layer numbers, one per exit.
        depth: Layers of the model.
        probe_cost: Cost of asking one exit head, in layers.
        risk_limit: The tolerated risk, 1 - target.
        alpha: Chance that the certificate is wrong.
        candidates: At most this many thresholds are tried.
        choose_on: [rows] mask of the rows that propose the candidates (quantiles of their
            confidences) and certify nothing; all other rows certify. Default: every fifth row.
        severity: [rows, exits], in [0, 1], see `threshold_losses`; None: every mismatch is 1.

    Returns:
        None where no candidate can be certified: the rows are too few or the exits too wrong.

    Raises:
        ValueError: for shapes that do not fit or rates outside their range.

    >>> sure = np.linspace(0.0, 1.0, 2000)[:, None]
    >>> choice = choose_threshold(sure, sure > 0.2, sure > -1, [4], 8, 0.0, 0.02, 0.05)
    >>> 0.15 < choice.threshold < 0.3, round(choice.net_saving, 2), choice.rows
    (True, 0.39, 1600)
    """
    sure = np.asarray(confidence, dtype=np.float64)  # [rows, exits]
    correct = np.asarray(agrees, dtype=bool)  # [rows, exits]
    permitted = np.asarray(allowed, dtype=bool)  # [rows, exits]
    _check(sure, correct, permitted, exit_layers, depth, probe_cost, risk_limit, alpha)
    if choose_on is None:
        proposing = np.arange(len(sure)) % _PROPOSING == 0  # [rows]
    else:
        proposing = np.asarray(choose_on, dtype=bool)
        if proposing.shape != (len(sure),):
            raise ValueError(f"choose_on {proposing.shape} must mask {len(sure)} rows")
    usable = np.where(permitted, sure, np.nan)
    certifying, right = usable[~proposing], correct[~proposing]
    rows = len(certifying)
    if rows == 0:
        return None

    layers = np.array([*exit_layers, depth])
    costs = None if severity is None else np.asarray(severity, dtype=np.float64)[~proposing]
    thresholds = propose_thresholds(usable[proposing], candidates)
    losses = threshold_losses(certifying, right, permitted[~proposing], thresholds, costs)
    tried: list[TriedThreshold] = []
    certified = True
    for threshold, loss in zip(thresholds, losses.T, strict=True):
        first = _first_exit(certifying, threshold)  # [rows]
        exits = first < len(exit_layers)  # [rows]
        probes = np.minimum(first + 1, len(exit_layers))
        mean_layers = float(layers[first].mean())
        p_value = risk_p_value(loss, risk_limit)
        certified = certified and p_value <= alpha
        tried.append(
            TriedThreshold(
                threshold=float(threshold),
                certified=certified,
                p_value=p_value,
                risk=float(loss.mean()),
                mismatches=int((~right[exits, first[exits]]).sum()),
                exit_share=float(exits.mean()),
                mean_layers=mean_layers,
                net_saving=1.0 - (mean_layers + probe_cost * float(probes.mean())) / depth,
            )
        )
    passed = [row for row in tried if row.certified]
    if not passed:
        return None
    best = max(passed, key=lambda row: row.net_saving)
    return ThresholdChoice(
        threshold=best.threshold,
        certified_risk=risk_upper_bound(losses[:, tried.index(best)], alpha),
        rows=rows,
        mismatches=best.mismatches,
        mean_layers=best.mean_layers,
        net_saving=best.net_saving,
        alpha=alpha,
        tried=tuple(tried),
    )


def threshold_losses(
    confidence: ArrayLike,
    agrees: ArrayLike,
    allowed: ArrayLike,
    thresholds: Sequence[float],
    severity: ArrayLike | None = None,
) -> NDArray[np.float64]:
    """What each threshold's answer costs at each row: nothing where it agrees or is full depth.

    Args:
        confidence, agrees, allowed: [rows, exits], as in `choose_threshold`.
        severity: [rows, exits], in [0, 1], the loss of that exit's answer where it disagrees (a
            cost matrix divided by its largest entry); None: 1.

    Returns:
        [rows, thresholds], in [0, 1].

    Raises:
        ValueError: for a severity outside [0, 1].

    >>> threshold_losses([[0.6, 0.9]], [[False, True]], [[True, True]], [0.8, 0.5]).tolist()
    [[0.0, 1.0]]
    """
    sure = np.where(np.asarray(allowed, dtype=bool), confidence, np.nan)
    cost = np.asarray(1.0 if severity is None else severity, dtype=np.float64)
    if not ((cost >= 0.0) & (cost <= 1.0)).all():
        raise ValueError("a severity must lie in [0, 1]; divide them by the largest one")
    costs = np.where(np.asarray(agrees, dtype=bool), 0.0, cost)
    with_full = np.column_stack([costs, np.zeros(len(sure))])  # [rows, exits + 1]
    losses = np.empty((len(sure), len(thresholds)))
    for column, threshold in enumerate(thresholds):
        losses[:, column] = with_full[np.arange(len(sure)), _first_exit(sure, threshold)]
    return losses


def _first_exit(confidence: NDArray[np.float64], threshold: float) -> NDArray[np.intp]:
    """Index of the exit taken, [rows]; the number of exits where none is."""
    takes = confidence >= threshold  # [rows, exits]; NaN is False
    first: NDArray[np.intp] = np.where(takes.any(axis=1), takes.argmax(axis=1), confidence.shape[1])
    return first


def propose_thresholds(confidence: NDArray[np.float64], candidates: int) -> list[float]:
    """At most `candidates` thresholds, safest (1.0) first: quantiles of the finite confidences.

    >>> propose_thresholds(np.array([[0.2, np.nan], [0.4, 0.8]]), 4)
    [1.0, 0.8, 0.4, 0.2]
    """
    finite = confidence[np.isfinite(confidence)]
    if not finite.size or candidates < 2:
        return [1.0]
    levels = np.linspace(1.0, 0.0, candidates - 1)
    quantiles = np.quantile(finite, levels, method="inverted_cdf")
    return sorted({1.0, *(float(value) for value in quantiles)}, reverse=True)


def _check(
    confidence: NDArray[np.float64],
    agrees: NDArray[np.bool_],
    allowed: NDArray[np.bool_],
    exit_layers: Sequence[int],
    depth: int,
    probe_cost: float,
    risk_limit: float,
    alpha: float,
) -> None:
    shape = confidence.shape
    if len(shape) != 2 or agrees.shape != shape or allowed.shape != shape:
        raise ValueError(
            f"confidence {shape}, agrees {agrees.shape} and allowed {allowed.shape} "
            "must all be [rows, exits]"
        )
    if shape[1] != len(exit_layers):
        raise ValueError(f"{shape[1]} exits in the traces but {len(exit_layers)} exit layers")
    if list(exit_layers) != sorted(set(exit_layers)) or not all(
        1 <= layer < depth for layer in exit_layers
    ):
        raise ValueError(f"exit layers {list(exit_layers)} must rise within 1 to {depth - 1}")
    known = confidence[~np.isnan(confidence)]
    if known.size and not (known.min() >= 0.0 and known.max() <= 1.0):
        raise ValueError("confidence must lie in [0, 1] or be NaN")
    for name, rate in (("risk_limit", risk_limit), ("alpha", alpha)):
        if not 0.0 < rate < 1.0:
            raise ValueError(f"{name} {rate} must lie strictly between 0 and 1")
    if probe_cost < 0.0:
        raise ValueError(f"probe_cost {probe_cost} must not be negative")
