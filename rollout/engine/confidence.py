"""From a criterion's features to confidence: the estimated probability of agreement.

Logistic regression turns features into a probability (Platt 1999, section 2.1); `learned_svm` puts
a support vector machine with a Gaussian kernel before it, as in AdaInfer (Fan et al. 2024, section
4), in the bounded form of Nyström (Williams and Seeger 2001).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.kernel_approximation import Nystroem
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import KFold
from sklearn.svm import LinearSVC

from rollout.engine.criteria import judge_logits

LANDMARKS = 48
"""Terms of a kernel expansion, at most."""
RIDGE = 1e-2
"""Penalty on a logistic weight, per row, in units of standardised features."""
FOLDS = 5
SVM = frozenset({"learned_svm"})

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Judge:
    """What turns an exit's features x into the log-odds of agreement.

    Attributes:
        calibration: [features + 1]. Linear: weights and intercept. With support: the kernel's
            scale per feature, g, and the intercept.
        support: [landmarks, features + 1]: points s and their coefficients c in
            sum_s c exp(-sum_f g_f (x_f - s_f)^2); empty where the judge is linear.
    """

    calibration: Array
    support: Array


def fit_judge(criterion: str, values: Array, agrees: NDArray[np.bool_]) -> Judge:
    """Fit on rows whose scores are not from a head that was fitted on them.

    Args:
        values: [rows, features].
        agrees: [rows], whether the exit's answer equalled the full-depth answer.
    """
    if criterion in SVM and agrees.any() and not agrees.all():
        return _fit_kernel(values, agrees)
    return Judge(_fit_logistic(values, agrees), np.empty((0, values.shape[1] + 1)))


def cross_fitted(criterion: str, values: Array, agrees: NDArray[np.bool_]) -> Array:
    """Confidence of each row by a judge that was not fitted on it, [rows]."""
    confidence = np.empty(len(values))
    for train, test in KFold(min(FOLDS, len(values)), shuffle=True, random_state=0).split(values):
        judge = fit_judge(criterion, values[train], agrees[train])
        confidence[test] = judged(judge, values[test])
    return confidence


def judged(judge: Judge, values: Array) -> Array:
    """Confidence of rows [rows, features] by one judge, [rows]."""
    calibration, support = (torch.from_numpy(part)[None] for part in vars(judge).values())
    logits = judge_logits(torch.from_numpy(values)[None], calibration, support)
    return np.asarray(torch.sigmoid(logits)[0].numpy())


def _fit_logistic(values: Array, agrees: NDArray[np.bool_]) -> Array:
    """Weights and intercept, [features + 1], as they apply to raw features.

    Targets are softened (Platt 1999, section 2.2), so that an exit that never disagreed among n
    requests is not taken for certain.
    """
    rows, hits = len(agrees), int(agrees.sum())
    target = np.where(agrees, (hits + 1) / (hits + 2), 1 / (rows - hits + 2))
    mean, scale = values.mean(0), values.std(0) + 1e-6
    design = (values - mean) / scale
    fit = LogisticRegression(C=1 / (RIDGE * rows), solver="newton-cholesky").fit(
        np.concatenate([design, design]),
        np.repeat([1, 0], rows),
        sample_weight=np.concatenate([target, 1 - target]),
    )
    weights = fit.coef_[0] / scale
    return np.append(weights, fit.intercept_[0] - weights @ mean)


def _fit_kernel(values: Array, agrees: NDArray[np.bool_]) -> Judge:
    """An SVM's decision value, turned into log-odds by logistic regression on left-out folds."""
    left_out = np.empty(len(values))
    for train, test in KFold(min(FOLDS, len(values)), shuffle=True, random_state=1).split(values):
        part = agrees[train]
        if part.all() or not part.any():
            left_out[test] = 1.0 if part.all() else -1.0
        else:
            left_out[test] = _decision(*_machine(values[train], part), values[test])
    slope, offset = _fit_logistic(left_out[:, None], agrees)
    scales, support, intercept = _machine(values, agrees)
    support[:, -1] *= slope
    return Judge(np.append(scales, slope * intercept + offset), support)


def _machine(values: Array, agrees: NDArray[np.bool_]) -> tuple[Array, Array, float]:
    """(kernel scales [features], support [landmarks, features + 1], intercept)."""
    mean, scale = values.mean(0), values.std(0) + 1e-6
    design = (values - mean) / scale
    gamma = 1.0 / design.shape[1]
    nystroem = Nystroem(gamma=gamma, n_components=min(LANDMARKS, len(values)), random_state=0).fit(
        design
    )
    machine = LinearSVC(class_weight=None, random_state=0, max_iter=20_000).fit(
        nystroem.transform(design), agrees
    )
    coefficients = nystroem.normalization_.T @ machine.coef_[0]
    support = np.column_stack([nystroem.components_ * scale + mean, coefficients])
    return gamma / scale**2, support, float(machine.intercept_[0])


def _decision(scales: Array, support: Array, intercept: float, values: Array) -> Array:
    distance = ((values[:, None] - support[None, :, :-1]) ** 2) @ scales
    return np.asarray(np.exp(-distance) @ support[:, -1] + intercept)
