"""Annotations as QuPath, labelme, Cellpose and Fiji write them, and folders of MoNuSeg and MoNuSAC as downloaded."""

import gzip
import json
import os

import numpy as np
import pandas as pd
import pytest
import tifffile
from PIL import Image

from dermatome.classes import IGNORED, UNCLASSIFIED, UNCLASSIFIED_COLOUR, NucleusClass
from dermatome.errors import BadAnnotation, MissingInput
from dermatome.geometry import Size
from dermatome.labels.annotation_files import annotations_in, read_label_image, read_maps, read_outlines
from dermatome.labels.geojson import object_features, write_geojson
from dermatome.labels.tiled import TiledArray
from dermatome.nuclei.patches.annotated import annotated_images, case_folders, read_annotated
from dermatome.skin.cells.annotations import find_annotated

SIZE = Size(60, 80)


def ring(left, top, side=10):
    return [[left, top], [left + side, top], [left + side, top + side], [left, top + side], [left, top]]


def feature(geometry, kind="detection", name=None, **more):
    properties = {"objectType": kind} if kind else {}
    if name:
        properties["classification"] = {"name": name}
    return {"type": "Feature", "geometry": geometry, "properties": properties, **more}


def square(left, top, side=10):
    return {"type": "Polygon", "coordinates": [ring(left, top, side)]}


CELLS = [feature(square(0, 0)), feature(square(20, 0), "cell")]
TWO = {"type": "MultiPolygon", "coordinates": [[ring(40, 0)], [ring(52, 0)]]}
POINT, LINE = {"type": "Point", "coordinates": [1, 2]}, {"type": "LineString", "coordinates": [[1, 2], [3, 4]]}
LARGE, IGNORED_AREA = square(0, 0, 60), feature(square(40, 40), "annotation", "Ignore*")
NONE = {"Point": 1, "LineString": 1, "no geometry": 2}


@pytest.mark.parametrize(
    ("features", "areas", "left_out"),
    [
        ([*CELLS, feature(LARGE, "annotation")], [100, 100], {"annotation": 1}),
        ([*CELLS, feature(LARGE, None, id="PathAnnotationObject")], [100, 100], {"annotation": 1}),
        ([*CELLS, feature(LARGE, "tile"), feature(LARGE, "tma_core")], [100, 100], {"tile": 1, "tmacore": 1}),
        ([*CELLS, feature(LARGE, None)], [100, 100], {"no type of object": 1}),
        (
            [*CELLS, {"type": "Feature", "geometry": LARGE, "properties": {"object_type": "annotation"}}],
            [100, 100],
            {"annotation": 1},
        ),
        ([*CELLS, {"type": "Feature", "properties": {}}], [100, 100], {"no geometry": 1}),
        ([feature(square(0, 0), "annotation"), feature(square(20, 0), "annotation")], [100, 100], {}),
        ([feature(square(0, 0), None), feature(square(20, 0), None)], [100, 100], {}),
        ([*CELLS, IGNORED_AREA, feature(square(40, 0), name="Region*")], [100, 100], {"class Region*": 1}),
        ([*CELLS, feature(square(40, 40), "annotation", "Ambiguous")], [100, 100], {}),
        ([feature(TWO)], [200], {}),
        ([feature({"type": "GeometryCollection", "geometries": [TWO, POINT]})], [200], {}),
        ([*CELLS, feature(POINT), feature(LINE), feature(None), feature(None)], [100, 100], NONE),
    ],
)
def test_objects_of_qupath(tmp_path, caplog, features, areas, left_out):
    path = tmp_path / "a.geojson"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps({"type": "FeatureCollection", "features": features}).encode())
    maps, mpp = read_maps(path, SIZE, classes=False)
    assert (np.bincount(maps.instances.ravel())[1:].tolist(), mpp) == (areas, None)
    assert read_outlines(path).left_out == left_out
    assert all(f"{count} × {what}" in caplog.text for what, count in left_out.items())


