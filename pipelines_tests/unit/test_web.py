"""The web app without a browser: what it accepts, what it shows, what it saves."""

import json

import numpy as np
import pytest
import tifffile
from PIL import Image

from dermatome.errors import BadAnnotation, BadImage, DermatomeError, MissingInput, StorageFailed
from dermatome.geometry import Box, Size
from dermatome.skin.tiles.rois import Roi
from dermatome.slides.slide import MppSource, Slide
from dermatome.storage.files import names_in
from dermatome.storage.layout import DataRoot
from dermatome.synthetic.cohort import write_annotations
from dermatome.synthetic.skin import toy_slide
from dermatome.web.context import errors_shown
from dermatome.web.rois import annotated_slides, editor_html, open_annotated, rois_from_editor, save_annotated
from dermatome.web.uploads import UploadLimits, check_work, read_upload
from dermatome.web.viewer import Layer, slide_html

SMALL = UploadLimits(max_file_bytes=100_000, max_side_px=300, max_area_px=40_000)


def saved(folder, name="a.png", size=(64, 48)):
    Image.fromarray(np.full((*size, 3), 200, np.uint8)).save(folder / name)
    return folder / name


# --- uploads


def test_an_upload_is_read_with_the_declared_scale_and_a_harmless_name(tmp_path):
    slide = read_upload(saved(tmp_path, 'x"><script>alert(1)<'.replace("/", "") + ".png"), 0.4, SMALL)
    assert (slide.name, slide.mpp, slide.size.height_px) == ("x_script_alert_1", 0.4, 64)


@pytest.mark.parametrize(
    ("size", "says"),
    [((250, 250), "over the limit of 0 million pixels"), ((301, 2), "over the limit of 300 px a side")],
)
def test_an_image_of_too_many_pixels_is_refused_in_words(tmp_path, size, says):
    with pytest.raises(BadImage, match=says):
        read_upload(saved(tmp_path, size=size), 0.5, SMALL)


def test_a_bomb_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    Image.new("1", (30_000, 30_000)).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("it was decoded"))
    with pytest.raises(BadImage, match="30,000×30,000 px, over the limit"):
        read_upload(tmp_path / "bomb.png", 0.5, UploadLimits())


@pytest.mark.parametrize(("stated", "mpp"), [({"PhysicalSizeX": 0.5}, 0.5), ({}, 0.25)])
def test_the_scale_that_a_file_states_comes_before_the_declared_one(tmp_path, stated, mpp):
    tifffile.imwrite(tmp_path / "a.ome.tif", np.zeros((32, 32, 3), np.uint8), metadata={"axes": "YXS"} | stated)
    assert read_upload(tmp_path / "a.ome.tif", 0.25, SMALL).mpp == mpp


def test_what_becomes_too_large_for_the_network_is_refused_with_what_to_do():
    slide = toy_slide(1, size_px=64).slide
    check_work(slide, Size(8_000, 8_000), UploadLimits())
    with pytest.raises(BadImage, match=r"toy.* 256 million pixels, over the limit of 64 million: upload a smaller"):
        check_work(slide, Size(16_000, 16_000), UploadLimits())


def test_other_files_are_refused_in_words(tmp_path):
    (tmp_path / "page.png").write_bytes(b"<html>")
    (tmp_path / "big.png").write_bytes(bytes(100_001))
    saved(tmp_path).rename(tmp_path / "a.svg")
    for name, says in (("page.png", "web page"), ("big.png", "over the limit of 0 MB"), ("a.svg", "suffix '.svg'")):
        with pytest.raises(BadImage, match=says):
            read_upload(tmp_path / name, 0.5, SMALL)


# --- what is shown


def test_names_are_shown_as_text_never_as_html():
    pixels = np.zeros((4, 4, 4), np.uint8)
    slide = Slide("<u>", pixels[..., :3], 0.5, MppSource.DECLARED, "", conversions=("<s>",))
    html = slide_html(slide, [Layer("<b>", pixels, [("<i>", (1, 2, 3))])])
    assert not {"<b>", "<i>", "<u>", "<s>"} & {html[i : i + 3] for i in range(len(html))}
    assert html.count("data:image/png;base64,") == 1


