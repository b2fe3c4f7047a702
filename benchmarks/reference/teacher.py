"""Linear classifiers: the bag-of-words baseline to beat, and the soft labels of a teacher.

The teacher averages, in log-probability, a logistic regression on the encoder's sentence vectors
and the bag-of-words one (distillation: Hinton et al. 2015). On training rows its labels come from
models fitted without the row (cross-fitting), so that they carry its doubt and not its memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline

FOLDS = 4
FLOOR = 1e-6


@dataclass(frozen=True)
class Taught:
    """Soft labels and, on held-out rows, the accuracy of their makers.

    Attributes:
        soft: Out-of-fold probabilities of the training rows, [rows, labels].
    """

    soft: NDArray[np.float32]
    bag_of_words_accuracy: float
    teacher_accuracy: float


def teach(
    texts: Sequence[str],
    vectors: NDArray[np.float32],
    labels: Sequence[int],
    held_out_texts: Sequence[str],
    held_out_vectors: NDArray[np.float32],
    held_out_labels: Sequence[int],
) -> Taught:
    """Fit baseline and teacher on the training rows, and cross-fit the teacher's labels.

    Args:
        labels: Indices of the training rows' labels; every label occurs.
    """
    words, known = np.array(texts, dtype=object), np.array(labels)
    classes = int(known.max()) + 1
    soft = np.zeros((len(known), classes), dtype=np.float32)
    # A label with one row must not keep the others from being stratified.
    fine = np.where(np.bincount(known)[known] >= FOLDS, known, -1)
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    for fitted, asked in folds.split(words, fine):
        by_words = _by_words(words[fitted], known[fitted], words[asked], classes)
        by_vectors = _by_vectors(vectors[fitted], known[fitted], vectors[asked], classes)
        soft[asked] = _averaged(by_words, by_vectors)
    held_words = np.array(held_out_texts, dtype=object)
    by_words = _by_words(words, known, held_words, classes)
    by_vectors = _by_vectors(vectors, known, held_out_vectors, classes)
    truth = np.array(held_out_labels)
    return Taught(
        soft,
        float((by_words.argmax(1) == truth).mean()),
        float((_averaged(by_words, by_vectors).argmax(1) == truth).mean()),
    )


def _by_words(
    texts: NDArray[np.object_],
    labels: NDArray[np.int64],
    asked: NDArray[np.object_],
    classes: int,
) -> NDArray[np.float64]:
    model = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2, token_pattern=r"\S+"),
        LogisticRegression(C=10.0, max_iter=200),
    )
    return _spread(model.fit(texts, labels), asked, classes)


def _by_vectors(
    vectors: NDArray[np.float32],
    labels: NDArray[np.int64],
    asked: NDArray[np.float32],
    classes: int,
) -> NDArray[np.float64]:
    model = LogisticRegression(C=10.0, max_iter=200).fit(vectors * 4, labels)
    return _spread(model, asked * 4, classes)


def _spread(model: LogisticRegression, asked: object, classes: int) -> NDArray[np.float64]:
    """Probabilities with a column for every label, also one that this fold never saw."""
    probabilities = model.predict_proba(asked)
    spread = np.full((len(probabilities), classes), FLOOR)
    spread[:, model.classes_] = probabilities
    return spread


def _averaged(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    logs = (np.log(one + FLOOR) + np.log(other + FLOOR)) / 2
    exponential = np.exp(logs - logs.max(1, keepdims=True))
    return np.asarray(exponential / exponential.sum(1, keepdims=True))
