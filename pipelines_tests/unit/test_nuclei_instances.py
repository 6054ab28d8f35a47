"""Nuclei out of probabilities: counted once, divided where they touch, the same however many rows come together."""

import numpy as np
import pandas as pd
import pytest

from dermatome.classes import NucleusClass, TernaryClass
from dermatome.errors import BadSetting
from dermatome.geometry import Size
from dermatome.labels.drawn_maps import ternary_map
from dermatome.nuclei.maps.instances import InstanceBuilder
from dermatome.nuclei.maps.settings import InstanceSettings
from dermatome.nuclei.maps.table import NUCLEUS_COLUMNS
from dermatome.synthetic.nuclei import toy_nuclei

SIZE = Size(600, 530)


def probabilities(instances, kinds, ternary, sure=0.9):
    """(8, H, W) float32 of maps that are known."""
    semantic = np.asarray(kinds)[instances]
    parts = [(semantic[None] == np.arange(5)[:, None, None]), (ternary[None] == np.arange(3)[:, None, None])]
    likely = [np.where(part, sure, (1 - sure) / (len(part) - 1)) for part in parts]
    return np.concatenate(likely).astype(np.float32)


def built(rows, heights, size, mpp=0.25, **settings):
    builder = InstanceBuilder(size, mpp, InstanceSettings(**settings))
    top = 0
    for height in heights:
        builder.add(rows[:, top : top + height])
        top += height
    labels, table = builder.finish()
    return labels.whole(), table


@pytest.fixture(scope="module")
def toy():
    return toy_nuclei(3, Size(256, 224))


def test_toys_come_back_whatever_rows_come_together(toy):
    maps, size = toy.maps, toy.slide.size
    rows = probabilities(maps.instances, maps.classes, maps.ternary)
    once, table = built(rows, [256], size, min_area_um2=0)
    for heights in ([1] * 256, [3, 50, 7, 96, 100], [192, 64]):
        again, same = built(rows, heights, size, min_area_um2=0)
        assert (again == once).all()
        pd.testing.assert_frame_equal(same, table)
    assert list(table.columns) == list(NUCLEUS_COLUMNS)
    assert set(np.unique(once)) == set(range(len(table) + 1))
    # Each nucleus of the truth, those with hardly an inside aside, is one of those found, and of its class.
    found_of, wrong = set(), 0
    for number in range(1, len(maps.classes)):
        here = maps.instances == number
        if here.sum() < 150:
            continue
        values, counts = np.unique(once[here], return_counts=True)
        best = int(values[counts.argmax()])
        overlap = counts.max() / (here | (once == best)).sum()
        wrong += best == 0 or overlap < 0.7
        if best:
            assert best not in found_of
            found_of.add(best)
            assert table["class"][best - 1] == NucleusClass(maps.classes[number]).label
    assert len(found_of) > 20
    assert wrong <= 0.05 * len(found_of)


def test_a_nucleus_that_many_bands_share_is_one_and_its_numbers_are_those_of_its_shape():
    instances = np.zeros((600, 530), np.int32)
    instances[20:580, 100:140] = 1  # long, over three rows of tiles of the map
    instances[540:580, 100:400] = 1  # bent: two arms that meet below
    instances[20:580, 360:400] = 1
    instances[300:330, 200:260] = 2
    rows = probabilities(instances, [0, 1, 3], ternary_map(instances))
    labels, table = built(rows, [40] * 15, SIZE)
    assert len(table) == 2
    assert (labels == instances).mean() > 0.999
    second = table.iloc[1]
    assert second["class"] == "neutrophil"
    assert second["class_probability"] == pytest.approx(0.9 / (0.9 + 3 * 0.025), abs=0.01)
    assert (second["centroid_y_px"], second["centroid_x_px"]) == pytest.approx((314.5, 229.5), abs=0.2)
    assert second["area_um2"] == pytest.approx(30 * 60 * 0.0625, rel=0.02)
    # Of a rectangle: the axes of an ellipse of the same moments are 2/√3 times its sides.
    assert second["major_axis_um"] == pytest.approx(60 * 0.25 * 2 / 3**0.5, rel=0.02)
    assert second["minor_axis_um"] == pytest.approx(30 * 0.25 * 2 / 3**0.5, rel=0.02)
    assert second["eccentricity"] == pytest.approx(0.75**0.5, abs=0.02)
    assert abs(second["orientation"]) < 0.05 or abs(abs(second["orientation"]) - np.pi / 2) < 0.05


