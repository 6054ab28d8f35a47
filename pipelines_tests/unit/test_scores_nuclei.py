"""Scores of nuclei: counted by hand, against torchmetrics, and the same however instances are numbered."""

import numpy as np
import pytest

from dermatome.classes import IGNORED
from dermatome.geometry import Size
from dermatome.inference.torch_setup import import_smp
from dermatome.labels.drawn_maps import NucleusMaps, ternary_map
from dermatome.metrics.instances import aggregated_jaccard
from dermatome.metrics.panoptic import ImageScores, mostly_in, nucleus_values, panoptic, score_nuclei
from dermatome.synthetic.nuclei import toy_nuclei


def maps_of(instances, classes, void=None):
    instances, of = np.array(instances, np.int32), np.array(classes, np.uint8)
    semantic, ternary = of[instances], ternary_map(instances)
    if void is not None:
        semantic[np.array(void, bool)] = ternary[np.array(void, bool)] = IGNORED
    return NucleusMaps(instances, semantic, ternary, of)


def spoilt(truth, seed):
    """The truth as a poor prediction: moved, some nuclei missed, joined, made up or of another class."""
    rng = np.random.default_rng(seed)
    labels = np.roll(truth.instances, (2, 1), (0, 1))
    count = len(truth.classes) - 1
    missed, joined = (rng.choice(np.arange(1, count + 1), count // 8, replace=False) for _ in range(2))
    labels[np.isin(labels, missed)] = 0
    for number in joined:
        labels[labels == number] = number % count + 1
    classes = np.append(truth.classes, [1, 3]).astype(np.uint8)
    labels[5:14, 5:16], labels[40:52, 30:40] = count + 1, count + 2
    wrong = rng.uniform(size=len(classes)) < 0.2
    classes[wrong] = rng.integers(1, 5, wrong.sum())
    classes[0] = 0
    seen = np.unique(np.append(labels, 0))
    return maps_of(np.searchsorted(seen, labels), classes[seen].tolist())


@pytest.fixture(scope="module")
def pairs():
    truths = [toy_nuclei(seed, Size(160, 200)).maps for seed in (3, 4)]
    with_void = np.zeros((160, 200), bool)
    with_void[60:120, 50:150] = True
    labels = np.where(with_void, 0, truths[0].instances)
    seen = np.unique(labels)
    void_truth = maps_of(np.searchsorted(seen, labels), truths[0].classes[seen].tolist(), with_void)
    return [(void_truth, spoilt(truths[0], 1)), (truths[1], spoilt(truths[1], 2))]


def test_counted_by_hand():
    truth = maps_of([[1, 1, 1, 1, 0, 2, 2, 0, 3, 3]], [0, 1, 2, 1])
    predicted = maps_of([[1, 1, 1, 0, 0, 0, 2, 2, 3, 3]], [0, 1, 2, 4])
    found = score_nuclei(truth, predicted, 0.25)
    # 1: 3 of 4; 2: 1 shared of 3; 3: whole, but of another class.
    assert (found.binary.tp, found.binary.fp, found.binary.fn, found.binary.iou_sum) == (2, 1, 1, 1.75)
    assert found.binary.quality == pytest.approx(1.75 / 3)
    assert found.binary.detection == pytest.approx(2 / 3)
    assert found.binary.segmentation == pytest.approx(1.75 / 2)
    assert found.jaccard == (3 + 1 + 2, 4 + 3 + 2)
    values = nucleus_values([found])
    assert values["pq_epithelial"] == pytest.approx(0.75 / 1.5)
    assert values["pq_lymphocyte"] == values["pq_macrophage"] == 0  # the macrophage is a false positive all the same
    assert values["pq_neutrophil"] is None
    assert values["class_accuracy"] == 1 / 2
    assert values["iou_lymphocyte_micro"] == 1 / 3
    assert values["dice_epithelial_micro"] == pytest.approx(2 * 3 / (6 + 3))
    assert values["f1_detection"] == 1


def test_false_positives_count_in_images_without_the_class_too():
    with_it = maps_of([[1, 1, 0, 0]], [0, 3])
    without = maps_of([[0, 0, 0, 0]], [0])
    alone = nucleus_values([score_nuclei(with_it, with_it, 0.25)])
    both = nucleus_values([score_nuclei(with_it, with_it, 0.25), score_nuclei(without, with_it, 0.25)])
    assert alone["pq_neutrophil"] == 1
    assert both["pq_neutrophil"] == both["pq_binary"] == pytest.approx(1 / 1.5)
    assert both["pq_binary_macro"] == 1 / 2
    assert (both["iou_neutrophil_micro"], both["iou_neutrophil_macro"]) == (1 / 2, 1 / 2)
    nothing = nucleus_values([score_nuclei(without, without, 0.25)])
    assert nothing["pq_binary"] is nothing["aji"] is nothing["dice_mean_micro"] is None
    assert set(nucleus_values([])) == set(nothing)


def test_void_pixels_and_nuclei_in_them_count_for_nothing():
    void = np.array([[0, 0, 0, 0, 1, 1, 1, 1, 0, 0]], bool)
    truth = maps_of([[1, 1, 1, 0, 0, 0, 0, 0, 0, 0]], [0, 1], void)
    # 1 is right and spills into the void; 2 lies there by two thirds; 3 by a half, so it counts.
    predicted = maps_of([[1, 1, 1, 0, 1, 2, 2, 3, 3, 0]], [0, 1, 1, 1])
    assert mostly_in(predicted.instances, void) == [2]
    found = score_nuclei(truth, predicted, 0.25)
    assert (found.binary.tp, found.binary.fp, found.binary.fn, found.binary.iou_sum) == (1, 1, 0, 1)
    assert found.jaccard == (3, 4)
    assert found.semantic.sum() == found.ternary.sum() == 6


def test_nuclei_of_unknown_class_count_for_no_class():
    truth = maps_of([[1, 1, 0, 2, 2]], [0, IGNORED, 1])
    predicted = maps_of([[1, 1, 0, 2, 2]], [0, 4, 1])
    found = score_nuclei(truth, predicted, 0.25)
    assert found.binary.quality == 1
    assert [part.quality for part in found.by_class] == [1, None, None, None]
    assert found.classified.sum() == 1


def test_a_class_that_is_never_predicted_counts_0_in_the_means():
    truth, predicted = (maps_of([[1, 1, 0, 2, 2]], [0, 1, second]) for second in (3, 1))
    values = nucleus_values([score_nuclei(truth, predicted, 0.25)])
    assert values["pq_neutrophil"] == values["dice_neutrophil_macro"] == 0
    assert values["pq_classes"] == values["dice_mean_micro"] == pytest.approx((2 / 3 + 0) / 2)


def test_a_nucleus_that_was_given_no_class_is_of_a_wrong_one():
    truth = maps_of([[1, 1, 0, 2, 2]], [0, 1, 2])
    found = nucleus_values([score_nuclei(truth, maps_of([[1, 1, 0, 2, 2]], [0, 0, 2]), 0.25)])
    assert (found["pq_binary"], found["pq_epithelial"], found["class_accuracy"]) == (1, 0, 0.5)


def test_panoptic_quality_is_that_of_torchmetrics(pairs):
    import_smp()  # makes torchvision importable, which torchmetrics brings in
    torch = pytest.importorskip("torch")
    from torchmetrics.detection import PanopticQuality

    theirs = PanopticQuality(things={1, 2, 3, 4}, stuffs={0}, return_per_class=True, return_sq_and_rq=True)
    for truth, predicted in pairs:
        # Unknown categories are void to it.
        true_class = np.where(truth.ignored, 77, truth.classes[truth.instances])
        sides = [
            torch.tensor(np.stack([kinds, labels.astype(np.int64)], axis=-1)[None])
            for kinds, labels in (
                (predicted.classes[predicted.instances].astype(np.int64), predicted.instances),
                (true_class.astype(np.int64), np.where(truth.ignored, 0, truth.instances)),
            )
        ]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("torchmetrics.functional.detection._panoptic_quality_common.rank_zero_warn", lambda *_: None)
            theirs.update(*sides)
    wanted = theirs.compute().tolist()  # PQ, SQ and RQ of the classes 1..4, then of 0
    found = [score_nuclei(truth, predicted, 0.25) for truth, predicted in pairs]
    values = nucleus_values(found)
    ours = [values[f"pq_{kind}"] for kind in ("epithelial", "lymphocyte", "neutrophil", "macrophage")]
    assert ours == pytest.approx([row[0] for row in wanted[:4]], abs=1e-6)
    assert any(0 < value < 1 for value in ours)


def plain_aji(truth, predicted):
    """Kumar's definition word for word, for maps without ties."""
    shared = union = 0
    used = set()
    for number in np.unique(truth[truth > 0]):
        own = truth == number
        best, value = None, 0.0
        for other in np.unique(predicted[own & (predicted > 0)]):
            iou = (own & (predicted == other)).sum() / (own | (predicted == other)).sum()
            best, value = (other, iou) if iou > value else (best, value)
        if best is None:
            union += own.sum()
            continue
        used.add(best)
        shared, union = shared + (own & (predicted == best)).sum(), union + (own | (predicted == best)).sum()
    union += np.isin(predicted, [n for n in np.unique(predicted[predicted > 0]) if n not in used]).sum()
    return float(shared / union)


def test_aji_is_kumars_definition(pairs):
    truth, predicted = (maps.instances for maps in pairs[1])
    shared, union = aggregated_jaccard(truth, predicted)
    assert shared / union == pytest.approx(plain_aji(truth, predicted))
    assert aggregated_jaccard(np.array([[1, 1, 2, 2]]), np.array([[1, 1, 1, 1]])) == (4, 8)  # one partner of both
    assert aggregated_jaccard(np.array([[1, 1, 0]]), np.array([[0, 0, 5]])) == (0, 3)


@pytest.mark.parametrize("seed", range(4))
def test_numbers_of_instances_decide_nothing(pairs, seed):
    rng = np.random.default_rng(seed)

    def renumbered(maps):
        order = np.append(0, 1 + rng.permutation(len(maps.classes) - 1))
        classes = np.empty_like(maps.classes)
        classes[order] = maps.classes
        return NucleusMaps(order[maps.instances].astype(np.int32), maps.semantic, maps.ternary, classes)

    def scored(sides):
        found: list[ImageScores] = [score_nuclei(truth, predicted, 0.25) for truth, predicted in sides]
        return nucleus_values(found)

    before, after = scored(pairs), scored([(renumbered(t), renumbered(p)) for t, p in pairs])
    assert before == pytest.approx(after, abs=1e-12)
    # Ties too: two predicted halves, of which one is another nucleus's partner as well.
    truth = np.array([[1, 1, 1, 1, 2, 2]])
    halves = np.array([[1, 1, 2, 2, 2, 0]])
    swapped = np.array([[2, 2, 1, 1, 1, 0]])
    assert aggregated_jaccard(truth, halves) == aggregated_jaccard(truth, swapped)
    none = np.zeros_like(truth, bool)
    assert panoptic(truth, halves, none) == panoptic(truth, swapped, none)


def test_what_does_not_fit_is_refused():
    one, other = maps_of([[1, 0]], [0, 1]), maps_of([[1, 0, 0]], [0, 1])
    with pytest.raises(ValueError, match="shape"):
        score_nuclei(one, other, 0.25)
    with pytest.raises(ValueError, match="outside"):
        score_nuclei(one, maps_of([[1, 0]], [0, IGNORED]), 0.25)
