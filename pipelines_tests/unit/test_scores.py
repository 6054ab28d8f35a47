"""Scores against cases worked out by hand."""

import numpy as np
import pytest

from dermatome.metrics.semantic import (
    SCORE_NAMES,
    ScoreOutcome,
    class_scores,
    confusion_matrix,
    mean_score,
    score_values,
)

LABELS = ("a", "b", "c")


def test_the_matrix_has_truth_in_rows():
    truth = np.array([[0, 0, 1, 1, 1]], dtype=np.uint8)
    predicted = np.array([[0, 1, 1, 1, 0]], dtype=np.uint8)
    assert confusion_matrix(truth, predicted, 3).tolist() == [[1, 1, 0], [1, 2, 0], [0, 0, 0]]
    with pytest.raises(ValueError, match="shape"):
        confusion_matrix(truth, predicted[:, :3], 3)
    with pytest.raises(ValueError, match="outside"):
        confusion_matrix(truth, predicted + 2, 3)


def test_scores_by_hand():
    b = class_scores(np.array([[50, 10, 0], [5, 30, 0], [0, 0, 5]]), LABELS)[1]
    assert (b.truth_px, b.predicted_px) == (35, 40)
    assert b.precision == pytest.approx(30 / 40)
    assert b.recall == pytest.approx(30 / 35)
    assert b.f1 == pytest.approx(60 / 75)
    assert b.iou == pytest.approx(30 / 45)
    assert b.mcc == pytest.approx((30 * 55 - 10 * 5) / (40 * 35 * 60 * 65) ** 0.5)


def test_mcc_equals_the_correlation_of_the_two_indicator_variables():
    rng = np.random.default_rng(3)
    truth = rng.integers(0, 3, 500)
    predicted = np.where(rng.random(500) < 0.6, truth, rng.integers(0, 3, 500))
    for index, score in enumerate(class_scores(confusion_matrix(truth, predicted, 3), LABELS)):
        assert score.mcc == pytest.approx(np.corrcoef(truth == index, predicted == index)[0, 1])


def test_classes_that_are_absent_are_named_and_not_nan():
    only_a = class_scores(np.array([[9, 0, 0], [0, 0, 0], [0, 0, 0]]), LABELS)
    assert only_a[0].iou == 1.0
    assert only_a[0].mcc is None
    assert only_a[1].outcome is ScoreOutcome.ABSENT
    assert (only_a[1].precision, only_a[1].iou) == (None, None)
    assert mean_score(only_a, "iou") == 1.0
    assert mean_score(class_scores(np.zeros((3, 3), dtype=np.int64), LABELS), "iou") is None


def test_a_class_that_only_one_of_both_has_scores_0():
    mixed = class_scores(np.array([[5, 3, 0], [0, 0, 0], [2, 0, 0]]), LABELS)
    assert (mixed[1].outcome, mixed[2].outcome) == (ScoreOutcome.NOT_IN_TRUTH, ScoreOutcome.NOT_PREDICTED)
    for score in mixed[1:]:
        assert (score.precision, score.recall, score.f1, score.iou, score.mcc) == (0, 0, 0, 0, 0), score.label
    # By hand: of class a 5 of 7 predicted pixels are right, 5 of 8 true ones found, and the others are never right.
    values = score_values(mixed)
    assert values["iou_c"] == 0
    assert values["mean_precision"] == pytest.approx(5 / 7 / 3)
    assert values["mean_recall"] == pytest.approx(5 / 8 / 3)
    assert values["mean_mcc"] == pytest.approx((5 * 0 - 2 * 3) / (8 * 7 * 2 * 3) ** 0.5 / 3)


@pytest.mark.parametrize("name", SCORE_NAMES)
def test_never_predicting_a_class_is_no_better_than_finding_half_of_it(name):
    half = np.array([[880, 50, 0, 20], [50, 900, 50, 0], [0, 50, 400, 0], [0, 0, 20, 20]])
    never = half + np.array([[20, 0, 0, -20], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 20, -20]])
    found, missed = (mean_score(class_scores(matrix, "abcd"), name) for matrix in (half, never))
    assert missed < found


def test_products_of_huge_counts_do_not_overflow():
    big = 10**12
    score = class_scores(np.array([[big, 1], [1, big]]), ("a", "b"))[0]
    assert score.mcc == pytest.approx(1.0)