def test_areas_to_be_ignored_are_ambiguous_for_nuclei(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps([feature(square(0, 0), name="Epithelial"), IGNORED_AREA]))
    maps, _ = read_maps(path, SIZE)
    assert (maps.classes.tolist(), maps.ignored.sum()) == ([0, 1], 100)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e300, 10**400, "1"])
def test_coordinates_that_are_no_places_are_one_sentence(tmp_path, value):
    path = tmp_path / "a.geojson"
    path.write_text(json.dumps([feature({"type": "Polygon", "coordinates": [[[0, 0], [value, 0], [0, [value]]]]})]))
    with pytest.raises(BadAnnotation, match=r"a\.geojson is no GeoJSON of polygons"):
        read_maps(path, SIZE)


def test_shapes_of_labelme(tmp_path):
    shapes = [
        {"label": "Epithelial", "points": ring(0, 0)[:4], "group_id": None, "shape_type": "polygon"},
        {"label": "Epithelial", "points": ring(40, 0)[:4], "group_id": 7},
        {"label": "Epithelial", "points": ring(52, 0)[:4], "group_id": 7},
        {"label": "Lymphocyte", "points": [[20, 0], [30, 10]], "shape_type": "rectangle"},
        {"label": "Neutrophil", "points": [[20, 40], [20, 50]], "shape_type": "circle"},
        {"label": "Neutrophil", "points": [[20, 40]], "shape_type": "point"},
    ]
    (tmp_path / "a.json").write_text(json.dumps({"shapes": shapes, "imagePath": "a.png"}))
    maps, _ = read_maps(tmp_path / "a.json", SIZE)
    assert sorted(maps.classes.tolist()) == [0, 1, 1, 2, 3]
    assert sorted(np.bincount(maps.instances.ravel())[1:].tolist()) == [100, 100, 200, pytest.approx(314, abs=6)]
    assert read_outlines(tmp_path / "a.json").left_out == {"point": 1}


class Evil:
    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


def save_labels(path, labels):
    if path.suffix == ".npy":
        content = {"filename": path, "evil": Evil(path.with_name("ran")), "masks": labels.astype(np.uint16)}
        np.save(path, np.array(content))
        return
    kinds = {"double": np.float64, "long": np.int64, "white": np.uint8}
    if kind := next((dtype for name, dtype in kinds.items() if name in path.name), None):
        tifffile.imwrite(path, labels.astype(kind), photometric="miniswhite" if "white" in path.name else "minisblack")
        return
    image = Image.fromarray(labels.astype(np.float32) if "float" in path.name else labels.astype(np.uint8))
    if "indexed" in path.name:
        image.putpalette([7, 7, 7, 200, 10, 10, 10, 200, 10])
    image.save(path)


FILES = ("x_cp_masks.png", "x_LABELS.TIF", "x-labels.tif", "x_seg.npy", "indexed_labels.png", "float_labels.tif")
OTHER_FILES = ("double_labels.tif", "long_labels.tif", "white_labels.tif", "x_label.png", "x-lbl.tif", "x_mask.png")


@pytest.mark.parametrize("name", [*FILES, *OTHER_FILES, "x_masks.Png"])
def test_label_images_of_cellpose_qupath_and_fiji(tmp_path, name):
    labels = np.zeros((60, 80), np.int32)
    labels[5:15, 5:15], labels[20:30, 5:15] = 1, 2
    image = tmp_path / f"{name.split('_')[0].split('-')[0]}.PNG"
    Image.fromarray(np.full((60, 80, 3), 200, np.uint8)).save(image)
    save_labels(tmp_path / name, labels)
    (found,) = find_annotated(tmp_path)
    np.testing.assert_array_equal(found.read()[1], labels)
    (nuclei,) = annotated_images(tmp_path)
    np.testing.assert_array_equal(read_annotated(nuclei, 0.25).maps.instances, labels)
    assert not (tmp_path / "ran").exists(), "code in a pickle is not run"


