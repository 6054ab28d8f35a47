"""Corrections of masks: what the page is sent and may send, and what is saved as an annotated slide."""

import json

import numpy as np
import pytest
from fastapi import FastAPI
from PIL import Image
from starlette.testclient import TestClient

from dermatome.classes import IGNORED
from dermatome.errors import BadAnnotation
from dermatome.geometry import Size
from dermatome.skin.tiles.annotated import make_tiles
from dermatome.skin.tiles.corrections import decode_runs, encode_runs
from dermatome.skin.tiles.crops import load_tiles
from dermatome.synthetic.skin import toy_slide
from dermatome.web.correct import add_correction_page
from dermatome.web.guard import SiteGuard
from pipelines_tests.toy_root import put_images, put_true_masks

TOY = toy_slide(1, size_px=160)
BOX = {"slide": "one", "left": 32, "top": 16, "width": 96, "height": 80}


@pytest.fixture
def root(root, tmp_path):
    put_images(root, tmp_path / "in", {"one": TOY, "bare": TOY}, {})
    put_true_masks(root, {"one": TOY})
    return root


@pytest.fixture
def client(root):
    app = FastAPI()
    add_correction_page(app, root)
    return TestClient(SiteGuard(app, hosts=["testserver"]))


def runs_of(client, **changes):
    return client.get("/correct/region", params=BOX | changes).json()


def send(client, mask, **changes):
    sent = {**BOX, "labels": encode_runs(mask), "author": "Ada", "version": "", "confirmed": False} | changes
    return client.post("/correct/save", json=sent)


def stroke():
    mask = np.full((80, 96), IGNORED, np.uint8)
    mask[10:30, 20:50] = 3
    return mask


def test_a_region_shows_the_prediction_and_keeps_what_was_corrected(client):
    found = runs_of(client)
    size = Size(80, 96)
    np.testing.assert_array_equal(decode_runs(found["labels"], size), TOY.mask[16:96, 32:128])
    assert (found["version"], found["earlier"], decode_runs(found["known"], size).any()) == ("", None, False)
    answer = send(client, stroke())
    assert answer.status_code == 200
    assert answer.json()["earlier"]["name"] == "one_32-16-96x80"
    again = runs_of(client)
    assert again["version"] == answer.json()["version"]
    assert (again["earlier"]["author"], again["earlier"]["saved"][:2]) == ("Ada", "20")
    np.testing.assert_array_equal(decode_runs(again["known"], size), stroke() != IGNORED)
    wanted = np.where(stroke() == IGNORED, TOY.mask[16:96, 32:128], stroke())
    np.testing.assert_array_equal(decode_runs(again["labels"], size), wanted)
    about = client.get("/correct/slide", params={"slide": "one"}).json()
    assert [one["author"] for one in about["corrections"]] == ["Ada"]
    assert (about["width"], about["predicted"]) == (160, True)


def test_what_is_saved_is_an_annotated_slide_that_training_takes(client, root, tmp_path):
    assert send(client, stroke()).status_code == 200
    folder = root.annotations / "one_32-16-96x80"
    stated = json.loads((folder / "slide.json").read_text())
    assert (stated["slide"], stated["author"], stated["mpp"], stated["confirmed"]) == ("one", "Ada", 0.5, False)
    shown = client.get("/correct/image", params=BOX)
    assert shown.headers["content-type"] == "image/jpeg"
    make_tiles(folder, tmp_path / "tiles")
    (tile,) = load_tiles(tmp_path / "tiles")
    image, mask = tile.read()
    np.testing.assert_array_equal(mask, stroke())
    with Image.open(root.folder("slide_images", "one") / "image.jpg") as jpeg:
        np.testing.assert_array_equal(image, np.asarray(jpeg)[16:96, 32:128])
    assert (tile.slide, tile.group, tile.mpp) == ("one", "one", 0.5)


def test_a_confirmed_region_is_learnt_and_unclear_places_stay_so(client):
    mask = TOY.mask[16:96, 32:128].copy()
    mask[:9] = IGNORED
    assert send(client, mask, confirmed=True).status_code == 200
    again = runs_of(client)
    np.testing.assert_array_equal(decode_runs(again["labels"], Size(80, 96)), mask)
    assert decode_runs(again["known"], Size(80, 96)).all()


def test_of_two_people_the_second_is_told_who_saved_and_nothing_is_lost(client, root):
    first = send(client, stroke())
    assert send(client, stroke(), version=first.json()["version"]).status_code == 200, "who saved may save again"
    late = send(client, np.zeros((80, 96), np.uint8), author="Ben")
    assert late.status_code == 409
    assert "was saved by Ada at 20" in late.json()["detail"]
    saved = np.asarray(Image.open(root.annotations / "one_32-16-96x80" / "mask.png"))
    np.testing.assert_array_equal(saved, stroke())


def test_a_slide_without_a_mask_is_drawn_by_hand(client):
    found = runs_of(client, slide="bare")
    assert found["labels"] == [IGNORED, 96 * 80]
    assert not client.get("/correct/slide", params={"slide": "bare"}).json()["predicted"]


@pytest.mark.parametrize(
    ("changes", "status", "says"),
    [
        ({"slide": "../one"}, 400, "not usable as a file name"),
        ({"slide": "other"}, 404, "slide_images"),
        ({"slide": ["one"]}, 404, "No slide is chosen"),
        ({"left": "x"}, 400, "whole px"),
        ({"width": 8}, 400, "8×80 px cannot be corrected"),
        ({"width": 95}, 400, "did not arrive complete"),
        ({"labels": [2, 96 * 80 - 1]}, 400, "did not arrive complete"),
        ({"labels": [2.0, 96 * 80]}, 400, "did not arrive complete"),
        ({"labels": [4, 96 * 80]}, 400, "a number that is not a class"),
        ({"labels": [300, 96 * 80]}, 400, "did not arrive complete"),
        ({"labels": [2, 96 * 80, 3, -1]}, 400, "did not arrive complete"),
        ({"labels": [IGNORED, 96 * 80]}, 400, "Nothing is annotated yet"),
        ({"labels": "2"}, 400, "did not arrive complete"),
        ({"author": "  "}, 400, "enter a name"),
        ({"author": "x" * 81}, 400, "enter a name"),
        ({"author": None}, 400, "did not arrive complete"),
    ],
)
def test_what_the_page_sends_is_not_trusted(client, root, changes, status, says):
    answer = send(client, stroke(), **changes)
    assert (answer.status_code, says in answer.json()["detail"]) == (status, True), answer.text
    assert not list(root.annotations.glob("*"))


def test_other_sites_may_not_save(client):
    answer = client.post("/correct/save", json={}, headers={"Origin": "http://elsewhere.example"})
    assert answer.status_code == 403
    answer = client.get("/correct/slides", headers={"Sec-Fetch-Site": "cross-site"})
    assert answer.status_code == 403


def test_runs_come_back():
    rng = np.random.default_rng(0)
    for values in (rng.integers(0, 256, (7, 9)), np.zeros((3, 4)), np.full((1, 1), 255)):
        array = values.astype(np.uint8)
        np.testing.assert_array_equal(decode_runs(encode_runs(array), Size(*array.shape)), array)
    with pytest.raises(BadAnnotation):
        decode_runs([1], Size(1, 1))
