"""Aperio XML read and drawn: hand-drawn cases, hostile files, and one real file of each kind."""

import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.measure import grid_points_in_poly

from dermatome.classes import IGNORED, NucleusClass, TernaryClass
from dermatome.errors import BadAnnotation, MissingInput
from dermatome.geometry import Box, Size
from dermatome.labels.drawn_maps import draw_nuclei, ternary_map
from dermatome.labels.fill import MAX_CROSSED_ROWS, crossed_rows, pixels_in_outlines
from dermatome.labels.imagescope import Annotation, Region, read_annotation

FIELD = Size(40, 50)


def box(top, left, bottom, right, name="Epithelial", cut_out=False):
    return Region([np.array([[left, top], [right, top], [right, bottom], [left, bottom]], float)], name, cut_out)


def xml(layers, head='<Annotations MicronsPerPixel="0.25">'):
    return f"{head}{layers}</Annotations>"


def layer(name, *outlines):
    regions = "".join(
        "<Region><Attributes><Attribute Name='of the region'/></Attributes><Vertices>"
        + "".join(f'<Vertex X="{x}" Y="{y}" Z="0"/>' for x, y in points)
        + "</Vertices></Region>"
        for points in outlines
    )
    return (
        f'<Annotation Id="1" Name="Layer"><Attributes><Attribute Name="{name}"/></Attributes>'
        f"<Regions>{regions}</Regions></Annotation>"
    )


def test_classes_outlines_and_scale_are_read(tmp_path):
    file = tmp_path / "a.xml"
    triangle = [(1.5, 2.0), (8.0, 2.0), (4.0, 9.25)]
    file.write_text(xml(layer("Epithelial", triangle) + layer("Ambiguous", triangle, [])))
    read = read_annotation(file)
    assert read.mpp == 0.25
    assert [region.name for region in read.regions] == ["Epithelial", "Ambiguous", "Ambiguous"]
    assert read.regions[0].parts[0].tolist() == [list(point) for point in triangle]
    assert read.regions[2].parts[0].shape == (0, 2)


def test_a_box_covers_exactly_its_pixels():
    maps = draw_nuclei(Annotation((box(5, 10, 17, 30),)), FIELD)
    wanted = np.zeros((40, 50), np.int32)
    wanted[5:17, 10:30] = 1
    np.testing.assert_array_equal(maps.instances, wanted)
    np.testing.assert_array_equal(maps.semantic, wanted * NucleusClass.EPITHELIAL)
    wanted[5:17, 10:30] = TernaryClass.BOUNDARY
    wanted[8:14, 13:27] = TernaryClass.INSIDE  # three pixels on each side
    np.testing.assert_array_equal(maps.ternary, wanted)


def test_the_smaller_nucleus_lies_on_top_in_whatever_order():
    large, small = box(2, 2, 30, 30), box(20, 20, 34, 34, "Lymphocyte")
    one, two = (draw_nuclei(Annotation(order), FIELD) for order in ((large, small), (small, large)))
    np.testing.assert_array_equal(one.semantic, two.semantic)
    np.testing.assert_array_equal(one.ternary, two.ternary)
    assert (one.semantic[20:34, 20:34] == NucleusClass.LYMPHOCYTE).all()
    assert one.ternary[19, 25] == TernaryClass.BOUNDARY  # of the large one, towards the small one
    assert one.ternary[20, 25] == TernaryClass.BOUNDARY


def test_ambiguous_regions_are_ignored_and_lie_below_nuclei():
    maps = draw_nuclei(Annotation((box(5, 5, 15, 15), box(0, 0, 20, 10, "Ambiguous"))), FIELD)
    assert maps.instances.max() == 1
    assert (maps.semantic[5:15, 5:15] == NucleusClass.EPITHELIAL).all()
    assert maps.ignored.sum() == 20 * 10 - 10 * 5
    np.testing.assert_array_equal(maps.ignored, maps.semantic == IGNORED)


def test_what_cannot_be_drawn_is_told_and_leaves_no_gap():
    line = Region([np.array([[3.0, 3], [9, 9]])], "Epithelial")
    outside, again = box(100, 100, 120, 120), box(10, 10, 20, 20)
    maps = draw_nuclei(Annotation((line, outside, box(10, 10, 20, 20), again, box(30, 5, 31, 6))), FIELD)
    assert maps.undrawn == (0, 1, 3)
    assert maps.classes.tolist() == [0, 1, 1]
    assert (maps.ternary[30, 5], maps.instances[30, 5]) == (TernaryClass.INSIDE, 2)


