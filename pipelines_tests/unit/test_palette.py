"""Colours become classes exactly, or an error that names them."""

import json

import numpy as np
import pytest
from PIL import Image

from dermatome.classes import IGNORED
from dermatome.errors import BadAnnotation, MissingInput
from dermatome.labels.palette import Palette, classes_to_rgb, decode_mask, rgb_to_classes
from pipelines_tests.bad_images import saved, tiff


def write(path, content):
    path.write_text(json.dumps(content))
    return path


def test_several_colours_of_a_class_and_back(tmp_path):
    palette = Palette.load(
        write(tmp_path / "p.json", {"classes": {"background": [[0, 0, 0]], "dermis": [[190, 255, 0], [255, 172, 255]]}})
    )
    rgb = np.array([[[0, 0, 0], [190, 255, 0], [255, 172, 255]]], dtype=np.uint8)
    mask = rgb_to_classes(rgb, palette, "m.png")
    assert mask.dtype == np.uint8
    assert mask.tolist() == [[0, 1, 1]]
    assert (rgb_to_classes(classes_to_rgb(mask, palette), palette, "again") == mask).all()
    assert Palette.load(palette.save(tmp_path / "saved.json")) == palette


def test_an_unknown_colour_is_named_with_its_count_and_file():
    rgb = np.zeros((4, 4, 3), dtype=np.uint8)
    rgb[:2, :2] = (1, 2, 3)
    rgb[3, 3] = (9, 9, 9)
    with pytest.raises(BadAnnotation, match=r"slide7\.png has the colour \(1, 2, 3\) in 4 px and 1 more"):
        rgb_to_classes(rgb, Palette.shipped("queensland"), "slide7.png")


def test_unknown_colours_go_to_the_class_the_palette_names_for_them():
    palette = Palette.from_json({"classes": {"dermis": [[5, 5, 5]]}, "other": "epidermis"}, "p")
    rgb = np.array([[[5, 5, 5], [255, 255, 255], [0, 0, 0]]], dtype=np.uint8)
    assert rgb_to_classes(rgb, palette, "m").tolist() == [[1, 2, 2]]
    assert Palette.from_json(palette.to_json(), "p") == palette


def file_of(array, fmt="TIFF"):
    return saved(Image.fromarray(array), "PNG") if fmt == "PNG" else tiff(array)


NUMBERS = np.array([[0, 1], [2, 3]])


@pytest.mark.parametrize("palette", ["queensland", "skin_pas", "dermatome"])
@pytest.mark.parametrize(
    ("dtype", "fmt"),
    [(np.uint8, "PNG"), (np.uint16, "PNG"), (np.uint8, "TIFF"), (np.uint16, "TIFF"), (np.int32, "TIFF")],
)
def test_a_mask_of_one_channel_holds_class_numbers(palette, dtype, fmt):
    known = Palette.shipped(palette)
    assert decode_mask(file_of(NUMBERS.astype(dtype), fmt), known, "m").tolist() == NUMBERS.tolist()


def test_a_grey_mask_may_hold_colours_of_the_palette():
    known = Palette.from_json({"classes": {"background": [[0, 0, 0]], "epidermis": [[255, 255, 255]]}}, "p")
    assert decode_mask(file_of(np.array([[0, 255]], np.uint8)), known, "m").tolist() == [[0, 2]]
    other = Palette.from_json({"classes": {"epidermis": [[255, 255, 255]]}, "other": "background"}, "p")
    assert decode_mask(file_of(np.array([[0, 255, 9]], np.uint8)), other, "m").tolist() == [[0, 2, 0]]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float32])
def test_a_label_image_has_the_numbers_that_its_palette_lists(dtype):
    classes = {"background": [7], "epidermis": [1, 3], "ignored": [0]}
    table = Palette.from_json({"classes": classes}, "p")
    mask = decode_mask(file_of(np.array([[7, 1], [3, 0]], dtype)), table, "m")
    assert mask.tolist() == [[0, 2], [2, IGNORED]]
    with pytest.raises(BadAnnotation, match=r"number 2, .* list the numbers in palette\.json"):
        decode_mask(file_of(np.array([[7, 2]], dtype)), table, "m")
    rest = Palette.from_json({"classes": classes, "other": "dermis"}, "p")
    assert decode_mask(file_of(np.array([[7, 2]], dtype)), rest, "m").tolist() == [[0, 1]]
    assert Palette.from_json(rest.to_json(), "p") == rest


def test_without_a_palette_numbers_are_those_of_the_classes_and_colours_are_refused():
    assert decode_mask(file_of(np.array([[0, 3, 255]], np.uint8)), None, "m").tolist() == [[0, 3, IGNORED]]
    with pytest.raises(BadAnnotation, match=r"in colours without a palette: put a palette\.json beside it"):
        decode_mask(file_of(np.zeros((2, 2, 3), np.uint8)), None, "m")


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (np.array([[0, 4]], np.uint8), "number 4, which is not in the palette: number the classes 0 .background"),
        (np.array([[0, 65535]], np.uint16), "number 65535"),
        (np.array([[-1, 0]], np.int32), "number -1"),
        (np.full((2, 2, 3), 65535, np.uint16), "16-bit colour divided by 256"),
    ],
)
def test_numbers_and_colours_that_are_no_classes_are_refused(array, says):
    with pytest.raises(BadAnnotation, match=says):
        decode_mask(file_of(array), Palette.shipped("queensland"), "m")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ([], 'no "classes"'),
        ({"classes": {}}, 'no "classes"'),
        ({"classes": {"hair": [[0, 0, 0]]}}, "'hair'"),
        ({"classes": {"dermis": []}}, "no list of colours"),
        ({"classes": {"dermis": [[0, 0]]}}, "three integers"),
        ({"classes": {"dermis": [[0, 0, 256]]}}, "three integers"),
        ({"classes": {"dermis": [[0, 0, True]]}}, "three integers"),
        ({"classes": {"dermis": [[1, 1, 1]], "keratin": [[1, 1, 1]]}}, "both 'dermis' and 'keratin'"),
        ({"classes": {"dermis": [[1, 1, 1]]}, "other": "none"}, "'none'"),
        ({"classes": {"dermis": [4], "keratin": [4]}}, "the number 4 to both 'dermis' and 'keratin'"),
        ({"classes": {"dermis": ["Corium"], "keratin": ["corium"]}}, "the name corium to both"),
        ({"classes": {"dermis": [-1]}}, "the number in a label image"),
    ],
)
def test_bad_palettes_are_refused_in_one_sentence(tmp_path, content, says):
    with pytest.raises(BadAnnotation, match=says) as caught:
        Palette.load(write(tmp_path / "p.json", content))
    assert "\n" not in str(caught.value)


def test_a_palette_that_is_not_there_or_not_json(tmp_path):
    with pytest.raises(MissingInput, match=r"p\.json"):
        Palette.load(tmp_path / "p.json")
    (tmp_path / "p.json").write_text("{")
    with pytest.raises(BadAnnotation, match="not JSON"):
        Palette.load(tmp_path / "p.json")
