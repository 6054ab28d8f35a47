"""Instance scores against cases counted by hand and against every possible assignment."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dermatome.metrics.instances import match_instances

TRUTH = np.array([[1, 1, 1, 1, 0, 2, 2, 0, 7, 7]])


def test_a_perfect_prediction_with_other_numbers():
    predicted = np.array([[9, 9, 9, 9, 0, 1, 1, 0, 3, 3]])
    found = match_instances(TRUTH, predicted)
    assert (found.f1, found.precision, found.recall, found.average_precision) == (1, 1, 1, 1)
    assert sorted(zip(found.truth_ids, found.predicted_ids, strict=True)) == [(1, 9), (2, 1), (7, 3)]


def test_misses_false_finds_and_shifts_counted_by_hand():
    # 1: three of four pixels (IoU 3/4); 2: one of two and one beside (1/3); 7: missed; 5: nothing there.
    predicted = np.array([[4, 4, 4, 0, 0, 0, 6, 6, 0, 0]])
    found = match_instances(TRUTH, predicted, 0.5)
    assert found.truth_ids.tolist() == [1]
    assert found.ious.tolist() == [0.75]
    assert found.f1 == pytest.approx(2 / 5)
    assert found.average_precision == pytest.approx(1 / 4)
    assert match_instances(TRUTH, predicted, 0.3).f1 == pytest.approx(4 / 5)
    assert match_instances(TRUTH, predicted, 0.3).average_precision == pytest.approx(2 / 3)
    assert match_instances(TRUTH, predicted, 0.8).average_precision == 0


def test_halves_are_matched_once():
    found = match_instances(np.array([[1, 1]]), np.array([[1, 2]]), 0.5)
    assert len(found.ious) == 1
    assert found.f1 == pytest.approx(2 / 3)


def test_nothing_is_no_score_and_half_nothing_is_zero():
    none, some = np.zeros((3, 3), int), np.ones((3, 3), int)
    assert match_instances(none, none).f1 is None
    assert match_instances(none, none).average_precision is None
    assert match_instances(some, none).f1 == 0
    assert match_instances(some, none).precision == 0
    assert match_instances(none, some).recall == 0
    assert match_instances(none, none).precision is match_instances(none, none).recall is None


@pytest.mark.parametrize(
    ("truth", "predicted", "iou"),
    [(np.zeros((2, 2), int), np.zeros((2, 3), int), 0.5), (-np.ones((2, 2), int), np.ones((2, 2), int), 0.5)]
    + [(np.ones((2, 2), int), np.ones((2, 2), int), iou) for iou in (0, 1.1, -1)],
)
def test_senseless_input_is_refused(truth, predicted, iou):
    with pytest.raises(ValueError, match="iou|shape|numbered"):
        match_instances(truth, predicted, iou)


maps = arrays(np.int32, (3, 4), elements=st.integers(0, 4))


@settings(max_examples=150, deadline=None)
@given(truth=maps, predicted=maps, iou=st.sampled_from([0.1, 0.25, 0.5, 0.75]))
def test_as_many_matches_as_any_assignment_has(truth, predicted, iou):
    t_ids, p_ids = ([i for i in np.unique(m) if i] for m in (truth, predicted))

    def overlap(t, p):
        a, b = truth == t, predicted == p
        return float((a & b).sum() / (a | b).sum())

    short, long, turned = (t_ids, p_ids, False) if len(t_ids) <= len(p_ids) else (p_ids, t_ids, True)
    best = 0, 0.0
    for order in permutations(long, len(short)):
        values = [overlap(b, a) if turned else overlap(a, b) for a, b in zip(short, order, strict=True)]
        good = [v for v in values if v >= iou]
        best = max(best, (len(good), sum(good)))
    found = match_instances(truth, predicted, iou)
    assert len(found.ious) == best[0]
    assert found.ious.sum() == pytest.approx(best[1])
    for t, p, value in zip(found.truth_ids, found.predicted_ids, found.ious, strict=True):
        assert overlap(t, p) == pytest.approx(value)