def test_an_outline_that_crosses_itself_is_filled_and_the_edge_of_the_image_is_no_boundary():
    twice = np.array([[5, 5], [25, 5], [25, 25], [5, 25], [5, 4], [26, 4], [26, 26], [4, 26], [4, 4]], float)
    maps = draw_nuclei(Annotation((Region([twice], "Macrophage"),)), FIELD)
    assert (maps.instances[5:25, 5:25] == 1).all()
    assert (draw_nuclei(Annotation((box(-50, -50, 90, 90),)), FIELD).ternary == TernaryClass.INSIDE).all()


def test_the_negative_pen_cuts_out():
    maps = draw_nuclei(Annotation((box(5, 5, 25, 25), box(10, 10, 12, 12, cut_out=True))), FIELD)
    assert maps.instances.sum() == 400 - 4
    assert maps.undrawn == ()


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(*[st.floats(-8, 60)] * 6, st.sampled_from(["Epithelial", "neutrophil", "Ambiguous", ""])), max_size=9
    )
)
def test_the_maps_agree_with_one_another(triangles):
    regions = tuple(Region([np.array(points, float).reshape(3, 2)], name) for *points, name in triangles)
    maps = draw_nuclei(Annotation(regions), FIELD)
    count = int(maps.instances.max())
    assert np.unique(maps.instances[maps.instances > 0]).tolist() == list(range(1, count + 1))
    assert count + len(maps.undrawn) == sum(region.name != "Ambiguous" for region in regions)
    np.testing.assert_array_equal(np.where(maps.ignored, 0, maps.semantic), maps.classes[maps.instances])
    np.testing.assert_array_equal(np.isin(maps.ternary, (1, 2)), maps.instances > 0)
    inside = np.unique(maps.instances[maps.ternary == TernaryClass.INSIDE])
    assert inside.tolist() == list(range(1, count + 1))


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.floats(-5, 25), st.floats(-5, 25)), min_size=3, max_size=12),
    st.sampled_from([None, 0.5, 1.0]),
)
def test_filled_pixels_are_those_of_scikit_image(corners, grid):
    outline = np.array(corners) if grid is None else np.round(np.array(corners) / grid) * grid
    wanted = grid_points_in_poly((20, 15), outline - 0.5).T
    np.testing.assert_array_equal(pixels_in_outlines([outline], Box(0, 0, 15, 20)), wanted)


def test_a_freehand_outline_of_thousands_of_points_is_drawn_at_once():
    outline = np.random.default_rng(0).uniform(0, 2000, (3000, 2))
    pixels_in_outlines([outline[:3]], Box(0, 0, 4, 4))  # compiled
    start = time.monotonic()
    assert draw_nuclei(Annotation((Region([outline], "Ambiguous"),)), Size(2000, 2000)).ignored.any()
    assert time.monotonic() - start < 10, "testing each pixel against each edge takes 21 s"


def test_an_outline_that_crosses_itself_endlessly_is_refused_at_once():
    outline = np.random.default_rng(0).uniform(0, 4000, (100_000, 2))
    start = time.monotonic()
    with pytest.raises(
        BadAnnotation, match="^the annotation has outlines whose edges cross 133 million rows of pixels"
    ):
        draw_nuclei(Annotation((Region([outline], "Epithelial"),)), Size(4000, 4000))
    assert time.monotonic() - start < 2, "drawing it takes 16 s"


def test_as_many_freehand_outlines_as_a_slide_has_cross_fewer_rows_than_are_drawn():
    angles = np.linspace(0, 2 * np.pi, 100)[:, None]
    nucleus = np.hstack([np.cos(angles), np.sin(angles)]) * 40 + 50
    assert 200_000 * crossed_rows(nucleus, Box(0, 0, 100, 100)) == 31_800_000 < MAX_CROSSED_ROWS


def test_many_large_regions_take_the_memory_of_one():
    squares = Annotation(tuple(box(0, 16 * n, 300, 300) for n in range(18)))
    draw_nuclei(Annotation(()), Size(300, 300))  # what is imported stays
    tracemalloc.start()
    try:
        maps = draw_nuclei(squares, Size(300, 300))
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert maps.instances[0, -1] == maps.instances.max(), "the smallest lies on top"
    assert peak_bytes < 100 * 300 * 300


