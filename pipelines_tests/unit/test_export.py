"""Exports of a data root, read back by the libraries of other programs."""

import json
import re
import warnings

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import typer
from PIL import Image

from dermatome.classes import NucleusClass, StainingPattern, TissueClass
from dermatome.cli.export import export_qupath, export_spatialdata
from dermatome.errors import BadImage, MissingInput
from dermatome.export.qupath import export_qupath as write_qupath
from dermatome.export.results import read_results, slides_of_gene
from dermatome.geometry import Size
from dermatome.hpa.records import IMAGE_RECORD_SCHEMA, RECORDS_FILE, write_records
from dermatome.nuclei.maps.networks import nucleus_weights_named
from dermatome.nuclei.maps.stage import NucleusStage
from dermatome.pipeline.cached_stage import WaitingStage
from dermatome.slides.register import write_sources
from dermatome.slides.source import SlideSource, acquire_slide
from dermatome.storage.layout import DataRoot
from dermatome.synthetic.nuclei import toy_nuclei
from dermatome.synthetic.skin import toy_slide
from pipelines_tests.toy_root import SETTINGS, put_cells_and_layers, put_images, put_true_masks, run_stage

SKIN, HE = ("a-1", "b-2"), "he"
SYNTHETIC = "Warning: The network was trained on synthetic images only"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two slides of skin of one gene, and one H&E slide."""
    folder = tmp_path_factory.mktemp("made")
    root = DataRoot(folder / "data")
    toys = {name: toy_slide(seed, StainingPattern.BASAL, size_px=448) for seed, name in enumerate(SKIN, 3)}
    sources = {name: SlideSource(name, "hpa", f"https://x/{name}.jpg", "KRT5", "ENSG1") for name in SKIN}
    write_sources(
        root.slide_sources, [*sources.values(), SlideSource("c-3", "hpa", "https://x/c-3.jpg", "FLG", "ENSG2")]
    )
    put_images(root, folder / "images", toys, sources)
    put_true_masks(root, toys)
    put_cells_and_layers(root, list(SKIN))
    page = {"gene": "KRT5", "ensembl_id": "ENSG1", "tissue": "Skin", "image_url": "https://x", "page_sha256": "0"}
    rows = [{**page, "slide": name, "antibody": "HPA1", "patient_id": f"p{name}"} for name in SKIN]
    root.folder("hpa_images", "ENSG1").mkdir(parents=True)
    write_records(pa.Table.from_pylist(rows, IMAGE_RECORD_SCHEMA), root.folder("hpa_images", "ENSG1") / RECORDS_FILE)
    image = folder / f"{HE}.png"
    Image.fromarray(toy_nuclei(11, Size(160, 160)).slide.whole()).save(image)
    source = SlideSource(HE, "folder", str(image))
    images = WaitingStage(root, "nuclei_slides", lambda _, into: acquire_slide(source, into, 0.25, 20_000))
    run_stage(images, [HE], {})
    weights = nucleus_weights_named(root, "toy")
    run_stage(NucleusStage(root, weights, SETTINGS.compute, SETTINGS.nuclei, 0.5), [HE], SETTINGS.nuclei.deciding())
    return root


def test_the_slides_of_a_gene_are_found_by_symbol_and_id(made):
    assert slides_of_gene(made, "KRT5") == slides_of_gene(made, "ENSG1") == list(SKIN)
    with pytest.raises(MissingInput, match="none of its 1 slides has epidermis_layers"):
        slides_of_gene(made, "FLG")
    with pytest.raises(MissingInput, match="no slide is registered"):
        slides_of_gene(made, "KRT1")
    with pytest.raises(MissingInput, match="neither epidermis_layers nor nucleus_maps"):
        read_results(made, "c-3")


def test_qupath_gets_images_outlines_and_a_script(made, tmp_path, capsys):
    export_qupath(out=tmp_path / "q", slides=[*SKIN, HE], data=str(made.path))
    assert SYNTHETIC in capsys.readouterr().err
    outlines = {f"{name}.{what}.geojson" for name in SKIN for what in ("tissue", "layers", "cells")}
    images = {"a-1.jpg", "b-2.jpg", "he.png"}
    assert {path.name for path in (tmp_path / "q").iterdir()} == {
        "dermatome.groovy",
        "he.nuclei.geojson",
    } | outlines | images
    script = (tmp_path / "q" / "dermatome.groovy").read_text()
    assert "@" not in script
    colours = {
        name: json.loads(rgb) for name, rgb in re.findall(r"^    '([^']+)': (\[[\d, ]+\])", script, re.MULTILINE)
    }
    classes = {
        feature["properties"]["classification"]["name"]
        for path in (tmp_path / "q").glob("*.geojson")
        for feature in json.loads(path.read_text())["features"]
    }
    assert classes <= set(colours), "every class has its colour"
    assert colours["epidermis"] == list(TissueClass.EPIDERMIS.colour)
    assert colours["lymphocyte"] == list(NucleusClass.LYMPHOCYTE.colour)
    assert "'a-1': 0.5" in script
    assert "'he': 'BRIGHTFIELD_H_E'" in script
    with pytest.raises(typer.BadParameter):
        export_qupath(out=tmp_path / "q", slides=[*SKIN], gene="KRT5", data=str(made.path))


def test_a_dicom_slide_is_refused_by_name(made, tmp_path):
    found = read_results(made, HE)
    with pytest.raises(BadImage, match="he is a folder of DICOM files"):
        write_qupath([type(found)(**vars(found) | {"image": tmp_path})], tmp_path / "q")


def test_spatialdata_reads_what_was_written(made, tmp_path, capsys):
    spatialdata = pytest.importorskip("spatialdata")
    from spatialdata.transformations import get_transformation

    out = tmp_path / "krt5.zarr"
    export_spatialdata(out=out, gene="KRT5", data=str(made.path))
    assert f"2 slides in {out}" in capsys.readouterr().out
    with pytest.raises(typer.BadParameter, match="overwrite"):
        export_spatialdata(out=out, gene="KRT5", data=str(made.path))
    read = spatialdata.read_zarr(out)
    assert set(read.coordinate_systems) == {"a-1_um", "b-2_um"}
    found = read_results(made, "a-1")
    image = read["a-1_image"]["scale0"]["image"]
    assert image.dims == ("c", "y", "x")
    assert np.array_equal(np.moveaxis(image.to_numpy(), 0, 2), found.slide.whole())
    for what in ("tissue", "layers", "cells"):
        wanted = found.labels[what][0 : found.slide.size.height_px, 0 : found.slide.size.width_px]
        assert np.array_equal(np.asarray(read[f"a-1_{what}"]["scale0"]["image"]), wanted), what
    table = read["cells"]
    assert table.uns["spatialdata_attrs"]["region"] == ["a-1_cells", "b-2_cells"]
    own = table[table.obs["region"] == "a-1_cells"]
    assert own.obs["cell_id"].tolist() == found.objects["cell_id"].tolist()
    assert own.obs["class"].tolist() == found.objects["class"].tolist()
    assert set(own.obs["patient_id"]) == {"pa-1"}
    np.testing.assert_array_equal(own[:, "mean_dab_od"].X[:, 0], found.objects["mean_dab_od"])
    instances = spatialdata.get_element_instances(read["a-1_cells"])
    assert set(instances) - {0} == set(own.obs["cell_id"])
    # In µm: the outlines, the transformation, and the centres that squidpy uses.
    outlines = spatialdata.transform(read["a-1_cells_outlines"], to_coordinate_system="a-1_um")
    assert outlines.index.tolist() == found.objects["cell_id"].tolist()
    np.testing.assert_allclose(outlines.area, found.objects["area_um2"])
    np.testing.assert_allclose(np.c_[outlines.centroid.x, outlines.centroid.y], own.obsm["spatial"], atol=0.01)
    assert get_transformation(read["a-1_image"], "a-1_um").to_affine_matrix(("x",), ("x",))[0, 0] == 0.5
    assert read.attrs["dermatome"]["slides"]["a-1"]["antibody"] == "HPA1"
    assert "synthetic" in read.attrs["dermatome"]["warning"]


def test_spatialdata_of_nuclei_has_their_classes(made, tmp_path):
    spatialdata = pytest.importorskip("spatialdata")
    export_spatialdata(out=tmp_path / "he.zarr", slides=[HE], data=str(made.path))
    export_spatialdata(out=tmp_path / "he.zarr", slides=[HE], data=str(made.path), overwrite=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        read = spatialdata.read_zarr(tmp_path / "he.zarr")
    rows = read_results(made, HE).objects
    assert read["nuclei"].obs["class"].astype(str).tolist() == rows["class"].tolist()
    assert pd.Series(read["he_nuclei_outlines"]["class"]).tolist() == rows["class"].tolist()
    assert read["he_classes"].shape == (160, 160)
