"""The web atlas over the demo's data root, in the system's Chromium: from a gene to a cell and to its pixels."""

import pandas as pd
import pytest
from starlette.applications import Starlette

from dermatome.skin.atlas.search import SCRIPT_SOURCE
from dermatome.web.atlas.pages import atlas_routes
from pipelines_tests.web_server import serving, visited

pytestmark = [pytest.mark.e2e]

GENE, SLIDE = "ENSG99999000001", "901-1_A_1_1"
NUMBERS = "#found h3"


@pytest.fixture(scope="module")
def address(demo):
    with serving(Starlette(routes=atlas_routes(demo.root, "/nuclei"))) as address:
        yield address


@pytest.fixture
def page(browser, address):
    errors = []
    with visited(browser, address) as page:
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
        yield page
    assert errors == []


def test_from_a_gene_to_the_pixels_of_a_cell(page, demo):
    page.goto("/")
    page.fill("#q", "toybasal")
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="TOYBASAL", exact=True).wait_for()
    page.get_by_role("link", name=SLIDE).click()
    page.wait_for_selector("#viewer[data-shown=image]")
    for view in ("dab", "tissue", "layers", "cells"):
        page.check(f"input[name=view][value={view}]")
        page.wait_for_selector(f"#viewer[data-shown={view}]")
    cell = pd.read_parquet(demo.root.folder("cell_masks", SLIDE) / "cells.parquet").nlargest(1, "area_px").iloc[0]
    # Where the cell is on the screen: the viewer's own arithmetic, from pixels of the slide.
    place = page.evaluate(
        "([x, y]) => { const image = viewer.world.getItemAt(0);"
        "const at = image.imageToWindowCoordinates(new OpenSeadragon.Point(x, y)); return [at.x, at.y]; }",
        [cell["centroid_x_px"] + 0.5, cell["centroid_y_px"] + 0.5],
    )
    page.mouse.click(*place)
    page.locator(NUMBERS, has_text=f"Cell {int(cell['cell_id'])}").wait_for()
    page.locator("#found a[title='Explain mean_dab_od']").first.click()
    page.get_by_text("Both are equal to the last bit").wait_for()
    assert page.get_by_alt_text("The image around the pixels").evaluate("picture => picture.naturalWidth") > 100
    page.get_by_role("link", name=SLIDE).click()
    for name in ("cells.csv", "layers.geojson"):
        with page.expect_download() as caught:
            page.get_by_role("link", name=name, exact=True).click()
        assert caught.value.suggested_filename == f"{SLIDE}_{name}"


def test_a_keyboard_is_enough(page):
    page.goto(f"/atlas/slide/{SLIDE}")
    page.wait_for_selector("#viewer[data-shown=image]")
    page.locator("#viewer .openseadragon-canvas[tabindex='0']").focus()
    zoom = "viewer.viewport.getZoom(true)"
    before = page.evaluate(zoom)
    page.keyboard.press("+")
    for _ in range(100):  # the policy of the page lets Playwright's own waiting evaluate nothing
        if page.evaluate(zoom) > before * 1.05:
            break
        page.wait_for_timeout(100)
    assert page.evaluate(zoom) > before * 1.05
    page.keyboard.press("Enter")
    page.get_by_text("At x =").wait_for()
    assert page.evaluate("document.querySelectorAll('.marker').length") == 1


def test_the_heatmap_leads_to_a_card_and_the_agreement_names_the_wrong_label(page, demo):
    page.goto("/")
    page.get_by_role("link", name="Heatmap").click()
    page.fill("#search", "whole")
    assert page.locator("tr.gene:visible").count() == 2, "the report's own script runs, allowed by its hash"
    page.locator("tr.gene:visible a").first.click()
    page.get_by_role("link", name="gene_profiles in Dagster").wait_for()
    page.get_by_role("link", name="Agreement").click()
    page.get_by_role("link", name="TOYMISLABELLED").first.click()
    page.get_by_role("heading", name="TOYMISLABELLED", exact=True).wait_for()
    page.get_by_role("link", name="Slides").click()
    assert page.locator("main table tr").count() == 1 + len(demo.root.partitions("slide_images"))
    assert SCRIPT_SOURCE in page.request.get("/").headers["content-security-policy"]


def test_every_page_fits_a_phone_and_paper(browser, address):
    page = browser.new_context(base_url=address, viewport={"width": 390, "height": 800}).new_page()
    for place in ("/", "/atlas/slides", f"/atlas/slide/{SLIDE}", f"/atlas/reports/gene_profiles/{GENE}/card.html"):
        page.goto(place)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, place
        page.emulate_media(media="print")
        assert not page.locator("body > nav").is_visible()
        page.emulate_media(media="screen")