def test_of_cellpose_s_two_files_the_window_s_counts_and_others_are_refused(tmp_path):
    for name in ("x_cp_masks.png", "x_seg.npy"):
        save_labels(tmp_path / name, np.ones((3, 4)))
    assert annotations_in(tmp_path) == {"x": tmp_path / "x_seg.npy"}
    (tmp_path / "x.xml").touch()
    with pytest.raises(BadAnnotation, match="has both"):
        annotations_in(tmp_path)


def test_label_images_that_hold_no_numbers_of_objects(tmp_path):
    Image.fromarray(np.full((3, 4), 0.5, np.float32)).save(tmp_path / "a_labels.tif")
    with pytest.raises(BadAnnotation, match="contain integers"):
        read_label_image(tmp_path / "a_labels.tif", Size(3, 4))
    mask = np.array([[0, 1, 1, 0], [0, 0, 0, 0], [1, 0, 0, 0]], np.uint8)
    for values in (mask, mask * np.uint8(255), mask * np.uint16(65535), mask.astype(bool)):
        Image.fromarray(values).save(tmp_path / "b_labels.png")
        with pytest.raises(BadAnnotation, match="black-and-white mask .* number its pieces first"):
            read_label_image(tmp_path / "b_labels.png", Size(3, 4))
    Image.fromarray(mask[:2]).save(tmp_path / "b_labels.png")  # one object
    assert read_label_image(tmp_path / "b_labels.png", Size(2, 4)).sum() == 2
    tifffile.imwrite(tmp_path / "c_labels.tif", np.ones((2, 3, 4), np.uint16), photometric="minisblack")
    with pytest.raises(BadAnnotation, match="contains 2 images"):
        read_label_image(tmp_path / "c_labels.tif", Size(3, 4))
    np.save(tmp_path / "a_seg.npy", np.array({"outlines": 1}))
    np.save(tmp_path / "b_seg.npy", np.ones((3, 4)))
    (tmp_path / "c_seg.npy").write_bytes(b"no array")
    for name in "abc":
        with pytest.raises(BadAnnotation, match="not a label image"):
            read_label_image(tmp_path / f"{name}_seg.npy", Size(3, 4))
    with pytest.raises(MissingInput):
        read_label_image(tmp_path / "none.png", Size(3, 4))


def xml(*names, apart=0.0, layer="", region=""):
    """One outline in each of the classes ``names``, every second one ``apart`` px further right."""
    layers = (
        f'<Annotation Name="{layer}"><Attributes><Attribute Name="{name}"/></Attributes><Regions><Region {region}>'
        "<Vertices>"
        + "".join(f'<Vertex X="{x + apart * (number % 2)}" Y="{y}"/>' for x, y in ring(10, 10)[:4])
        + "</Vertices></Region></Regions></Annotation>"
        for number, name in enumerate(names)
    )
    return f"<Annotations>{''.join(layers)}</Annotations>"


@pytest.mark.parametrize("apart", [0.0, 0.2, 0.9])
@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (("Epithelial", "Lymphocyte"), IGNORED),
        (("Epithelial", "Lymphocyte", "Epithelial"), IGNORED),
        (("Neutrophil", ""), 3),
        (("Neutrophil",) * 2, 3),
    ],
)
def test_one_outline_in_two_classes_has_none(tmp_path, caplog, names, kind, apart):
    (tmp_path / "a.xml").write_text(xml(*names, apart=apart))
    maps, _ = read_maps(tmp_path / "a.xml", SIZE)
    assert (maps.classes.tolist(), len(maps.undrawn)) == ([0, kind], len(names) - 1)
    assert ("epithelial and lymphocyte" in caplog.text) == (kind == IGNORED)


def test_neighbours_that_overlap_are_two_nuclei(tmp_path):
    (tmp_path / "a.xml").write_text(xml("Epithelial", "Lymphocyte", apart=3.0))
    assert read_maps(tmp_path / "a.xml", SIZE)[0].classes.tolist() == [0, 1, 2]


