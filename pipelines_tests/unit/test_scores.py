"""Scores against cases worked out by hand."""

import numpy as np
import pytest

from dermatome.scores import ScoreOutcome, class_scores, confusion_matrix, mean_iou, score_values

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
    assert mean_iou(only_a) == 1.0
    mixed = class_scores(np.array([[5, 3, 0], [0, 0, 0], [2, 0, 0]]), LABELS)
    assert (mixed[1].outcome, mixed[1].recall, mixed[1].iou) == (ScoreOutcome.NOT_IN_TRUTH, None, 0.0)
    assert (mixed[2].outcome, mixed[2].precision, mixed[2].iou) == (ScoreOutcome.NOT_PREDICTED, None, 0.0)
    assert mean_iou(class_scores(np.zeros((3, 3), dtype=np.int64), LABELS)) is None
    assert score_values(mixed)["iou_c"] == 0.0


def test_products_of_huge_counts_do_not_overflow():
    big = 10**12
    score = class_scores(np.array([[big, 1], [1, big]]), ("a", "b"))[0]
    assert score.mcc == pytest.approx(1.0)
