"""Predict, correct the outlines as QuPath saves them, train on the correction: without a palette and without ROIs."""

import json

import numpy as np
from PIL import Image
from typer.testing import CliRunner

from dermatome.classes import IGNORED, TissueClass
from dermatome.cli.app import app
from dermatome.labels.npz import load_mask
from dermatome.registry.manifest import read_manifest
from dermatome.skin.tiles.crops import load_tiles
from dermatome.storage.record import read_record
from dermatome.synthetic.skin import ToyStain, toy_slide
from pipelines_tests.asset_runs import run

SIDE = 256


def rectangle(name, left, top, right, bottom):
    ring = [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]
    properties = {"objectType": "annotation", "classification": {"name": name}}
    return {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}, "properties": properties}


def test_from_a_prediction_over_a_correction_to_a_network(root, instance, tmp_path_factory):
    folder = tmp_path_factory.mktemp("predicted")
    image = folder / "core.png"
    Image.fromarray(toy_slide(3, size_px=SIDE, stain=ToyStain.HE).slide.whole()).save(image)
    done = CliRunner().invoke(app, ["tissue", "predict", str(image), "--out", str(folder / "out"), "--threads", "1"])
    assert done.exit_code == 0, done.output
    predicted = load_mask(folder / "out" / "core.npz")[0]
    outlines = json.loads((folder / "out" / "core.geojson").read_text())
    # A person deletes the keratin, draws a piece of it anew and a piece of background, and is not sure of a corner.
    kept = [f for f in outlines["features"] if f["properties"]["classification"]["name"] != "keratin"]
    assert kept
    kept += [
        rectangle("Keratin", 40, 50, 90, 70),
        rectangle("Background", 0, 0, 30, 40),
        rectangle("Ignore*", 0, 0, 9, 9),
    ]
    source = root.annotations / "core"
    source.mkdir(parents=True)
    (source / "he.png").write_bytes(image.read_bytes())
    (source / "mask.geojson").write_text(json.dumps(outlines | {"features": kept}))
    (source / "slide.json").write_text(json.dumps({"slide": "core", "mpp": 0.5, "licence": "CC0"}))
    instance.add_dynamic_partitions("annotated_slides", ["core"])
    assert run(root, instance, "training_tiles", key="core").success
    (tile,) = load_tiles(root.folder("training_tiles", "core"))
    wanted = np.where(np.isin(predicted, (TissueClass.BACKGROUND, TissueClass.KERATIN)), IGNORED, predicted)
    wanted[50:70, 40:90], wanted[:40, :30], wanted[:9, :9] = TissueClass.KERATIN, TissueClass.BACKGROUND, IGNORED
    np.testing.assert_array_equal(tile.read()[1], wanted)
    instance.add_dynamic_partitions("training_versions", ["v001"])
    # Without rehearsal, whose synthetic tiles would take a minute to draw.
    tiny = {"continue_from": "starter", "rehearsal": 0.0, "validation_share": 0.0}
    tiny |= {"crop_px": 64, "batch": 2, "epochs": 1, "epoch_steps": 2}
    assert run(root, instance, "tissue_weights", key="v001", config={"tissue_weights": tiny}).success
    (row,) = read_manifest(root.folder("tissue_weights", "v001") / "weights.tiles.parquet")
    assert (row.slide, row.licence, row.palette_sha256) == ("core", "CC0", "")
    assert row.pixels == [int((wanted == tissue).sum()) for tissue in TissueClass]
    parent = str(read_record(root.record("tissue_weights", "v001")).values["parent"])
    assert parent.endswith("tissue_starter.safetensors")
