"""Gene profiles: means over patients worked out by hand, intervals, patterns, and the card."""

import math

import numpy as np
import pandas as pd
import pytest

from dermatome.hpa.pages import parse_page
from dermatome.hpa.records import RECORDS_FILE, write_records
from dermatome.pipeline.stage_files import write_rows
from dermatome.skin.layers.settings import LayerSettings
from dermatome.skin.profiles.card import CoreShown, LeftOut, card_html
from dermatome.skin.profiles.figures import profile_figure
from dermatome.skin.profiles.profile import Core, profile_gene
from dermatome.skin.profiles.settings import ProfileSettings
from dermatome.skin.profiles.stage import ProfileStage, annotated_cores
from dermatome.storage.layout import DataRoot
from dermatome.storage.record import write_failure
from dermatome.synthetic.hpa_pages import ToyImage, gene_page_xml
from pipelines_tests.records import put_record, record_of

ANNOTATION = {"tissue": "Skin 1", "staining": "high", "intensity": None}


def core(slide, antibody, patient, dab, above=None, **more):
    """A core of three layers: basal DAB ``dab``, ``above`` in the others."""
    od = [dab, above or dab, above or dab]
    same = {"mean_h_od": 0.1, "positive_share": 0.5, "h_score": [100 * value for value in od], "area_px": 10}
    tables = {
        "layer": pd.DataFrame({"layer": [1, 2, 3], "mean_dab_od": od, **same}),
        "zone": pd.DataFrame({"zone": ["basal", "lower_suprabasal", "upper_suprabasal"], "mean_dab_od": od, **same}),
        "relative_depth": pd.DataFrame({"relative_from": [0.0, 0.05, 0.1], "mean_dab_od": od, **same}),
        "epidermis": pd.DataFrame([{"epidermis": True, "mean_dab_od": np.mean(od), **same, "h_score": 0.0}]),
    }
    return Core(slide, antibody, patient, tables | more, ANNOTATION)


def rows(profile, antibody, part):
    found = profile.rows[(profile.rows["antibody"] == antibody) & (profile.rows["part"] == part)]
    return found.to_dict("records")


def test_means_are_over_patients_and_one_patient_has_no_interval():
    """Patient p: (0.1 + 0.3) / 2 = 0.2; q: 0.6. Mean 0.4, SD 0.2 × √2; resamples are 0.2, 0.4 and 0.6."""
    profile = profile_gene(
        [core("a", "A", "p", 0.1), core("b", "A", "p", 0.3), core("c", "A", "q", 0.6), core("d", "B", "p", 0.5)]
    )
    for part in ("layer", "relative_depth", "zone", "epidermis"):
        first = rows(profile, "A", part)[0]
        assert first["patients"] == 2
        assert first["mean_dab_od"] == pytest.approx(0.4)
        assert first["mean_dab_od_sd"] == pytest.approx(0.2 * math.sqrt(2))
        assert (first["mean_dab_od_low"], first["mean_dab_od_high"]) == (pytest.approx(0.2), pytest.approx(0.6))
        alone = rows(profile, "B", part)[0]
        assert alone["mean_dab_od"] == 0.5
        assert all(math.isnan(alone[f"mean_dab_od_{name}"]) for name in ("sd", "low", "high"))
    assert [row["zone"] for row in rows(profile, "A", "zone")] == ["basal", "lower_suprabasal", "upper_suprabasal"]
    counts = profile.antibodies[["antibody", "patients", "slides", "slides_of_unknown_patient", "staining"]]
    assert counts.to_numpy().tolist() == [["A", 2, 3, 0, "high"], ["B", 1, 1, 0, "high"]]
    assert math.isnan(profile.antibodies["pattern_share"][1])


def test_a_place_that_only_one_patient_has_is_counted_so():
    thin = core("a", "A", "p", 0.2)
    thin = core("a", "A", "p", 0.2, layer=thin.tables["layer"].iloc[:2])
    third = rows(profile_gene([thin, core("b", "A", "q", 0.4)]), "A", "layer")[2]
    assert (third["layer"], third["patients"], third["mean_dab_od"]) == (3, 1, 0.4)
    assert math.isnan(third["mean_dab_od_low"])


