"""Exit criteria: what an exit's label distribution says about its agreement with full depth.

Every criterion is a few features of the label probabilities; a logistic fit on traced requests
turns them into confidence, the estimated probability of agreement (Platt 1999, section 2.1).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor

FLOOR = 1e-7
"""Probabilities are kept this far from 0 and 1 before a logarithm is taken."""


def _top_log_odds(log_probabilities: Tensor) -> Tensor:
    top = log_probabilities.max(-1).values.exp().clamp(FLOOR, 1 - FLOOR)
    return torch.logit(top)


def _log_margin(log_probabilities: Tensor) -> Tensor:
    first, second = log_probabilities.topk(2, dim=-1).values.unbind(-1)
    return first - second


def _negative_entropy(log_probabilities: Tensor) -> Tensor:
    return (log_probabilities.exp() * log_probabilities).sum(-1)


CRITERIA: dict[str, tuple[Callable[[Tensor], Tensor], ...]] = {
    # Schuster et al. 2022 (CALM), section 3.5: softmax response.
    "top_probability": (_top_log_odds,),
    "margin": (_log_margin,),
    # Teerapittayanon et al. 2016 (BranchyNet), section III.
    "entropy": (_negative_entropy,),
    # Fan et al. 2024 (AdaInfer), section 4: a learned judge over top probability and gap.
    "learned": (_top_log_odds, _log_margin, _negative_entropy),
}


def features(criterion: str, scores: Tensor) -> Tensor:
    """Features of label scores [rows, labels] under a criterion, [rows, features]."""
    log_probabilities = scores.log_softmax(-1)
    return torch.stack([make(log_probabilities) for make in CRITERIA[criterion]], dim=-1)


def fit_confidence(
    values: NDArray[np.float64], agrees: NDArray[np.bool_], ridge: float = 1e-2
) -> NDArray[np.float64]:
    """Logistic weights of P(agrees | features), intercept last.

    Targets are softened as in Platt 1999, section 2.2, so that an exit that never disagreed among
    n requests is not taken for certain.

    Args:
        values: [rows, features].
        agrees: [rows], whether the exit's answer equalled the full-depth answer.
        ridge: Penalty on the weights (per row), in units of standardised features.
    """
    mean, scale = values.mean(0), values.std(0) + 1e-6
    design = np.column_stack([(values - mean) / scale, np.ones(len(values))])
    hits = agrees.sum()
    target = np.where(agrees, (hits + 1) / (hits + 2), 1 / (len(agrees) - hits + 2))

    def loss(weights: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        logits = design @ weights
        penalty = ridge * weights * np.append(np.ones(values.shape[1]), 0.0)
        value = np.mean(np.logaddexp(0, logits) - target * logits) + 0.5 * weights @ penalty
        slope = design.T @ (1 / (1 + np.exp(-logits)) - target) / len(target) + penalty
        return float(value), slope

    start = np.zeros(design.shape[1])
    fitted = np.asarray(minimize(loss, start, jac=True, method="L-BFGS-B").x)
    weights = fitted[:-1] / scale
    return np.append(weights, fitted[-1] - weights @ mean)