def test_an_error_is_a_sentence_and_a_defect_is_not_shown():
    @errors_shown(("", None))
    def page(error):
        yield "ready", 1, 2
        raise error

    assert list(page(BadImage("It is <torn>: fix it.")))[1:] == [
        ('<p class="dm-status dm-bad" role="alert">It is &lt;torn&gt;: fix it.</p>', "", None)
    ]
    (last,) = list(page(RuntimeError("secret path")))[1:]
    assert "defect of Dermatome" in last[0]
    assert "secret" not in last[0]


# --- ROIs


@pytest.fixture
def root(root, monkeypatch):
    monkeypatch.setattr("dermatome.synthetic.cohort.ANNOTATED", ("one",))
    monkeypatch.setattr("dermatome.synthetic.cohort.SLIDE_PX", 96)
    write_annotations(root.annotations)
    return root


def sent(name="one", annotated=True, **roi):
    box = {"name": "r1", "top": 8, "left": 4, "height": 64, "width": 64, "divide": 2} | roi
    return json.dumps({"name": name, "annotated": annotated, "width": 96, "height": 96, "rois": [box]})


def test_rois_are_opened_and_saved_as_training_tiles_reads_them(root):
    assert annotated_slides(root) == ["one"]
    opened = open_annotated(root, "one")
    assert [roi.name for roi in opened.rois] == ["all"]
    assert 'data-width="96"' in editor_html(opened)
    name, annotated, rois = rois_from_editor(sent(), root)
    assert annotated
    _, version = save_annotated(root, name, rois, opened.version)
    again = open_annotated(root, "one")
    assert again.rois == [Roi("r1", Box(8, 4, 72, 68), 2)]
    assert again.version == version, "who saved cannot save again"


def test_of_two_who_mark_one_slide_neither_erases_what_the_other_saved(root):
    first, second = open_annotated(root, "one"), open_annotated(root, "one")
    path, _ = save_annotated(root, "one", [Roi("a", Box(0, 0, 8, 8))], first.version)
    with pytest.raises(BadAnnotation, match="changed by somebody else since you opened it"):
        save_annotated(root, "one", [Roi("b", Box(0, 0, 8, 8))], second.version)
    assert [roi.name for roi in open_annotated(root, "one").rois] == ["a"]
    path.unlink(missing_ok=True)
    save_annotated(root, "one", [Roi("b", Box(0, 0, 8, 8))], open_annotated(root, "one").version)
    assert not [name for name in names_in(path.parent) if "lock" in name]


@pytest.mark.parametrize(
    ("text", "error", "says"),
    [
        ("", MissingInput, "No slide is open"),
        ("[]", BadAnnotation, "did not arrive complete"),
        ('{"name": "one", "annotated": true, "width": 9, "height": 9, "rois": []}', MissingInput, "no ROI yet"),
        (sent(left=90), BadAnnotation, "not inside one"),
        (sent(divide=65), BadAnnotation, "too small to divide"),
        (sent(top=1.5), BadAnnotation, "whole px"),
        (sent(name="../one"), StorageFailed, "not usable as a file name"),
        (sent().replace('"r1"', '"../r"'), StorageFailed, "not usable"),
        (sent(name="another"), MissingInput, "no annotated slide 'another'"),
    ],
)  # fmt: skip
def test_what_the_editor_sends_is_not_trusted(root, text, error, says):
    with pytest.raises(error, match=says) as caught:
        rois_from_editor(text, root)
    assert isinstance(caught.value, DermatomeError)


def test_beside_rois_of_qupath_no_others_are_saved(tmp_path):
    root = DataRoot.at(str(tmp_path))
    (tmp_path / "annotations" / "one").mkdir(parents=True)
    (tmp_path / "annotations" / "one" / "rois.geojson").write_text("[]")
    with pytest.raises(BadAnnotation, match="one ROI file only"):
        save_annotated(root, "one", [Roi("r1", Box(0, 0, 8, 8))], "")
