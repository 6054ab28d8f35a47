"""The pages of the web atlas over a small data root: what they show, and what they refuse."""

import io
import json
import math

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from starlette.applications import Starlette
from starlette.testclient import TestClient

from dermatome.labels.ome_tiff import write_ome_tiff
from dermatome.labels.tiled import TiledArray
from dermatome.pipeline.stage_files import write_frame, write_rows
from dermatome.skin.atlas.search import SCRIPT_SOURCE
from dermatome.storage.files import sha256_bytes
from dermatome.storage.layout import DataRoot
from dermatome.storage.record import write_failure
from dermatome.warehouse.store import build_store
from dermatome.web.atlas.pages import DOWNLOADS, atlas_routes
from dermatome.web.atlas.places import place_of
from pipelines_tests.bad_images import saved
from pipelines_tests.records import put_record

SLIDE, GENE = "9-1_A", "ENSG00000186847"
HEIGHT, WIDTH = 700, 1100
MARKUP = "<script>alert(1)</script>"


def antibodies(gene, ensembl_id, synonyms=None, pattern="basal"):
    return {
        "gene": gene, "ensembl_id": ensembl_id, "antibody": f"HPA-{gene}", "pattern": pattern, "pattern_share": 0.9,
        "patients": 3, "slides_of_unknown_patient": 0, "synonyms": synonyms, "staining": "high", "intensity": "strong",
        "quantity": ">75%", "location": "nuclear",
    }  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = DataRoot(tmp_path_factory.mktemp("atlas") / "data")
    rng = np.random.default_rng(0)
    pixels = rng.integers(60, 240, (HEIGHT, WIDTH, 3), np.uint8)
    image = saved(Image.fromarray(pixels), "PNG")
    values = {
        "file": "image.png", "image_sha256": sha256_bytes(image), "height_px": HEIGHT, "width_px": WIDTH,
        "mpp": 0.5, "mpp_source": "declared", "gene": "KRT14", "ensembl_id": GENE,
    }  # fmt: skip
    put_record(root, "slide_images", SLIDE, values=values)
    (root.folder("slide_images", SLIDE) / "image.png").write_bytes(image)
    put_record(root, "slide_images", "9-2_A", values=values | {"gene": MARKUP})
    labels = {"epidermis_masks": "mask", "cell_masks": "cells", "epidermis_layers": "layers"}
    for asset, stem in labels.items():
        numbers = np.zeros((HEIGHT, WIDTH), np.uint8 if stem == "mask" else np.int32 if stem == "cells" else np.uint16)
        numbers[100:300, 500:900] = 2
        put_record(root, asset, SLIDE, values={"layers": 3, "layer_um": 8.0, "h_score": 120.0, "pattern": "basal"})
        write_ome_tiff(root.folder(asset, SLIDE) / f"{stem}.ome.tif", TiledArray.of(numbers), 0.5)
    layers = pd.DataFrame({"layer": [1, 2, 3], "area_px": [9, 8, 7], "mean_dab_od": [0.5, math.nan, 0.1]})
    write_rows(root.folder("epidermis_layers", SLIDE) / "layers.parquet", SLIDE, layers)
    depths = pd.DataFrame({"cell_id": [1, 2], "layer": [1, 2], "distance_um": [1.0, 9.5], "relative_depth": [0.1, 0.4]})
    write_rows(root.folder("epidermis_layers", SLIDE) / "cell_layers.parquet", SLIDE, depths)
    cells = pd.DataFrame({"cell_id": [1, 2], "area_px": [10, 80], "mean_dab_od": [0.2, 0.3]})
    write_rows(root.folder("cell_masks", SLIDE) / "cells.parquet", SLIDE, cells)
    (root.folder("epidermis_layers", SLIDE) / "layers.geojson").write_text('{"type": "FeatureCollection"}')
    put_record(root, "skin_atlas", "current", message="2 genes.")
    rows = [antibodies("KRT14", GENE, "EBS3, K14"), antibodies("KRT10", "ENSG00000186395", "K10", "suprabasal")]
    write_frame(root.folder("skin_atlas", "current") / "antibodies.parquet", pd.DataFrame(rows))
    report = "<head><title>KRT14 &amp; co</title><style>p { color: red }</style></head><body><h1>Card</h1></body>"
    put_record(root, "gene_profiles", GENE)
    (root.folder("gene_profiles", GENE) / "card.html").write_text(report)
    write_frame(root.folder("gene_profiles", GENE) / "cores.parquet", pd.DataFrame({"slide": [SLIDE, SLIDE]}))
    write_failure(
        root.failure("cell_masks", SLIDE), asset="cell_masks", partition=SLIDE, error=MARKUP, kind="k", run_id="r"
    )
    build_store(root)
    (root.path / "settings.toml").write_text('[platform]\ndagster_url = "https://lab.example/dagster"\n')
    return root


