"""Pages as `make ui` serves them, in a browser: the searches for genes run, and no other script does."""

import pytest
from starlette.applications import Starlette
from starlette.routing import Mount, Route

from dermatome.skin.atlas.build import build_atlas
from dermatome.skin.atlas.figures import atlas_figure
from dermatome.skin.atlas.stage import atlas_html
from dermatome.slides.register import write_sources
from dermatome.slides.source import SlideSource
from dermatome.storage.layout import DataRoot
from dermatome.web.results import Results
from orchestration.webserver import genes_page
from pipelines_tests.records import put_record
from pipelines_tests.unit.test_atlas import BASAL, GRANULAR, UPPER, tables
from pipelines_tests.web_server import serving

pytestmark = [pytest.mark.e2e]

OTHER = b"<title>quiet</title><p onclick='document.title=1'>p</p><script>document.title = 'ran'</script>"


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    profiles, antibodies = tables(("KRT5", BASAL), ("KRT1", UPPER), ("FLG", GRANULAR))
    atlas = build_atlas(profiles, antibodies)
    (folder / "atlas.html").write_bytes(atlas_html(atlas, profiles, atlas_figure(atlas)[1]))
    (folder / "other.html").write_bytes(OTHER)
    root = DataRoot.at(str(folder))
    for number, gene in enumerate(("KRT5", "KRT1", "<i>FLG"), start=1):
        put_record(root, "hpa_images", f"ENSG{number}", values={"gene": gene})
    put_record(root, "gene_profiles", "ENSG2", values={"gene": "KRT1"})
    write_sources(root.slide_sources, [SlideSource("7-1", "hpa", "http://a/7-1.jpg", "KRT1", "ENSG2")])
    routes = [Mount("/results", Results(directory=folder)), Route("/genes", lambda request: genes_page(root))]
    with serving(Starlette(routes=routes)) as address:
        yield f"{address}/results"


def test_the_search_finds_genes_and_synonyms(browser, address):
    page = browser.new_page()
    page.goto(f"{address}/atlas.html")
    rows = page.locator("tr.gene:visible")
    assert rows.count() == 3
    for words, genes in (("krt", ["KRT1", "KRT5"]), ("old-flg", ["FLG"]), ("suprabasal krt1", ["KRT1"]), ("none", [])):
        page.fill("#search", words)
        assert sorted(rows.locator("a").all_inner_texts()) == genes
        assert page.inner_text("#count") == f"{len(genes)} of 3 genes"


def test_a_gene_is_found_by_its_symbol_with_links_to_its_partitions_card_and_slides(browser, address):
    page = browser.new_page()
    page.goto(address.replace("/results", "/genes"))
    rows = page.locator("tr.gene:visible")
    assert rows.locator("td:first-child").all_inner_texts() == ["<i>FLG", "KRT1", "KRT5"]
    page.fill("#search", "krt1")
    assert [link.get_attribute("href") for link in rows.locator("a").all()] == [
        "/assets/hpa_images?view=partitions&partition=ENSG2",
        "/assets/gene_profiles?view=partitions&partition=ENSG2",
        "/results/gene_profiles/ENSG2/card.html",
        "/assets/epidermis_layers?view=partitions&partition=7-1",
    ]
    page.fill("#search", "ensg1")
    assert rows.locator("a").count() == 2, "no profile and no slide yet"


def test_a_report_runs_no_other_script_and_is_of_no_origin(browser, address):
    page = browser.new_page()
    page.goto(f"{address}/other.html")
    page.click("p")
    assert page.title() == "quiet"
    assert page.evaluate("self.origin") == "null"
