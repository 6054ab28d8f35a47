"""`make demo`, as a newcomer runs it: once, and again."""

import json
import re

import duckdb
import numpy as np
import pandas as pd
import pytest
import tifffile
from PIL import Image

from dermatome.synthetic.cohort import demo_genes
from pipelines_tests.e2e.conftest import run_demo

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]

SLIDES = [slide for gene in demo_genes() for slide in gene.slides]
GOOD = [slide.slide for slide in SLIDES if not slide.broken]
(BROKEN,) = [slide.slide for slide in SLIDES if slide.broken]


def test_the_demo_reaches_its_targets_and_says_so(demo):
    assert demo.status == 0, demo.output[-6000:]
    assert "Means: epidermis IoU" in demo.output
    assert f"{BROKEN}: image.jpg is damaged or cut short" in demo.output
    assert "make ui" in demo.output


def test_every_good_slide_has_rows_and_the_bad_one_its_reason(demo):
    with duckdb.connect(str(demo.root.store), read_only=True) as store:
        made = [row[0] for row in store.execute("select slide from layer_slides order by slide").fetchall()]
        assert made == sorted(GOOD)
        assert store.execute("select asset, partition from failures").fetchall() == [("slide_images", BROKEN)]
        patterns = dict(store.execute("select slide, pattern from layer_slides").fetchall())
        assert patterns == {slide.slide: slide.pattern.value for slide in SLIDES if not slide.broken}
        (genes,) = store.execute("select count(distinct gene) from dab_profile_by_gene").fetchone()
        assert genes == 5
        assert store.execute("select count(*) from slides_not_from_champion").fetchone() == (0,)


def test_every_gene_has_a_profile_and_a_card(demo):
    for gene in demo_genes():
        folder = demo.root.folder("gene_profiles", gene.ensembl_id)
        (antibody,) = pd.read_parquet(folder / "antibodies.parquet").to_dict("records")
        count = sum(not slide.broken for slide in gene.slides)
        assert (antibody["pattern"], antibody["patients"], antibody["slides"]) == (gene.pattern.value, count, count)
        rows = pd.read_parquet(folder / "profile.parquet").query("part == 'relative_depth'")
        assert len(rows) == 20
        assert (rows["mean_dab_od_low"] <= rows["mean_dab_od"]).all()
        card = (folder / "card.html").read_text()
        assert card.count("<figure>") == count
        assert ("Left out" in card) == any(slide.broken for slide in gene.slides)


def test_the_atlas_has_every_gene(demo):
    text = (demo.root.folder("skin_atlas", "current") / "atlas.html").read_text()
    assert text.count('<tr class="gene">') == len(demo_genes())
    assert "None of the markers" in text
    assert "trained on synthetic images only" in text


def test_annotation_is_compared_with_the_measurements(demo):
    folder = demo.root.folder("hpa_agreement", "current")
    rows = pd.read_parquet(folder / "agreement.parquet").query("target == 'intensity'")
    wrong = rows["gene"] == "TOYMISLABELLED"
    assert rows.loc[wrong, ["annotated", "read"]].values.tolist() == [["negative", "moderate"]]
    assert rows["probability"].idxmin() == wrong.idxmax(), "the label that contradicts the images is found"
    assert "TOYMISLABELLED stains all" in demo.output
    rows = rows[~wrong]
    assert sorted(rows["annotated"]) == ["moderate", "moderate", "negative", "weak"]
    assert rows["measure"].corr(rows["annotated"].map({"negative": 0, "weak": 1, "moderate": 2})) > 0.9
    assert "no interval is given" in (folder / "agreement.html").read_text()


def test_any_number_leads_back_to_image_weights_code_and_settings(demo):
    with duckdb.connect(str(demo.root.store), read_only=True) as store:
        rows = store.execute(
            """select slide, image_sha256, tissue_weights_sha256, mask_code, cell_weights_sha256, cell_settings,
            layer_run
            from lineage where tissue_weights is not null"""
        ).fetchall()
    assert len(rows) == len(GOOD)
    for slide, image, tissue, code, cells, settings, run in rows:
        record = demo.root.record("slide_images", slide)
        assert record.is_file()
        assert len(image) == len(tissue) == len(cells) == 64
        assert re.fullmatch(r"\d+\+[0-9a-f]{8}", code)
        assert json.loads(settings)["cells"]["flow_threshold"] == 0.4
        assert run


@pytest.mark.parametrize("asset", ["epidermis_masks", "cell_masks", "epidermis_layers"])
def test_files_open_with_other_readers(demo, asset):
    folder = demo.root.folder(asset, GOOD[0])
    with Image.open(folder / "figure.png") as figure:
        assert min(figure.size) > 500
    assert (folder / "preview.webp").stat().st_size <= 8_000
    name = {"epidermis_masks": "mask", "cell_masks": "cells", "epidermis_layers": "layers"}[asset]
    labels = tifffile.imread(folder / f"{name}.ome.tif")
    with Image.open(demo.root.folder("slide_images", GOOD[0]) / "image.jpg") as image:
        assert labels.shape == (image.height, image.width)
    if asset != "epidermis_layers":
        with np.load(folder / f"{name}.npz", allow_pickle=False) as arrays:
            key = "mask" if name == "mask" else "instances"
            assert np.array_equal(arrays[key], labels)
        outlines = json.loads((folder / ("tissue.geojson" if name == "mask" else "cells.geojson")).read_text())
        assert outlines["type"] == "FeatureCollection"
        assert outlines["features"]


def test_a_second_demo_computes_nothing_again(demo):
    before = snapshot(demo.root.path)
    again = run_demo(demo.root.path)
    assert again.status == 0, again.output[-6000:]
    assert "tissue_weights: current" in again.output
    assert f"slide_images: 1 of {len(SLIDES)} to materialize" in again.output, "only the broken slide is tried again"
    for asset in ("epidermis_masks", "cell_masks", "epidermis_layers", "gene_profiles", "skin_atlas", "hpa_agreement"):
        assert f"{asset}: current" in again.output
    assert snapshot(demo.root.path) == before


def snapshot(root):
    """Modification time of every file a stage made."""
    return {
        str(path.relative_to(root)): path.stat().st_mtime_ns
        for stage in ("slide_images", "epidermis_masks", "cell_masks", "epidermis_layers", "tissue_weights")
        for path in (root / stage).rglob("*")
        if path.is_file()
    }
