"""The stages `nucleus_maps` and `til_scores`, file to file, and their rows in the store."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pytest
import tifffile
import torch
from PIL import Image

from dermatome.errors import BadWeights, MissingInput
from dermatome.geometry import Size
from dermatome.inference.compute import ComputeSettings
from dermatome.nuclei.maps import networks
from dermatome.nuclei.maps.network import NucleusCard
from dermatome.nuclei.maps.networks import find_nucleus_weights, load_nuclei, nucleus_weights_named
from dermatome.nuclei.maps.settings import NucleusSettings
from dermatome.nuclei.maps.stage import NucleusStage
from dermatome.nuclei.til.settings import TilSettings
from dermatome.nuclei.til.stage import til_stage
from dermatome.pipeline.batch import run_batch
from dermatome.pipeline.cached_stage import cached_stage
from dermatome.registry.champion import choose_champion, promote
from dermatome.registry.model_kinds import NUCLEI
from dermatome.storage.files import atomic_folder, sha256_file
from dermatome.storage.layout import RECORD_FILE, DataRoot
from dermatome.storage.record import require_record, write_record
from dermatome.synthetic.nuclei import toy_nuclei
from dermatome.training.weights import SYNTHETIC_WARNING, save_weights
from dermatome.warehouse.store import build_store
from pipelines_tests.records import put_record, record_of

COMPUTE = ComputeSettings(device="cpu", precision="fp32", threads=1, backend="torch")


@pytest.fixture(scope="module")
def toy():
    return toy_nuclei(7, Size(120, 150))


@pytest.fixture
def root(tmp_path, toy):
    root = DataRoot.at(str(tmp_path / "data"))
    put_slide(root, toy, "d1", 0.25)
    return root


def put_slide(root, toy, data_version, mpp):
    with atomic_folder(root.folder("nuclei_slides", "s1")) as folder:
        Image.fromarray(toy.slide.whole()).save(folder / "image.png")
        stated = {"mpp": mpp, "mpp_source": "declared", "height_px": 120, "width_px": 150}
        values = {"file": "image.png", "image_sha256": sha256_file(folder / "image.png"), **stated}
        record = record_of("nuclei_slides", "s1", outcome="image", data_version=data_version, values=values)
        write_record(folder / RECORD_FILE, record)


@pytest.fixture
def weights(tmp_path):
    """A network that was never trained, says it is of synthetic images, and sees lymphocytes everywhere."""
    torch.manual_seed(1)
    card = NucleusCard("tu-tf_mobilenetv3_small_minimal_100", (8,) * 5, 0.25, (0.2, 0.3), 0.25, 0.25, synthetic=True)
    state = card.build().state_dict()
    for head, bias in (("sem_head", [0, 0, 5, 0, 0]), ("ter_head", [0, 5, 0])):
        state[f"{head}.weight"].zero_()
        state[f"{head}.bias"].copy_(torch.tensor(bias))
    save_weights(tmp_path / "w.safetensors", state, card)
    return str(tmp_path / "w.safetensors")


def run(stage, keys=("s1",)):
    (finished,) = run_batch(
        cached_stage(stage, vars(stage).get("nuclei", TilSettings()).deciding(), "1", "run"), list(keys)
    )
    if finished.error is not None:
        raise finished.error
    return finished.result


def test_maps_then_scores_then_rows(root, weights):
    chosen = find_nucleus_weights(root, weights)
    settings = NucleusSettings(tile_px=64, overlap_px=16, normalise_stain=True)
    made = run(NucleusStage(root, chosen, COMPUTE, settings, 0.5))
    record = made.record
    assert (record.values["weights"], record.values["weights_sha256"]) == (weights, chosen.sha256)
    expected = {"nuclei_slides": "d1", "nuclei_champion": "NULL", "weights_sha256": chosen.sha256}
    assert record.inputs == expected, "there is no champion yet"
    folder = root.folder("nucleus_maps", "s1")
    table = pd.read_parquet(folder / "nuclei.parquet")
    instances = tifffile.imread(folder / "instances.ome.tif")
    maps = [tifffile.imread(folder / f"{name}.ome.tif") for name in ("semantic", "ternary")]
    outlines = json.loads((folder / "nuclei.geojson").read_text())["features"]
    assert [m.shape for m in (instances, *maps)] == [(120, 150)] * 3
    assert instances.max() == len(table) == len(outlines) == record.values["nuclei"] == 1
    assert table["class"].tolist() == ["lymphocyte"]
    assert [np.unique(m).tolist() for m in maps] == [[2], [1]]
    assert (table["slide"] == "s1").all()
    assert {check.name for check in record.checks} == {"nucleus_density", "stain_fit"}
    assert record.values["lymphocyte"] == 1
    assert record.values["stain"] in ("fitted", "little_tissue", "one_stain", "not_he")
    assert run(NucleusStage(root, chosen, COMPUTE, settings, 0.5)).reused
    assert not run(NucleusStage(root, chosen, COMPUTE, NucleusSettings(tile_px=64), 0.5)).reused
    scored = run(til_stage(root, TilSettings())).record
    maps_record = require_record(root, "nucleus_maps", "s1")
    warned = [
        json.loads((folder / "nuclei.geojson").read_text())["warning"],
        *(tifffile.TiffFile(folder / f"{name}.ome.tif").ome_metadata for name in ("semantic", "ternary", "instances")),
        table.attrs["warning"],
        pd.read_parquet(root.folder("til_scores", "s1") / "til_map.parquet").attrs["warning"],
    ]
    assert all(SYNTHETIC_WARNING in text for text in warned)
    assert maps_record.values["synthetic"] is scored.values["synthetic"] is True
    counts = {label: maps_record.values[label] for label in ("epithelial", "lymphocyte", "neutrophil", "macrophage")}
    assert {label: scored.values[label] for label in counts} == counts
    assert scored.inputs == {"nucleus_maps": maps_record.data_version}
    summary = build_store(root)
    with duckdb.connect(str(root.store), read_only=True) as store:
        rows = store.execute("select slide, nuclei, tissue_mm2 from nucleus_maps").fetchall()
        assert rows == [("s1", maps_record.values["nuclei"], pytest.approx(maps_record.values["tissue_mm2"]))]
        (til,) = store.execute("select lymphocyte, immune_share, weights_sha256 from til_scores").fetchall()
        assert til[0] == counts["lymphocyte"]
        assert til[2] == chosen.sha256
        squares = store.execute("select coalesce(sum(nuclei), 0) from til_squares").fetchone()[0]
        assert squares == summary.rows["nuclei"] == maps_record.values["nuclei"]


def test_a_corrected_scale_gives_new_scores_although_the_maps_stay(root, weights, toy):
    chosen, scored = find_nucleus_weights(root, weights), []
    for data_version, mpp in (("d1", 0.25), ("d2", 0.26)):
        put_slide(root, toy, data_version, mpp)
        run(NucleusStage(root, chosen, COMPUTE, NucleusSettings(tile_px=64), 0.5))
        folder = root.folder("nucleus_maps", "s1")
        maps = tifffile.imread(folder / "instances.ome.tif")
        scored.append((maps, run(til_stage(root, TilSettings()))))
    (before, first), (after, second) = scored
    assert (before == after).all()
    assert not second.reused, "til_scores kept the numbers of the wrong scale"
    densities = [each.record.values["lymphocytes_per_mm2"] for each in (first, second)]
    assert densities[1] == pytest.approx(densities[0] * (0.25 / 0.26) ** 2, rel=0.05)


def test_the_champion_is_used_else_the_network_that_the_settings_name(root, weights, monkeypatch):
    monkeypatch.setattr(networks, "TOY_WEIGHTS", Path(weights))
    for named, error, match in (
        ("", MissingInput, "materialize nuclei_weights for a training version, then nuclei_champion"),
        ("n001", BadWeights, "none so far"),
    ):
        with pytest.raises(error, match=match):
            find_nucleus_weights(root, named)
    toys = find_nucleus_weights(root, "toy")
    assert (
        load_nuclei(toys, COMPUTE.choose(), NucleusSettings()).weights.sha256
        == toys.sha256
        == sha256_file(Path(weights))
    )
    for version in ("n001", "n002"):
        folder = root.folder("nuclei_weights", version)
        folder.mkdir(parents=True)
        (folder / "weights.safetensors").write_bytes(Path(weights).read_bytes())
        values = {"weights_sha256": toys.sha256, "pq_classes": 0.5}
        put_record(root, "nuclei_weights", version, outcome="trained", data_version=version, values=values)
    with pytest.raises(MissingInput, match="nuclei_champion"):
        find_nucleus_weights(root, "")
    assert find_nucleus_weights(root, "n001").name == "n001", "the settings name it"
    promote(root, NUCLEI, choose_champion(root, NUCLEI, version="n002"), {}, code_version="1", run_id="r")
    champion = find_nucleus_weights(root, "toy")
    assert (champion.name, champion.data_version) == ("n002", toys.sha256[:32])
    (root.folder("nuclei_weights", "n002") / "weights.safetensors").write_bytes(b"other")
    with pytest.raises(BadWeights):
        load_nuclei(champion, COMPUTE.choose(), NucleusSettings())
    settings = partial(nucleus_weights_named, root, "toy")
    back = choose_champion(root, NUCLEI, version="settings", from_settings=settings)
    record = promote(root, NUCLEI, back, {}, code_version="1", run_id="r")
    assert find_nucleus_weights(root, "toy") == replace(toys, data_version=record.data_version)
