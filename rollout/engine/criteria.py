"""Exit criteria: what an exit's label scores, and their change since the exit before, are worth.

A criterion is a few features of what an exit says of a row; `confidence` turns them into the
estimated probability of agreement. All of it runs on the device, several exits at once where
nobody waits for their word.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

SATURATED = 1e-4
"""Two hidden states whose cosine is closer to 1 than this count as equal."""


@dataclass(frozen=True)
class Earlier:
    """What the exit before said of each row.

    Attributes:
        log_odds, margin: [rows].
        answer: [rows], the best label.
        streak: [rows], consecutive exits up to that one with the same answer.
        hidden: [rows, width], at the row's last token.
    """

    log_odds: Tensor
    margin: Tensor
    answer: Tensor
    streak: Tensor
    hidden: Tensor

    def rows(self, index: Tensor) -> Earlier:
        """Only these rows, in this order."""
        return Earlier(*(part.index_select(0, index) for part in vars(self).values()))


@dataclass(frozen=True)
class Reading:
    """What consecutive exits say of the same rows.

    Attributes:
        scores: Label scores, [exits, rows, labels].
        answer: The best label, [exits, rows].
        log_odds: Of the best label against all others, [exits, rows].
        margin: Log-probability of the best label over the second, [exits, rows].
        hidden: At the rows' last token, [exits, rows, width].
        earlier: What the exit before the first of these said; None where there is none.
    """

    scores: Tensor
    answer: Tensor
    log_odds: Tensor
    margin: Tensor
    hidden: Tensor
    earlier: Earlier | None

    @classmethod
    def of(cls, scores: Tensor, hidden: Tensor, earlier: Earlier | None) -> Reading:
        highest, places = scores.topk(2, dim=-1)
        (first, second), best = highest.unbind(-1), places[..., 0]
        # Against the sum of the others, not 1 - p, whose digits are gone where p is close to 1.
        others = scores.scatter(-1, best[..., None], -torch.inf).logsumexp(-1)
        return cls(scores, best, first - others, first - second, hidden, earlier)

    def streaks(self) -> Tensor:
        """Consecutive exits up to each one with its answer, [exits, rows]."""
        before = self.earlier
        streaks: list[Tensor] = []
        for place, answer in enumerate(self.answer):
            if place:
                count, last = streaks[-1], self.answer[place - 1]
            elif before is not None:
                count, last = before.streak, before.answer
            else:
                streaks.append(torch.ones_like(self.margin[0]))
                continue
            streaks.append(torch.where(answer == last, count + 1, 1.0))
        return torch.stack(streaks)

    def last(self) -> Earlier:
        """What the exit after these has to know."""
        return Earlier(
            self.log_odds[-1], self.margin[-1], self.answer[-1], self.streaks()[-1], self.hidden[-1]
        )


def _log_odds(reading: Reading) -> Tensor:
    return reading.log_odds


def _margin(reading: Reading) -> Tensor:
    return reading.margin


def _negative_entropy(reading: Reading) -> Tensor:
    log_probabilities = reading.scores.log_softmax(-1)
    return (log_probabilities.exp() * log_probabilities).sum(-1)


def _log_odds_change(reading: Reading) -> Tensor:
    before = reading.earlier
    return _change(reading.log_odds, None if before is None else before.log_odds)


def _margin_change(reading: Reading) -> Tensor:
    before = reading.earlier
    return _change(reading.margin, None if before is None else before.margin)


def _streak(reading: Reading) -> Tensor:
    return reading.streaks()


def _saturation(reading: Reading) -> Tensor:
    """-log(1 - cosine) of successive exits' hidden states: 0 where they are orthogonal."""
    before = reading.hidden[:1] if reading.earlier is None else reading.earlier.hidden[None]
    previous = torch.cat([before, reading.hidden[:-1]]).float()
    cosine = torch.cosine_similarity(reading.hidden.float(), previous, dim=-1)
    return -torch.log((1 - cosine).clamp(min=SATURATED))


def _change(now: Tensor, before: Tensor | None) -> Tensor:
    """Difference from the exit before, [exits, rows]; 0 at the very first exit."""
    first = now[:1] if before is None else before[None]
    return now - torch.cat([first, now[:-1]])


Feature = Callable[[Reading], Tensor]
_LEARNED: tuple[Feature, ...] = (_log_odds, _margin, _log_odds_change, _margin_change)

CRITERIA: dict[str, tuple[Feature, ...]] = {
    # Schuster et al. 2022 (CALM), section 3.5: softmax response.
    "top_probability": (_log_odds,),
    # The same, as the difference of the two best.
    "margin": (_margin,),
    # Teerapittayanon et al. 2016 (BranchyNet), section III.
    "entropy": (_negative_entropy,),
    # Zhou et al. 2020 (PABEE), section 3: consecutive exits that agree.
    "patience": (_streak,),
    # Schuster et al. 2022 (CALM), section 3.5: hidden-state saturation.
    "saturation": (_saturation,),
    # Fan et al. 2024 (AdaInfer), section 4: top probability and gap, with their change since the
    # exit before, judged by logistic regression ...
    "learned": _LEARNED,
    # ... or by a support vector machine.
    "learned_svm": _LEARNED,
}
HISTORY: frozenset[str] = frozenset({"patience", "saturation", "learned", "learned_svm"})
"""Criteria that must know the exit before."""


def features(criterion: str, reading: Reading) -> Tensor:
    """Features of what exits say of rows under a criterion, [exits, rows, features]."""
    return torch.stack([make(reading) for make in CRITERIA[criterion]], dim=-1)


def judge_logits(values: Tensor, calibration: Tensor, support: Tensor) -> Tensor:
    """Log-odds of agreement, [exits, rows].

    Args:
        values: Features, [exits, rows, features].
        calibration: [exits, features + 1].
        support: [exits, landmarks, features + 1]; no landmarks: linear.
    """
    weights, intercept = calibration[:, :-1], calibration[:, -1:]
    if not support.shape[1]:
        return torch.matmul(values, weights[..., None])[..., 0] + intercept
    distance = (values[:, :, None] - support[:, None, :, :-1]).square()
    kernel = torch.exp(-torch.matmul(distance, weights[:, None, :, None])[..., 0])
    return torch.matmul(kernel, support[:, :, -1:])[..., 0] + intercept