def test_a_pattern_is_as_sure_as_the_patients_agree():
    alike = [core(name, "A", name, 0.6, 0.1) for name in "abcd"]
    split = [
        core(name, "B", name, *od)
        for name, od in zip("abcd", [(0.6, 0.1), (0.6, 0.1), (0.1, 0.6), (0.3, 0.3)], strict=True)
    ]
    found = profile_gene(alike + split).antibodies.to_dict("records")
    assert (found[0]["pattern"], found[0]["patients_with_pattern"], found[0]["pattern_share"]) == ("basal", 4, 1.0)
    assert (found[1]["pattern"], found[1]["patients_with_pattern"]) == ("whole", 1)
    assert 0.2 < found[1]["pattern_share"] < 0.95


def test_slides_of_unknown_patients_are_people_of_their_own_and_counted():
    profile = profile_gene([core("a", "A", None, 0.2), core("b", "A", None, 0.4), core("c", "A", "p", 0.6)])
    (found,) = profile.antibodies.to_dict("records")
    assert (found["patients"], found["slides"], found["slides_of_unknown_patient"]) == (1, 3, 2)
    assert rows(profile, "A", "epidermis")[0]["mean_dab_od"] == pytest.approx(0.4)


def test_intervals_are_repeatable_and_cover_the_mean_of_many_patients():
    """Coverage is counted over 200 layers whose values are drawn independently."""
    od = np.random.default_rng(1).normal(0.5, 0.1, (25, 200))
    table = {"layer": range(1, 201), "mean_h_od": 0.1, "positive_share": 0.5, "h_score": 0.0, "area_px": 10}
    cores = [core(f"{n}", "A", f"{n}", 0.5, layer=pd.DataFrame(table | {"mean_dab_od": od[n]})) for n in range(25)]
    first, again = (profile_gene(cores, ProfileSettings(resamples=400)).rows for _ in range(2))
    pd.testing.assert_frame_equal(first, again)
    layers = first[first["part"] == "layer"]
    assert layers["mean_dab_od_low"].le(0.5).mul(layers["mean_dab_od_high"].ge(0.5)).mean() == pytest.approx(
        0.93, abs=0.04
    )


def test_a_gene_without_measured_slides_gives_empty_tables():
    assert profile_gene([]).rows.empty


PAGE = {
    "synonyms": ["K1", "<i>K"],
    "sex": None,
    "age": None,
    "tissue": "Skin 1",
    "licence": "CC BY-SA 3.0",
    "reliability": None,
    "release": "23",
}
PAGE["cell_types"] = [dict.fromkeys(("cell_type", "staining", "intensity", "quantity", "location"), "Rare")]


def card(cores, left_out=(), page_url="https://www.proteinatlas.org/E.xml", warning="", formats=None):
    values = {"gene": "<script>alert(1)</script>", "release": "23", "page_url": page_url, "licence": "l"}
    record = record_of("hpa_images", "E", outcome="images", values=values)
    profile = profile_gene(cores)
    _, svg = profile_figure("E", profile)
    shown = [CoreShown(one, "data:,", "data:,", PAGE) for one in cores]
    records = [PAGE | {"antibody": one.antibody} for one in (*cores, *left_out)]
    return card_html(record, profile, shown, left_out, records, svg, ProfileSettings(), warning, formats).decode()


def test_a_card_says_n_the_licence_and_what_is_left_out_and_runs_no_script():
    text = card([core("a", "<b>A</b>", "p", 0.5)], [LeftOut("b", "B", None, "<i>torn</i>")], "javascript:alert(1)")
    assert "n = 1 patient," in text
    assert "nobody knows how sure" in text
    assert text.count("no interval") == 4 * 4, "four numbers of the epidermis and of three zones"
    assert "CC BY-SA 3.0" in text
    assert "Human Protein Atlas, proteinatlas.org" in text
    assert "Also named K1, &lt;i&gt;K." in text
    assert text.count("<td>Rare</td>") == 2 * 5, "the annotation of both antibodies"
    assert "B: not measured" in text
    assert "&lt;i&gt;torn&lt;/i&gt;" in text
    assert not any(tag in text for tag in ("<script", "<b>A", "<i>", "javascript:"))


def test_a_card_of_nothing_says_so():
    assert "No slide of this gene was measured" in card([])
    assert "synthetic only" in card([], warning="synthetic only")


