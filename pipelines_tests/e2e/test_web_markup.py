"""Names with markup, on every page of the web app in a browser: they are shown as text and run nothing."""

import json

import pytest
from PIL import Image

from dermatome.storage.layout import CHAMPION, DataRoot
from dermatome.synthetic.cohort import write_annotations
from pipelines_tests.bad_images import saved
from pipelines_tests.records import put_record
from pipelines_tests.web_server import SMALL, served, visited

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

MARKUP = "<img src=x onerror=window.broken=1><b id=injected>bold<script>window.broken=1<"


@pytest.fixture(scope="module")
def web(tmp_path_factory):
    """The app over a data root in which everything that may be named has markup in its name."""
    folder = tmp_path_factory.mktemp("markup")
    root = DataRoot.at(str(folder / "data"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dermatome.synthetic.cohort.ANNOTATED", ("slide-1", f"z{MARKUP}"))
        patch.setattr("dermatome.synthetic.cohort.SLIDE_PX", 96)
        write_annotations(root.annotations)
    roi = {"name": MARKUP, "top": 1, "left": 1, "height": 8, "width": 8}
    (root.path / "annotations" / "slide-1" / "rois.json").write_text(json.dumps({"rois": [roi]}))
    values = {"version": MARKUP, "weights_sha256": "7" * 64}
    put_record(root, "tissue_champion", CHAMPION, values=values)
    weights = folder / f"{MARKUP}.safetensors"
    weights.write_bytes(b"x")
    with served(folder, limits=SMALL, weights=str(weights)) as web:
        yield web


@pytest.fixture
def page(browser, web):
    with visited(browser, web.address) as page:
        yield page
        assert page.evaluate("window.broken") is None, "a name has run a script"
        assert page.locator("#injected").count() == 0, "a name has become an element"


def upload(page):
    image = saved(Image.new("RGB", (64, 64), (200, 150, 200)), "PNG")
    page.set_input_files("input[type=file]", {"name": f"{MARKUP}.png", "mimeType": "image/png", "buffer": image})
    page.get_by_text("onerror").first.wait_for()


@pytest.mark.parametrize("place", ["/", "/skin"])
def test_names_of_networks_and_uploads_are_text(page, place):
    page.goto(place)
    page.locator("#dm-run").wait_for()
    page.locator(".dm-note").get_by_text(MARKUP).first.wait_for()
    upload(page)
    page.click("#dm-run")
    page.locator("#dm-status [role=alert]").wait_for()


def test_names_of_slides_and_rois_are_text(page):
    page.goto("/rois")
    page.wait_for_function("[...document.querySelectorAll('input')].some((field) => field.value === 'slide-1')")
    page.click("#dm-open")
    page.locator(".dm-list").get_by_text(MARKUP).first.wait_for()
    page.click("#dm-save")
    page.locator("#dm-roi-status [role=alert]").get_by_text("onerror").wait_for()
    page.get_by_label("Annotated slide of the data root").click()
    page.get_by_role("option").get_by_text("onerror").click()
    page.click("#dm-open")
    page.locator("#dm-roi-status [role=alert]").get_by_text("onerror").wait_for()
    upload(page)
    page.click("#dm-open")
    page.locator("#dm-roi-status").get_by_text("is open").wait_for()
    page.click("#dm-save")
    page.locator("#dm-roi-status").get_by_text("no ROI yet").wait_for()