def test_layers_named_by_their_class_rulers_and_wrong_scales_of_imagescope(tmp_path):
    path = tmp_path / "a.xml"
    path.write_text(xml("Description", layer="Lymphocyte"))
    assert read_maps(path, SIZE)[0].classes.tolist() == [0, 2]
    path.write_text(xml("Description", layer="Layer 1"))
    assert read_maps(path, SIZE)[0].classes.tolist() == [0, IGNORED]
    path.write_text(xml("Epithelial", region='Type="4"'))
    assert (read_outlines(path).regions, read_outlines(path).left_out) == ((), {"ruler": 1})
    for stated in ("250", "0.25 um", "0.25,0", "nan", "-1"):
        path.write_text(xml("Epithelial").replace("<Annotations>", f'<Annotations MicronsPerPixel="{stated}">'))
        with pytest.raises(BadAnnotation, match=f"states '{stated}' µm per pixel, which is no microscope's scale"):
            read_maps(path, SIZE)


def test_an_error_does_not_repeat_the_file_that_is_no_text(tmp_path):
    (tmp_path / "a.geojson").write_bytes(gzip.compress(np.random.default_rng(0).bytes(100_000)))
    with pytest.raises(BadAnnotation, match=r"is no GeoJSON .*UnicodeDecodeError: 'utf-8' codec") as caught:
        read_outlines(tmp_path / "a.geojson")
    assert len(str(caught.value)) < 400


def test_downloads_of_monuseg_and_monusac_are_read_as_they_come(tmp_path):
    def put(image, annotation):
        for name in (image, annotation):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((60, 80, 3), 200, np.uint8)).save(tmp_path / image)
        (tmp_path / annotation).write_text(xml("Description"))

    training = "seg/MoNuSeg 2018 Training Data/MoNuSeg 2018 Training Data"
    put(f"{training}/Tissue Images/TCGA-AA-0001-01A.tif", f"{training}/Annotations/TCGA-AA-0001-01A.xml")
    put("seg/MoNuSegTestData/TCGA-AA-0002-01A.tif", "seg/MoNuSegTestData/TCGA-AA-0002-01A.xml")
    (tmp_path / "seg/__MACOSX").mkdir()
    sac = "sac/MoNuSAC_images_and_annotations/TCGA-5P-A9K0-01Z-00-DX1"
    put(f"{sac}/TCGA-5P-A9K0-01Z-00-DX1_1.tif", f"{sac}/TCGA-5P-A9K0-01Z-00-DX1_1.xml")
    (tmp_path / f"{sac}/TCGA-5P-A9K0-01Z-00-DX1_1.svs").touch()
    assert case_folders(tmp_path / "seg") == [tmp_path / training, tmp_path / "seg/MoNuSegTestData"]
    assert [image.patient for image in annotated_images(tmp_path / "seg")] == ["TCGA-AA-0001", "TCGA-AA-0002"]
    (image,) = annotated_images(tmp_path / "sac")
    assert (image.patient, image.image.suffix, image.kind) == ("TCGA-5P-A9K0", ".tif", "outlines")
    assert read_annotated(image, 0.25).maps.instances.max() == 1
    put("sac/other/TCGA-5P-A9K0-01Z-00-DX1_1.tif", "sac/other/TCGA-5P-A9K0-01Z-00-DX1_1.xml")
    with pytest.raises(BadAnnotation, match="rename one"):
        annotated_images(tmp_path / "sac")


