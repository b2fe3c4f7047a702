"""The depth needed, curves by layer, and layers to do without."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rollout.stats.layers import (
    UNLABELLED,
    depth_needed,
    dispensable,
    layer_curve,
    layer_importance,
)

answers = arrays(
    np.int64, st.tuples(st.integers(1, 8), st.integers(1, 9)), elements=st.integers(0, 2)
)


@given(answers)
def test_the_depth_needed_is_the_first_from_which_the_answer_never_changes(
    found: np.ndarray[tuple[int, int], np.dtype[np.int64]],
) -> None:
    for row, needed in zip(found.tolist(), depth_needed(found).tolist(), strict=True):
        assert set(row[needed - 1 :]) == {row[-1]}
        assert needed == 1 or row[needed - 2] != row[-1]


def test_an_answer_that_left_and_came_back_is_not_settled_before() -> None:
    assert depth_needed([[1, 0, 1, 1]]).tolist() == [3]


def test_a_curve_compares_with_the_last_layer_and_with_the_truth() -> None:
    curve = layer_curve([[0, 1, 1], [0, 0, 0], [2, 1, 1], [1, 1, 1]], [2, 4, 6], [1, 0, 2, 1])
    assert [point.value for point in curve.agreement] == [0.5, 1.0, 1.0]
    assert curve.accuracy is not None
    assert [point.value for point in curve.accuracy] == [0.75, 0.75, 0.75]
    assert curve.settled == (0.5, 1.0, 1.0)
    assert (curve.needed(0.5), curve.needed(0.95)) == (2, 4)
    # Layers needed: 4, 2, 4, 2 of 6.
    assert curve.oracle_saving == 0.5


def test_accuracy_is_of_labelled_requests_alone_and_unknown_without_any() -> None:
    rows = [[0, 1], [1, 1], [1, 1]]
    some = layer_curve(rows, [1, 2], [1, UNLABELLED, UNLABELLED])
    assert some.accuracy is not None
    assert [point.value for point in some.accuracy] == [0.0, 1.0]
    assert some.agreement[0].value == 2 / 3
    assert layer_curve(rows, [1, 2], [UNLABELLED] * 3).accuracy is None


def test_layers_to_do_without_are_those_whose_absence_changes_few_answers() -> None:
    agrees = np.ones((100, 3), dtype=bool)
    agrees[:3, 1] = agrees[:1, 2] = False
    importance = layer_importance(agrees, np.full((100, 3), 0.25))
    assert [one.agreement.value for one in importance] == [1.0, 0.97, 0.99]
    assert [one.divergence for one in importance] == [0.25] * 3
    assert dispensable(importance, 0.98) == (1, 3)