@pytest.fixture(scope="module")
def client(root):
    with TestClient(Starlette(routes=atlas_routes(root, "/nuclei")), base_url="http://127.0.0.1") as client:
        yield client


@pytest.mark.parametrize("query", ["krt14", GENE, "k14", "ebs3", "HPA-KRT14", "basal strong krt14"])
def test_a_gene_is_found_by_each_of_its_names_and_its_card_is_shown(client, query):
    answer = client.get("/", params={"q": query})
    assert answer.url.path == f"/atlas/reports/gene_profiles/{GENE}/card.html"
    assert "<h1>Card</h1>" in answer.text
    assert "<title>KRT14 &amp; co" in answer.text
    assert answer.text.count(f'href="/atlas/slide/{SLIDE}"') == 1
    assert f"https://lab.example/dagster/assets/gene_profiles?partition={GENE}" in answer.text


def test_the_first_page_lists_what_was_found_and_says_how_many(client, tmp_path):
    assert "2 of 2 genes." in client.get("/").text
    text = client.get("/", params={"q": "krt"}).text
    assert text.index("KRT10") < text.index("KRT14")
    nothing = client.get("/", params={"q": MARKUP}).text
    assert "0 of 0 genes" in nothing
    assert MARKUP not in nothing
    root = DataRoot(tmp_path)
    with TestClient(Starlette(routes=atlas_routes(root, "/nuclei"))) as empty:
        assert empty.get("/", follow_redirects=False).headers["location"] == "/nuclei"
        put_record(root, "slide_images", SLIDE)
        assert "There is no atlas yet" in empty.get("/").text
        build_store(root)
        assert empty.get("/", follow_redirects=False).headers["location"] == "/atlas/slides"


def test_slides_are_listed_from_the_metrics_store(client):
    text = client.get("/atlas/slides").text
    assert "2 slides" in text
    assert MARKUP not in text
    found = client.get("/atlas/slides", params={"q": "KRT14 BASAL"}).text
    assert "1 slide." in found
    assert f'href="/atlas/slide/{SLIDE}"' in found
    assert "0 slides" in client.get("/atlas/slides", params={"q": "%"}).text
    assert client.get("/atlas/slides", params={"page": "1;drop"}).status_code == 400


def test_a_slide_shows_its_numbers_with_links_to_their_explanation_and_escapes_text(client):
    text = client.get(f"/atlas/slide/{SLIDE}").text
    assert "Epidermis: basal" in text
    assert f"/atlas/slide/{SLIDE}/explain?part=layer&amp;row=1&amp;column=mean_dab_od" in text
    assert "<td>–</td>" in text, "a value that is not known has no explanation"
    assert f"https://lab.example/dagster/assets/epidermis_layers?partition={SLIDE}" in text
    assert MARKUP not in text
    assert "are not measured yet" in client.get("/atlas/slide/9-2_A").text


def config(client):
    text = client.get(f"/atlas/slide/{SLIDE}").text
    return json.loads(text.split('id="slide">')[1].split("</script>")[0])


