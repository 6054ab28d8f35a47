"""The Python interface of notebooks: plain arrays and tables in and out, the same results as the stages'."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import dermatome
from dermatome import api
from dermatome.classes import StainingPattern
from dermatome.errors import BadImage, BadSetting, BadWeights, MissingInput
from dermatome.geometry import Size
from dermatome.inference.compute import choose_compute
from dermatome.metrics.semantic import confusion_matrix
from dermatome.nuclei.maps.segment import segment_nuclei
from dermatome.nuclei.maps.settings import NucleusSettings
from dermatome.skin.tiles.varied import varied_tile
from dermatome.storage.layout import DataRoot
from dermatome.synthetic.nuclei import toy_nuclei
from dermatome.synthetic.skin import toy_slide
from dermatome.warehouse.store import build_store
from pipelines_tests.records import put_record

SYNTHETIC = "trained on synthetic images only"


@pytest.fixture(scope="module")
def toy():
    return toy_slide(3, StainingPattern.BASAL, size_px=448)


def test_importing_dermatome_imports_nothing_heavy_and_offers_all():
    script = (
        "import sys, dermatome; heavy = {'torch', 'cellpose', 'pandas', 'cv2', 'numpy', 'dermatome.api'};"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules);"
        "assert set(dermatome.__all__) <= set(dir(dermatome))"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
    assert all(getattr(dermatome, name) is getattr(api, name) for name in dermatome.__all__)
    with pytest.raises(AttributeError, match="no_such"):
        dermatome.no_such  # noqa: B018


def test_a_scale_is_stated_or_given(toy, tmp_path):
    path = tmp_path / "core.jpg"
    path.write_bytes(toy.jpeg())
    with pytest.raises(BadSetting, match="states no scale"):
        dermatome.read_slide(path)
    slide = dermatome.read_slide(str(path), mpp=0.5)
    assert (slide.mpp, slide.pixels.shape, slide.pixels.dtype) == (0.5, (448, 448, 3), np.uint8)
    with pytest.raises(BadSetting, match="give mpp to read_slide"):
        dermatome.measure_layers(slide, toy.mask, toy.instances, pd.DataFrame(), mpp=0.25)
    with pytest.raises(BadSetting, match="mpp of the array is None"):
        dermatome.segment_tissue(slide.pixels, "none.safetensors")
    with pytest.raises(BadImage, match="float64"):
        dermatome.segment_tissue(slide.pixels / 255, "none.safetensors", mpp=0.5)
    with pytest.raises(BadWeights):
        dermatome.segment_tissue(slide, tmp_path / "none.safetensors")


def test_without_a_champion_the_starter_finds_tissue(tmp_path):
    confusion = np.zeros((4, 4), dtype=np.int64)
    for seed in range(6):  # training draws other seeds
        pixels, truth = varied_tile(seed, mpp=1.0)
        with pytest.warns(UserWarning, match=SYNTHETIC):
            mask = dermatome.segment_tissue(pixels, mpp=1.0, device="cpu")
        confusion += confusion_matrix(truth, mask, 4)
    assert (confusion.diagonal() / confusion.sum(axis=1))[:3].min() > 0.6
    with pytest.warns(UserWarning, match=SYNTHETIC):
        np.testing.assert_array_equal(dermatome.segment_tissue(pixels, tmp_path, mpp=1.0, device="cpu"), mask)


def test_cells_and_layers_of_an_array(toy):
    pixels = toy.slide.whole()
    with pytest.warns(UserWarning, match=SYNTHETIC):
        instances, cells = dermatome.segment_cells(pixels, toy.mask, "toy", mpp=0.5, device="cpu", diameter_um=8.0)
    assert (instances.shape, instances.dtype, instances.max()) == (toy.mask.shape, np.int32, len(cells))
    layers = dermatome.measure_layers(pixels, toy.mask, instances, cells, mpp=0.5, layer_um=10.0)
    assert layers.outcome == "measured"
    assert layers.pattern is StainingPattern.BASAL
    assert isinstance(layers.layer_map, np.ndarray)
    assert layers.table["area_px"].tolist() == np.bincount(layers.layer_map.ravel())[1:].tolist()
    assert layers.table["distance_to_um"].iloc[0] == 10
    assert len(layers.cells) == len(cells)
    with pytest.raises(BadSetting, match="no setting 'thickness'"):
        dermatome.measure_layers(pixels, toy.mask, instances, cells, mpp=0.5, thickness=3)


def test_nuclei_are_those_of_the_stage_and_are_scored(tmp_path):
    slide = toy_nuclei(11, Size(160, 160)).slide
    Image.fromarray(slide.whole()).save(tmp_path / "he.png")
    read = dermatome.read_slide(tmp_path / "he.png", mpp=slide.mpp)
    with pytest.warns(UserWarning, match=SYNTHETIC):
        nuclei = dermatome.find_nuclei(read, "toy", device="cpu")
    toy = api.nucleus_weights_named(DataRoot(tmp_path), "toy")
    (wanted,) = segment_nuclei([slide], api.load_nuclei(toy, choose_compute("cpu"), NucleusSettings()))
    assert np.array_equal(nuclei.instances, wanted.instances.whole())
    assert np.array_equal(nuclei.semantic, wanted.semantic.whole())
    pd.testing.assert_frame_equal(nuclei.table, wanted.table)
    scores = dermatome.score_tils(read, nuclei.table, square_um=20.0)
    assert sum(scores.counts.values()) == len(nuclei.table)
    assert scores.squares.shape == tuple(np.ceil(np.array([160, 160]) * slide.mpp / 20).astype(int))
    assert scores.lymphocytes_per_mm2 == pytest.approx(scores.counts["lymphocyte"] / scores.tissue_mm2)


def test_results_are_the_tables_of_the_store(tmp_path):
    with pytest.raises(MissingInput, match="no data root"):
        dermatome.load_results(tmp_path / "none")
    root = DataRoot(tmp_path)
    put_record(root, "til_scores", "s1", values={"lymphocytes_per_mm2": 12.5})
    results = dermatome.load_results(str(tmp_path))
    with pytest.raises(MissingInput, match="materialize skin_metrics"):
        results["til_scores"]
    build_store(root)
    assert {"cells", "til_scores", "lineage", "dab_profile_by_gene"} <= set(results.tables)
    assert results["til_scores"][["slide", "lymphocytes_per_mm2"]].to_dict("records") == [
        {"slide": "s1", "lymphocytes_per_mm2": 12.5}
    ]
    assert results.sql("select count(*) as n from failures")["n"].tolist() == [0]
    with pytest.raises(KeyError, match="til_scores"):
        results["tils"]
    with pytest.raises(MissingInput):
        results.slide("s1")
