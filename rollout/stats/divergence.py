"""Drift of a histogram that needs no labels: exit depth, confidence, length, label mix.

Every full window of observations is compared with a reference histogram by the population stability
index (or the Jensen-Shannon divergence). The alarm threshold is a quantile of that statistic's own
null distribution, where reference and window are multinomial draws of their sizes from one
distribution, and not the customary 0.1 or 0.25: with 10 bins and a reference of 1,000, PSI is above
0.1 without any change in four windows of 100 out of ten, and in none of 1,000.

The level of a look is window / mean time to false alarm, so that a false alarm comes, on average,
as late as stated, in observations. The reference stands in for the unknown distribution: over many
references the level is right to some tens of percent, with a single one it may be off by a factor
of two; a larger reference mends that.

References:
    Yurdakul and Naranjo (2020), Statistical properties of the population stability index, sec. 3
    (PSI is about (1/n + 1/m) times chi-square with bins - 1 degrees of freedom).
    Lin (1991), Divergence measures based on the Shannon entropy, sec. III (Jensen-Shannon).
    Efron and Tibshirani (1993), An introduction to the bootstrap, sec. 6.5 (parametric bootstrap).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.distance import jensenshannon
from scipy.special import rel_entr
from scipy.stats import chi2

Measure = Literal["psi", "jensen_shannon"]

_PSEUDO_COUNT = 0.5
_DRAWS = 20_000
_TAIL_DRAWS = 100
"""A quantile is read off the draws while at least this many lie above it."""
_SEED = 20_240_601


@dataclass(frozen=True)
class HistogramDrift:
    """Compares each window of categories with a reference.

    Attributes:
        reference: Counts per bin of the reference window.
        window: Observations per look.
        mean_time_to_false_alarm: In observations; above `window`.
        measure: The statistic.
        threshold: From which it alarms.
        counts: The window that is filling.
        looks: Full windows seen.
        alarms: Those of them that alarmed.
        last: The statistic of the last full window; None before the first.

    >>> calm = HistogramDrift.start([500, 300, 200], window=100, mean_time_to_false_alarm=20_000)
    >>> calm = calm.update([0] * 50 + [1] * 30 + [2] * 20)
    >>> calm.looks, calm.drifted
    (1, False)
    >>> calm.update([0] * 20 + [1] * 30 + [2] * 50).drifted
    True
    >>> HistogramDrift.from_json(calm.to_json()) == calm
    True
    """

    reference: tuple[int, ...]
    window: int
    mean_time_to_false_alarm: float
    measure: Measure
    threshold: float
    counts: tuple[int, ...]
    looks: int = 0
    alarms: int = 0
    last: float | None = None

    @classmethod
    def start(
        cls,
        reference: Sequence[int],
        window: int,
        mean_time_to_false_alarm: float,
        measure: Measure = "psi",
    ) -> HistogramDrift:
        """A monitor that has seen nothing; takes some 50 ms, once.

        Args:
            reference: Counts per bin, at least two bins; the more, the less of its own noise.

        Raises:
            ValueError: for an empty or negative reference, a window below 1, or a mean time to
                false alarm that does not exceed it.
        """
        counts = tuple(int(count) for count in reference)
        if len(counts) < 2 or min(counts) < 0 or not sum(counts):
            raise ValueError(f"reference {list(counts)} must count something in at least two bins")
        if window < 1:
            raise ValueError(f"a window of {window} observations holds nothing")
        if not window < mean_time_to_false_alarm < float("inf"):
            raise ValueError(
                f"mean time to false alarm {mean_time_to_false_alarm} must be a number of "
                f"observations above the window's {window}"
            )
        threshold = null_threshold(counts, window, window / mean_time_to_false_alarm, measure)
        empty = (0,) * len(counts)
        return cls(counts, window, mean_time_to_false_alarm, measure, threshold, empty)

    def update(self, bins: ArrayLike) -> HistogramDrift:
        """The monitor after these observations, in order; the split into batches is immaterial.

        Args:
            bins: [n], the bin of each observation, 0 and up.

        Raises:
            ValueError: for a bin that the reference does not have.
        """
        seen = np.asarray(bins, dtype=np.int64)
        size = len(self.reference)
        if seen.size and not 0 <= seen.min() <= seen.max() < size:
            raise ValueError(f"bins {seen.min()} to {seen.max()} but the reference has {size}")
        counts = np.array(self.counts)
        looks, alarms, last, position = self.looks, self.alarms, self.last, 0
        while position < len(seen):
            part = seen[position : position + self.window - int(counts.sum())]
            position += len(part)
            counts = counts + np.bincount(part, minlength=size)
            if int(counts.sum()) == self.window:
                last = float(divergence(np.array(self.reference), counts, self.measure))
                looks += 1
                alarms += last >= self.threshold
                counts = np.zeros(size, dtype=np.int64)
        return replace(self, counts=tuple(counts.tolist()), looks=looks, alarms=alarms, last=last)

    @property
    def drifted(self) -> bool:
        """Whether the last full window alarmed."""
        return self.last is not None and self.last >= self.threshold

    def to_json(self) -> dict[str, Any]:
        return {
            "reference": list(self.reference),
            "window": self.window,
            "mean_time_to_false_alarm": self.mean_time_to_false_alarm,
            "measure": self.measure,
            "threshold": self.threshold,
            "counts": list(self.counts),
            "looks": self.looks,
            "alarms": self.alarms,
            "last": self.last,
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> HistogramDrift:
        return cls(
            **{
                **values,
                "reference": tuple(values["reference"]),
                "counts": tuple(values["counts"]),
                "measure": cast(Measure, values["measure"]),
            }
        )


def divergence(reference: ArrayLike, counts: ArrayLike, measure: Measure) -> NDArray[np.float64]:
    """How far two histograms lie apart, over the last axis.

    psi: sum (p - q) ln(p / q), with half a count more in every bin, so that empty ones stay finite.
    jensen_shannon: mean relative entropy to the mean of both, in bits, in [0, 1].

    >>> round(float(divergence([50, 50], [40, 60], "psi")), 3)
    0.04
    >>> float(divergence([1, 0], [0, 1], "jensen_shannon"))
    1.0
    """
    first = np.asarray(reference, dtype=np.float64)
    second = np.asarray(counts, dtype=np.float64)
    if measure == "jensen_shannon":
        return np.asarray(jensenshannon(first, second, base=2, axis=-1)) ** 2
    shares = [
        (side + _PSEUDO_COUNT) / (side + _PSEUDO_COUNT).sum(axis=-1, keepdims=True)
        for side in (first, second)
    ]
    parts = rel_entr(shares[0], shares[1]) + rel_entr(shares[1], shares[0])
    return np.asarray(parts.sum(axis=-1))


def null_threshold(reference: Sequence[int], window: int, alpha: float, measure: Measure) -> float:
    """The (1 - alpha) quantile of the statistic where nothing changed.

    Parametric bootstrap: both histograms are drawn, in their sizes, from the reference's smoothed
    shares; seeded, so the same reference gives the same threshold. Beyond the depth of the draws
    the tail goes on as the chi-square of the large-sample limit, scaled to the draws where they
    end.
    """
    counts = np.array(reference) + _PSEUDO_COUNT
    shares = counts / counts.sum()
    rng = np.random.default_rng(_SEED)
    first = rng.multinomial(sum(reference), shares, size=_DRAWS)
    second = rng.multinomial(window, shares, size=_DRAWS)
    drawn = divergence(first, second, measure)
    read_at = max(alpha, _TAIL_DRAWS / _DRAWS)
    freedom = len(reference) - 1
    beyond = chi2.isf(alpha, freedom) / chi2.isf(read_at, freedom)
    return float(np.quantile(drawn, 1.0 - read_at, method="higher") * beyond)


def quantile_edges(values: ArrayLike, bins: int) -> tuple[float, ...]:
    """Inner edges that part the finite values into at most `bins` bins of about equal counts.

    >>> quantile_edges([1, 2, 3, 4], 2)
    (3.0,)
    """
    known = np.asarray(values, dtype=np.float64)
    known = known[np.isfinite(known)]
    if bins < 2 or not known.size:
        raise ValueError(f"{bins} bins of {known.size} finite values are no histogram")
    inner = np.quantile(known, np.arange(1, bins) / bins, method="higher")
    return tuple(float(edge) for edge in np.unique(inner))


def binned(values: ArrayLike, edges: Sequence[float]) -> NDArray[np.int64]:
    """The bin of each value, [n]: 0 below the first edge, len(edges) from the last one on, and one
    more for NaN, so that unknown confidences are seen, too.

    >>> binned([0.1, 0.5, 0.9, float("nan")], [0.5]).tolist()
    [0, 1, 1, 2]
    """
    numbers = np.asarray(values, dtype=np.float64)
    found = np.searchsorted(np.asarray(edges), numbers, side="right")
    return np.where(np.isnan(numbers), len(edges) + 1, found).astype(np.int64)
