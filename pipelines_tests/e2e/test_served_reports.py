"""Reports as `make ui` serves them, in a browser: the search of the atlas runs, and no other script does."""

import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from dermatome.skin.atlas.build import build_atlas
from dermatome.skin.atlas.figures import atlas_figure
from dermatome.skin.atlas.stage import atlas_html
from orchestration.webserver import Results
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
    with serving(Starlette(routes=[Mount("/results", Results(directory=folder))])) as address:
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


def test_a_report_runs_no_other_script_and_is_of_no_origin(browser, address):
    page = browser.new_page()
    page.goto(f"{address}/other.html")
    page.click("p")
    assert page.title() == "quiet"
    assert page.evaluate("self.origin") == "null"