def test_our_own_outlines_of_nuclei_and_cells_come_back(tmp_path):
    labels = np.zeros((60, 80), np.int32)
    labels[5:15, 5:15], labels[20:32, 5:15], labels[40:50, 30:60] = 1, 2, 3
    tiles = TiledArray(SIZE, np.int32)
    tiles.append(labels)
    classes = {c.label: c.colour for c in NucleusClass} | {UNCLASSIFIED: UNCLASSIFIED_COLOUR}
    table = pd.DataFrame({"nucleus_id": [1, 2, 3], "class": ["lymphocyte", "unclassified", "epithelial"]})
    write_geojson(tmp_path / "n.geojson", object_features(tiles, table, slide="s", what="nucleus", classes=classes))
    maps, _ = read_maps(tmp_path / "n.geojson", SIZE)
    np.testing.assert_array_equal(maps.instances, labels)
    assert maps.classes.tolist() == [0, 2, IGNORED, 1]
    cells = table.rename(columns={"nucleus_id": "cell_id"}).drop(columns="class")
    write_geojson(tmp_path / "c.geojson", object_features(tiles, cells, slide="s"))
    np.testing.assert_array_equal(read_maps(tmp_path / "c.geojson", SIZE, classes=False)[0].instances, labels)


def test_an_outline_around_others_is_no_cell(tmp_path):
    """As where an area and the cells in it are drawn by hand, so that all are annotations."""
    cells = [square(5 + 20 * number, 5, 10) for number in range(3)]
    path = tmp_path / "a.geojson"
    for areas in ([square(0, 0, 90)], [square(0, 0, 90), square(1, 1, 80)]):
        features = [{"geometry": area} for area in (*areas, *cells)]
        path.write_text(json.dumps({"features": features}))
        maps, _ = read_maps(path, Size(100, 100))
        assert np.bincount(maps.instances.ravel())[1:].tolist() == [100, 100, 100]
        assert maps.left_out == {"around others": len(areas)}
        assert maps.undrawn == ()


def test_a_cell_over_two_others_stays(tmp_path):
    features = [{"geometry": square(x, 5, side)} for x, side in ((0, 50), (5, 9), (20, 9))]
    (tmp_path / "a.geojson").write_text(json.dumps(features))
    assert read_maps(tmp_path / "a.geojson", Size(100, 100))[0].instances.max() == 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"images": [], "annotations": [{"segmentation": [[5, 5, 15, 5, 15, 15]]}]}, "it has no features"),
        ({"type": "FeatureCollection", "features": {}}, "it has no features"),
        (
            {"shapes": [{"points": [[5, 5], [15, 5], [15, 15]]}], "imageHeight": 200, "imageWidth": 100},
            "drawn on 100×200 px but its image has 100×100",
        ),
    ],
)
def test_other_json_and_other_sizes_are_refused(tmp_path, content, message):
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(BadAnnotation, match=message):
        read_maps(tmp_path / "a.json", Size(100, 100))


def test_geometries_and_lists_alone_are_read(tmp_path):
    one = square(5, 5, 10)
    other = square(50, 5, 10)
    for content, cells in (
        (one, 1),
        ({"type": "GeometryCollection", "geometries": [one, other]}, 1),
        ([{"type": "FeatureCollection", "features": [{"geometry": one}, {"geometry": other}]}], 2),
    ):
        (tmp_path / "a.geojson").write_text(json.dumps(content))
        assert read_maps(tmp_path / "a.geojson", Size(100, 100))[0].instances.max() == cells


def test_a_class_with_a_marker_is_its_class(tmp_path):
    feature = {
        "geometry": square(5, 5, 10),
        "properties": {"classification": {"names": ["Lymphocyte", "Positive"]}},
    }
    (tmp_path / "a.geojson").write_text(json.dumps(feature))
    assert read_maps(tmp_path / "a.geojson", Size(100, 100))[0].classes.tolist() == [0, 2]


def test_masks_of_one_value_and_lossy_labels_are_refused(tmp_path):
    labels = np.zeros((64, 64), np.uint8)
    labels[5:15, 5:15] = labels[5:15, 30:40] = 128
    Image.fromarray(labels).save(tmp_path / "a_mask.png")
    with pytest.raises(BadAnnotation, match="a black-and-white mask"):
        read_label_image(tmp_path / "a_mask.png", Size(64, 64))
    tifffile.imwrite(tmp_path / "a_labels.tif", labels, compression="jpeg")
    with pytest.raises(BadAnnotation, match="compressed with JPEG, which changes numbers"):
        read_label_image(tmp_path / "a_labels.tif", Size(64, 64))
