"""The web app as a person meets it, in the system's Chromium: upload, look, fade, download, mark ROIs; nothing else."""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from dermatome.geometry import Size
from dermatome.skin.tiles.rois import read_rois
from dermatome.storage.layout import DataRoot
from dermatome.synthetic.cohort import write_annotations
from dermatome.synthetic.nuclei import toy_nuclei
from dermatome.synthetic.skin import toy_slide
from dermatome.web.uploads import UploadLimits
from pipelines_tests.bad_images import saved
from pipelines_tests.toy_root import put_images, put_true_masks
from pipelines_tests.web_server import served, visited

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


@pytest.fixture(scope="module")
def web(tmp_path_factory):
    """The app over a data root with one annotated slide, served by a thread of this process."""
    folder = tmp_path_factory.mktemp("web")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dermatome.synthetic.cohort.ANNOTATED", ("slide-1",))
        patch.setattr("dermatome.synthetic.cohort.SLIDE_PX", 96)
        patch.setattr("dermatome.web.app.SESSIONS", 4)
        root, toy = DataRoot.at(str(folder / "data")), {"core-1": toy_slide(1, size_px=256)}
        write_annotations(root.annotations)
        put_images(root, folder / "in", toy, {})
        put_true_masks(root, toy)
        with served(folder, limits=UploadLimits(max_file_bytes=400_000, max_area_px=70_000)) as web:
            yield web


@pytest.fixture(scope="module")
def root(web):
    return web.context.root


@pytest.fixture(scope="module")
def address(web):
    return web.address


@pytest.fixture
def page(browser, address):
    with visited(browser, address) as page:
        yield page


@pytest.fixture
def other(browser, address):
    """Another person's page."""
    with visited(browser, address) as page:
        yield page


def png(seed, side=256):
    return saved(Image.fromarray(toy_nuclei(seed, Size(side, side)).slide.whole()), "PNG")


def upload(page, name, data):
    kind = "image/png" if name.endswith("png") else "text/html"
    page.set_input_files("input[type=file]", {"name": name, "mimeType": kind, "buffer": data})
    page.get_by_text(name[:6]).first.wait_for()


def test_an_upload_is_shown_with_its_nuclei_and_what_is_downloaded_parses(page, tmp_path):
    page.goto("/nuclei")
    page.locator("#dm-run").wait_for()
    upload(page, "field-7.png", png(7))
    page.locator("#dm-run").focus()
    page.keyboard.press("Enter")
    page.locator("#dm-view .dm-layer-0").first.wait_for(state="visible")
    assert "field-7" in page.inner_text("#dm-status")
    # A layer is chosen and faded without a mouse.
    page.locator("#dm-view input[name=layer]").first.focus()
    page.keyboard.press("ArrowRight")
    page.locator("#dm-view img.dm-layer-1").wait_for(state="visible")
    assert not page.locator("#dm-view img.dm-layer-0").is_visible()
    page.locator("#dm-view input[name=opacity]").focus()
    page.keyboard.press("End")
    assert page.locator("#dm-view img.dm-layer-1").evaluate("node => getComputedStyle(node).opacity") == "1"
    files = {}
    for number, link in enumerate(page.locator("#dm-downloads a[download]").all()):
        name = link.get_attribute("download")
        files[name] = tmp_path / name
        if number < 10:
            with page.expect_download() as caught:
                link.click()
            assert caught.value.suggested_filename == name
            caught.value.save_as(files[name])
        else:  # Chromium lets a page download ten files without asking
            answer = page.request.get(link.get_attribute("href"))
            assert answer.ok
            files[name].write_bytes(answer.body())
    nuclei = json.loads(files["field-7.geojson"].read_text())["features"]
    assert len(nuclei) == len(pd.read_csv(files["field-7.csv"])) > 3
    assert files.keys() >= {f"field-7_{kind}.ome.tif" for kind in ("semantic", "ternary", "instances")}


def test_what_is_no_image_is_refused_in_words(page):
    page.goto("/nuclei")
    page.locator("#dm-run").wait_for()
    upload(page, "hidden.png", b"<html>no</html>")
    page.click("#dm-run")
    page.locator("#dm-status [role=alert]").wait_for()
    assert "web page" in page.inner_text("#dm-status")


def test_rois_are_marked_with_the_keyboard_and_saved_where_training_tiles_reads_them(page, root):
    page.goto("/rois")
    page.get_by_label("Annotated slide of the data root").wait_for()
    assert page.get_by_role("link", name="Correct masks").get_attribute("href").endswith(f"{page.url[:-5]}/correct")
    page.wait_for_function("[...document.querySelectorAll('input')].some((field) => field.value === 'slide-1')")
    page.click("#dm-open")
    box = page.locator(".dm-box")
    box.focus()
    before = page.input_value("input[name=left]")
    for key in ("ArrowRight", "+", "Enter"):
        page.keyboard.press(key)
    assert page.input_value("input[name=left]") > before
    page.click("#dm-save")
    page.locator("#dm-roi-status").get_by_text("rois.json").wait_for()
    rois = {roi.name: roi for roi in read_rois(root.path / "annotations" / "slide-1" / "rois.json")}
    assert set(rois) == {"all", "r2"}
    assert (rois["r2"].box.left_px, rois["r2"].box.size, rois["r2"].divide) == (35, Size(35, 35), 2)