def test_a_card_says_where_lossless_and_lossy_images_are_mixed():
    assert "are mixed (1 jpg and 2 tif)" in card([], formats={"jpg": 1, "tif": 2})
    assert "mixed" not in card([], formats={"tif": 3})


def test_a_slide_that_cannot_be_used_is_left_out_with_its_reason(tmp_path):
    root = DataRoot(tmp_path)
    slides = [ToyImage("1", str(n)) for n in range(5)]
    page = parse_page(gene_page_xml("G", "ENSG00000000001", "http://127.0.0.1", slides))
    write_records(page.records, root.folder("hpa_images", "ENSG00000000001") / RECORDS_FILE)

    def record(asset, key, outcome="measured", inputs=None, **values):
        put_record(root, asset, key, outcome=outcome, inputs=inputs or {}, values=values)

    record("hpa_images", "ENSG00000000001", gene="G")
    write_failure(
        root.failure("cell_masks", "1-1"), asset="cell_masks", partition="1-1", error="e", kind="k", run_id="r"
    )
    record("cell_masks", "1-2")
    record("epidermis_layers", "1-2", inputs={"cell_masks": "older"}, h_score=1.0)
    record("epidermis_layers", "1-3", outcome="no_epidermis", h_score=None)
    record("epidermis_layers", "1-4", h_score=None)
    stage = ProfileStage(root, ProfileSettings(), LayerSettings())
    before = stage.inputs("ENSG00000000001")
    reasons = {one.slide: one.reason for one in stage.load("ENSG00000000001").left_out}
    assert reasons == {
        "1-0": "not measured yet",
        "1-1": "cell_masks failed: e",
        "1-2": "its layers are of an earlier cell_masks: materialize epidermis_layers for it",
        "1-3": "no epidermis",
        "1-4": "its colours are not stains",
    }
    record("epidermis_layers", "1-0", outcome="no_dermis", h_score=None)
    assert stage.inputs("ENSG00000000001") != before


def test_a_core_is_a_row_for_each_tissue_that_the_page_lists_it_for(tmp_path):
    """Layers of 0.2 and 0.4 on 30 and 10 px: mean 0.25. Cells of 0.5 and 0.3 on 1 and 3 px: 0.35, so 1.4 times that."""
    root, gene, slide = DataRoot(tmp_path), "ENSG00000000001", "1-1"
    images = [ToyImage("1", "1", tissue="Skin 1"), ToyImage("1", "1", tissue="Skin 2")]
    page = parse_page(gene_page_xml("G", gene, "http://127.0.0.1", images))
    write_records(page.records, root.folder("hpa_images", gene) / RECORDS_FILE)
    put_record(root, "hpa_images", gene, outcome="images", values={"gene": "G"})
    values = {"positive_share": 0.6, "h_score": 90.0, "synthetic": True}
    put_record(root, "epidermis_layers", slide, outcome="measured", values=values)
    put_record(root, "slide_images", slide, values={"file": "image.tif"})
    tables = {
        "layers": {"layer": [1, 2], "area_px": [30, 10], "mean_dab_od": [0.2, 0.4], "mean_h_od": [0.1, 0.1]},
        "zones": {"zone": ["basal"]},
        "relative": {"relative_from": [0.0]},
    }
    for name, columns in tables.items():
        write_rows(root.folder("epidermis_layers", slide) / f"{name}.parquet", slide, pd.DataFrame(columns))
    cells = pd.DataFrame({"area_px": [1, 3], "mean_dab_od": [0.5, 0.3]})
    write_rows(root.folder("cell_masks", slide) / "cells.parquet", slide, cells)
    loaded = ProfileStage(root, ProfileSettings(), LayerSettings()).load(gene)
    cores = loaded.cores
    assert loaded.formats == {"tif": 1}
    assert [core.synthetic for core in cores] == [True]
    rows = annotated_cores(root, gene, cores).to_dict("records")
    assert [row["tissue"] for row in rows] == ["Skin 1", "Skin 2"]
    for row in rows:
        assert (row["mean_dab_od"], row["cell_dab_ratio"]) == (pytest.approx(0.25), pytest.approx(1.4))
        assert (row["positive_share"], row["patient"], row["intensity"]) == (0.6, "1816", "moderate")