def test_tiles_of_every_level_make_up_the_slide(client):
    viewer = config(client)
    assert viewer["views"] == ["image", "dab", "tissue", "layers", "cells"]
    assert viewer["maxLevel"] == 11
    for level in (11, 10, 9, 0):
        shrunk = 2 ** (11 - level)
        height, width = -(-HEIGHT // shrunk), -(-WIDTH // shrunk)
        for view in viewer["views"]:
            across = []
            for column in range(-(-width // 512)):
                tiles = [
                    Image.open(io.BytesIO(client.get(f"{viewer['tiles']}/{view}/{level}/{column}/{row}").content))
                    for row in range(-(-height // 512))
                ]
                across.append(np.concatenate([np.asarray(tile.convert("RGBA")) for tile in tiles]))
            whole = np.concatenate(across, axis=1)
            assert whole.shape == (height, width, 4), (view, level)
            if level == 11 and view in ("tissue", "layers"):
                found = np.argwhere(whole[..., 3] > 0)
                assert [*found.min(axis=0), *found.max(axis=0)] == [100, 500, 299, 899]
    assert client.get(f"{viewer['tiles']}/image/11/3/0").status_code == 404
    for level in ("12", "9" * 20):
        assert client.get(f"{viewer['tiles']}/image/{level}/0/0").status_code == 404
    assert client.get(f"{viewer['tiles']}/../image/11/0/0").status_code == 404
    assert "immutable" in client.get(f"{viewer['tiles']}/image/11/0/0").headers["cache-control"]


def test_a_tile_of_results_that_were_replaced_is_not_kept(client):
    stale = config(client)["tiles"].rsplit("/", 1)[0] + "/0123"
    assert client.get(f"{stale}/image/0/0/0").headers["cache-control"] == "no-store"


def test_a_point_gives_the_cell_the_layer_and_what_the_numbers_mean(client):
    found = client.get(f"/atlas/slide/{SLIDE}/at", params={"x": 700, "y": 200}).json()
    assert found["tissue"] == "epidermis"
    cell, layer = found["parts"]
    assert (cell["title"], layer["title"]) == ("Cell 2", "Layer 2")
    values = {one["name"]: one for one in cell["values"]}
    assert {name: one["value"] for name, one in values.items()} == {
        "area_px": 80, "mean_dab_od": 0.3, "layer": 2, "distance_um": 9.5, "relative_depth": 0.4,
    }  # fmt: skip
    assert all(one["meaning"] for one in values.values())
    assert values["area_px"]["explain"] == f"/atlas/slide/{SLIDE}/explain?part=cell&row=2&column=area_px"
    assert {one["name"]: one["value"] for one in layer["values"]}["mean_dab_od"] is None
    assert client.get(f"/atlas/slide/{SLIDE}/at", params={"x": 0, "y": 0}).json() == {
        "tissue": "background",
        "parts": [],
    }
    for bad in ({"x": WIDTH, "y": 0}, {"x": -1, "y": 0}, {"x": "1e3", "y": 0}, {"x": 0}):
        answer = client.get(f"/atlas/slide/{SLIDE}/at", params=bad)
        assert answer.status_code in (400, 404)
        assert answer.json()["detail"].endswith(".")


def test_downloads_are_those_of_the_list_and_tables_come_as_csv(client):
    answer = client.get(f"/atlas/file/epidermis_layers/{SLIDE}/layers.csv")
    assert pd.read_csv(io.StringIO(answer.text))["area_px"].tolist() == [9, 8, 7]
    assert "attachment" in answer.headers["content-disposition"]
    assert client.get(f"/atlas/file/epidermis_layers/{SLIDE}/layers.geojson").json()["type"] == "FeatureCollection"
    for place in (
        f"slide_images/{SLIDE}/image.png", f"epidermis_layers/{SLIDE}/record.json", "dagster/x/storage.db",
        "epidermis_layers/../settings.toml", "epidermis_layers/%2e%2e/layers.csv", "epidermis_layers/none/layers.csv",
        f"epidermis_layers/{SLIDE}/zones.csv", "epidermis_layers/.hidden/layers.csv",
    ):  # fmt: skip
        assert client.get(f"/atlas/file/{place}").status_code in (404, 500), place
    for place in (
        f"/atlas/reports/epidermis_layers/{SLIDE}/layers.parquet",
        "/atlas/reports/gene_profiles/..%2f/card.html",
    ):
        assert client.get(place).status_code in (404, 500)
    assert {asset for asset in DOWNLOADS if place_of(asset, "x")} == set(DOWNLOADS)


def test_pages_load_nothing_from_elsewhere_and_run_only_known_scripts(client):
    for place in ("/", "/atlas/slides", f"/atlas/slide/{SLIDE}", f"/atlas/reports/gene_profiles/{GENE}/card.html"):
        policy = client.get(place).headers["content-security-policy"]
        assert f"script-src 'self' {SCRIPT_SOURCE};" in policy
        assert "default-src 'none'" in policy
    assert b"http://openseadragon" in client.get("/atlas/static/openseadragon-5.0.1.min.js").content
    assert "Redistribution" in client.get("/atlas/static/openseadragon-5.0.1.LICENSE.txt").text
    assert client.get("/atlas/static/../pages.py").status_code == 404


def test_an_error_is_a_page_that_says_it(client):
    for place, words in (
        ("/atlas/slide/unknown", "unknown"), (f"/atlas/slide/{SLIDE}/explain?part=nucleus", "nucleus"),
        (f"/atlas/slide/{SLIDE}/explain?part=layer&column=area_px", "give an integer"),
        ("/atlas/reports/gene_profiles/ENSG00000000009/card.html", "materialize it"),
        ("/atlas/reports/hpa_agreement/current/agreement.html", "materialize it"),
    ):  # fmt: skip
        answer = client.get(place)
        assert answer.status_code in (400, 404)
        assert words in answer.text