def test_two_who_mark_one_slide_do_not_erase_each_other_and_one_may_save_twice(page, other, root):
    def save(opened, name, says):
        opened.fill("input[name=name]", name)
        opened.get_by_role("button", name="Add ROI").click()
        opened.click("#dm-save")
        opened.locator("#dm-roi-status").get_by_text(says).wait_for()

    for opened in (page, other):
        opened.goto("/rois")
        opened.wait_for_function("[...document.querySelectorAll('input')].some((field) => field.value === 'slide-1')")
        opened.click("#dm-open")
        opened.locator(".dm-box").wait_for()
    before = len(read_rois(root.path / "annotations" / "slide-1" / "rois.json"))
    save(page, "first", f"ROIs: {before + 1}")
    save(page, "again", f"ROIs: {before + 2}")
    save(other, "other", "changed by somebody else")
    names = [roi.name for roi in read_rois(root.path / "annotations" / "slide-1" / "rois.json")]
    assert names[-2:] == ["first", "again"]


def test_a_mask_is_corrected_by_keyboard_and_mouse_and_two_people_do_not_erase_each_other(page, other, root):
    query = "/correct?slide=core-1&left=0&top=0&side=256"
    for opened in (page, other):
        opened.goto(query)
        opened.locator("#status").get_by_text("256 × 256 px at 0, 0").wait_for()
    mask = root.annotations / "core-1_0-0-256x256" / "mask.png"

    def save(opened, says):
        opened.keyboard.press("s")
        opened.locator("#status").get_by_text(says).wait_for()

    page.fill("#author", "Ada")
    page.locator("#canvas").focus()
    for key in ("4", "Space", "ArrowRight", "Space", "3", "p", *["ArrowUp"] * 4, "Space", *["ArrowLeft"] * 4, "Space",
                *["ArrowUp"] * 2, "Space", "Enter"):  # fmt: skip
        page.keyboard.press(key)
    save(page, "Saved as annotations/core-1_0-0-256x256")
    values = np.asarray(Image.open(mask))
    counts = dict(zip(*np.unique(values, return_counts=True), strict=True))
    assert counts[3] == pytest.approx(np.pi * 12**2 + 24 * 12, rel=0.05)  # two dabs of 24 px, 12 px apart
    assert counts[2] == pytest.approx(48 * 24 / 2, rel=0.1)
    assert counts.keys() == {2, 3, 255}
    assert values[128, 128] == 3
    page.keyboard.press("z")
    save(page, "Saved as")
    assert set(np.unique(np.asarray(Image.open(mask)))) == {3, 255}
    other.fill("#author", "Ben")
    box = other.locator("#canvas").bounding_box()
    other.mouse.move(box["x"] + box["width"] / 2, box["y"] + 60)
    other.mouse.down()
    other.mouse.move(box["x"] + box["width"] / 2, box["y"] + 200, steps=4)
    other.mouse.up()
    other.locator("#canvas").focus()
    save(other, "was saved by Ada")
    assert set(np.unique(np.asarray(Image.open(mask)))) == {3, 255}


def test_a_mask_is_corrected_on_a_phone(browser, address):
    context = browser.new_context(
        base_url=address, viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True
    )
    phone = context.new_page()
    phone.set_default_timeout(120_000)
    phone.goto("/correct?slide=core-1&left=0&top=0&side=256")
    phone.locator("#status").get_by_text("256 × 256 px at 0, 0").wait_for()
    assert phone.evaluate("document.documentElement.scrollWidth") <= 360
    phone.locator("#canvas").scroll_into_view_if_needed()
    assert phone.locator("#undo").is_disabled()
    phone.locator("#canvas").tap()
    phone.locator("#share").get_by_text("of it is painted").wait_for()
    assert phone.locator("#share").inner_text() > "0.0 %"
    phone.locator("#undo").tap()
    assert phone.locator("#undo").is_disabled()
    context.close()


@pytest.mark.parametrize("how", ["stop", "leave"])
def test_what_is_stopped_or_left_ends_and_the_next_one_gets_its_turn(page, other, monkeypatch, how):
    ended = threading.Event()

    def endless(slide, context, settings, source, network, progress):
        try:
            while True:
                progress(0.2, "1 tiles done")
                time.sleep(0.05)
        finally:
            ended.set()

    other.goto("/nuclei")
    other.locator("#dm-run").wait_for()
    with monkeypatch.context() as patch:
        patch.setattr("dermatome.web.nuclei.find_nuclei", endless)
        other.click("#dm-run")
        other.get_by_text("1 tiles done").first.wait_for()
    if how == "stop":
        other.click("#dm-stop")
        other.locator("#dm-status").get_by_text("Stopped").wait_for()
    else:
        other.context.close()
    assert ended.wait(30), "it is computed for nobody"
    page.goto("/nuclei")
    page.locator("#dm-run").wait_for()
    page.click("#dm-run")
    page.locator("#dm-status").get_by_text("found by the toy network").wait_for()


def test_nothing_is_wider_than_a_phone(page):
    page.set_viewport_size({"width": 390, "height": 844})
    for place in ("/", "/skin", "/rois"):
        page.goto(place)
        page.locator("h1").first.wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_many_at_once_are_all_answered_with_their_own_result_and_forgotten(web, address, tmp_path):
    from gradio_client import Client, handle_file

    for seed in range(8):
        (tmp_path / f"own-{seed}.png").write_bytes(png(seed, 64 + 8 * seed))

    def ask(seed):
        client = Client(address, verbose=False, analytics_enabled=False)
        status, view, _, _ = client.predict(handle_file(tmp_path / f"own-{seed}.png"), None, 0.25, api_name="/nuclei")
        return status, view

    with ThreadPoolExecutor(8) as pool:
        for seed, (status, view) in enumerate(pool.map(ask, range(8))):
            side = 64 + 8 * seed
            assert f"own-{seed}:" in status
            assert f"{side} × {side} px" in view
    (gradio,) = (route.app for route in web.app.routes if hasattr(getattr(route, "app", None), "state_holder"))
    assert len(gradio.state_holder.session_data) <= 5