@pytest.mark.parametrize(
    ("left", "right", "expected", "probability"),
    [
        # background, epithelial, lymphocyte in the left 24 and the right 16 of 40 columns
        ((0.0, 0.52, 0.48), (0.0, 0.0, 1.0), "epithelial", 0.6 * 0.52),
        ((0.6, 0.1, 0.3), (0.1, 0.9, 0.0), "epithelial", 0.42 / 0.6),
        ((0.6, 0.1, 0.3), (0.6, 0.1, 0.3), "lymphocyte", 0.75),
        ((0.95, 0.04, 0.01), (0.95, 0.04, 0.01), "unclassified", 0.0),
        ((1.0, 0.0, 0.0), (1.0, 0.0, 0.0), "unclassified", 0.0),
    ],
)
def test_a_nucleus_is_of_the_class_of_most_of_its_pixels_and_of_none_without_evidence(
    left, right, expected, probability
):
    instances = np.zeros((80, 80), np.int32)
    instances[20:60, 20:60] = 1
    rows = probabilities(instances, [0, 1], ternary_map(instances))
    for columns, likely in ((slice(20, 44), left), (slice(44, 60), right)):
        rows[:3, 20:60, columns] = np.array(likely)[:, None, None]
        rows[3:5, 20:60, columns] = 0
    for heights in ([80], [1] * 80):
        _, table = built(rows, heights, Size(80, 80))
        assert table["class"].tolist() == [expected]
        assert table["class_probability"][0] == pytest.approx(probability, abs=0.01)


def test_a_likely_bridge_joins_no_nuclei_and_a_faint_nucleus_is_found():
    instances = np.zeros((100, 200), np.int32)
    instances[20:60, 20:60] = 1
    instances[20:60, 80:120] = 2
    instances[65:95, 30:60] = 3
    ternary = ternary_map(instances)
    rows = probabilities(instances, [0, 1, 1, 1], ternary)
    faint = np.array([0.2, 0.6, 0.2])
    bridge = np.zeros_like(instances, bool)
    bridge[34:46, 55:85] = True  # 3 µm wide, where opening alone would not part them
    for here in (bridge, (instances == 3) & (ternary == TernaryClass.INSIDE)):
        rows[5:, here] = faint[:, None]
    once, table = built(rows, [100], Size(100, 200))
    assert len(table) == 3
    assert [np.unique(once[instances == number])[-1] for number in (1, 2, 3)] == [1, 2, 3]
    joined, _ = built(rows, [100], Size(100, 200), sure_threshold=0.5)
    assert joined[40, 40] == joined[40, 100]
    for heights in ([1] * 100, [37, 63]):
        assert (built(rows, heights, Size(100, 200))[0] == once).all()


def test_specks_and_what_is_small_are_dropped():
    instances = np.zeros((80, 80), np.int32)
    instances[10:40, 10:40] = 1
    instances[60:64, 60:64] = 2
    ternary = ternary_map(instances)
    ternary[50, 20] = TernaryClass.INSIDE
    rows = probabilities(instances, [0, 1, 2], ternary)
    labels, table = built(rows, [33, 47], Size(80, 80))
    assert len(table) == 1
    assert not labels[45:].any()
    nothing, empty = built(probabilities(instances * 0, [0], ternary * 0), [80], Size(80, 80))
    assert not nothing.any()
    assert len(empty) == 0
    assert [str(kind) for kind in empty.dtypes] == [str(kind) for kind in table.dtypes]


def test_thresholds_that_do_not_rise_and_rows_that_are_missing_are_refused():
    with pytest.raises(BadSetting, match="above the sure_threshold"):
        InstanceSettings(sure_threshold=0.4)
    builder = InstanceBuilder(Size(40, 40), 0.25)
    builder.add(np.zeros((8, 20, 40), np.float32))
    with pytest.raises(ValueError, match="20 of 40 rows"):
        builder.finish()