def test_regions_that_cover_the_image_again_and_again_are_refused_before_they_are_drawn():
    # A wild coordinate is not drawn, and does not count.
    draw_nuclei(Annotation((box(-1e7, -1e7, 1e7, 1e7),) * 18), FIELD)
    with pytest.raises(BadAnnotation, match="the annotation has regions that cover their image 23 times"):
        draw_nuclei(Annotation((box(-1e7, -1e7, 1e7, 1e7),) * 21), FIELD)


def test_ternary_of_touching_nuclei_keeps_them_apart():
    instances = np.zeros((20, 30), np.int32)
    instances[2:18, 2:15], instances[2:18, 15:28] = 1, 2
    row = ternary_map(instances)[10, 10:20]
    assert row.tolist() == [1, 1, 2, 2, 2, 2, 2, 2, 1, 1]


def test_an_unknown_class_names_what_is_known():
    with pytest.raises(BadAnnotation, match="'Plasma'.*epithelial, lymphocyte, neutrophil, macrophage or ambiguous"):
        draw_nuclei(Annotation((box(1, 1, 9, 9, "Plasma"),)), FIELD)


BOMB = '<!DOCTYPE a [<!ENTITY b "ha"><!ENTITY c "&b;&b;&b;">]><Annotations>&c;</Annotations>'
GOOD = xml(layer("Epithelial", [(1, 1), (9, 1), (9, 9)]))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (BOMB, "document type"), ('<!DOCTYPE a SYSTEM "file:///etc/passwd"><Annotations/>', "document type"),
        (GOOD[:200], "not complete XML"), ("", "not complete XML"),
        ("<html><body/></html>", "not an Aperio annotation"),
        ("<Annotations>" + "<a>" * 20_000 + "</a>" * 20_000 + "</Annotations>", "nests elements deeper"),
        (GOOD.replace('X="9"', 'X="nan"'), "cannot lie on an image"),
        (GOOD.replace('Y="9"', ""), "cannot lie on an image"),
        (GOOD.replace('X="9"', 'X="1e300"'), "cannot lie on an image"),
    ],
)  # fmt: skip
def test_what_is_no_annotation_is_refused_in_one_sentence(tmp_path, content, said):
    file = tmp_path / "a.xml"
    file.write_text(content)
    with pytest.raises(BadAnnotation, match=said) as caught:
        read_annotation(file)
    assert "a.xml" in str(caught.value)


def test_ellipses_and_decimal_commas_of_imagescope(tmp_path):
    corners = [("10,5", 10), (30, 10), (30, 20), ("10,5", 20)]
    for points in (corners, corners[::2]):
        text = xml(layer("Epithelial", points), '<Annotations MicronsPerPixel="0,25">')
        (tmp_path / "a.xml").write_text(text.replace("<Region>", '<Region Type="2">'))
        read = read_annotation(tmp_path / "a.xml")
        assert read.mpp == 0.25
        covered = draw_nuclei(read, FIELD).instances
        assert covered.sum() == pytest.approx(np.pi * 9.75 * 5, abs=3)
        assert (covered[10, 11], covered[15, 12]) == (0, 1)


def test_limits_hold(tmp_path, monkeypatch):
    file = tmp_path / "a.xml"
    file.write_text(GOOD)
    for limit, said in (("MAX_VERTICES", "vertices"), ("MAX_REGIONS", "regions"), ("MAX_BYTES", "larger than")):
        with monkeypatch.context() as patch:
            patch.setattr(f"dermatome.labels.imagescope.{limit}", 0)
            with pytest.raises(BadAnnotation, match=said):
                read_annotation(file)
    with pytest.raises(MissingInput, match="no annotation"):
        read_annotation(tmp_path / "none.xml")


def test_real_files(realdata, tmp_path):
    nuclei = read_annotation(realdata / "monuseg" / "TCGA-A7-A13E-01Z-00-DX1.xml")
    assert (len(nuclei.regions), nuclei.mpp) == (314, 0.2456)
    maps = draw_nuclei(nuclei, Size(1000, 1000))
    assert (maps.instances.max(), maps.undrawn) == (314, ())
    head = (realdata / "monusac" / "annotation_xml_header.txt").read_text().split("<Annotations", 1)[1]
    file = tmp_path / "monusac.xml"
    file.write_text(f"<Annotations{head}</Regions></Annotation></Annotations>")
    classed = read_annotation(file)
    assert [region.name for region in classed.regions] == ["Epithelial"]
    assert classed.mpp == 0.2505
