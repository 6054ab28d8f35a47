"""Command line, web app and platform write the same files for the same image, and QuPath can read the outlines."""

import json
from types import SimpleNamespace
from uuid import UUID

import pandas as pd
import shapely.geometry
from PIL import Image
from typer.testing import CliRunner

from dermatome.cli.app import app
from dermatome.geometry import Box, Size
from dermatome.inference.compute import ComputeSettings, choose_compute
from dermatome.labels.npz import save_mask
from dermatome.nuclei.maps.networks import load_nuclei, nucleus_weights_named
from dermatome.nuclei.maps.settings import NucleusSettings
from dermatome.nuclei.maps.stage import NucleusStage, _Found
from dermatome.settings import Settings
from dermatome.skin.cells.network import load_cell_network
from dermatome.skin.cells.segment import segment_cells
from dermatome.skin.cells.settings import CellSettings
from dermatome.skin.cells.stage import CellsStage
from dermatome.skin.layers.measure import measure_layers
from dermatome.skin.layers.settings import LayerSettings
from dermatome.skin.layers.stage import LayersStage
from dermatome.skin.stage_files import SkinInput
from dermatome.slides.slide import read_slide
from dermatome.storage.layout import DataRoot
from dermatome.storage.record import StageResult, read_record
from dermatome.synthetic.nuclei import toy_nuclei
from dermatome.synthetic.skin import toy_slide
from dermatome.web.context import WebContext, add_csv
from dermatome.web.nuclei import find_nuclei
from dermatome.web.skin import SkinFound, SkinNetworks
from dermatome.web.uploads import UploadLimits


def outlines(path):
    """The properties of features, which are as QuPath's documentation describes what it imports."""
    collection = json.loads(path.read_bytes())
    assert collection.keys() == {"type", "warning", "features"}, "a warning is our own, which readers ignore"
    assert collection["type"] == "FeatureCollection"
    for feature in collection["features"]:
        assert feature.keys() == {"type", "id", "geometry", "properties"}
        assert (feature["type"], str(UUID(feature["id"]))) == ("Feature", feature["id"])
        assert feature["geometry"]["type"] in ("Polygon", "MultiPolygon")
        assert shapely.geometry.shape(feature["geometry"]).is_valid
        properties = feature["properties"]
        assert properties.keys() - {"isLocked"} == {"objectType", "name", "classification", "measurements"}
        assert properties["objectType"] in ("annotation", "detection")
        assert properties["classification"].keys() == {"name", "color"}
        assert all(0 <= value <= 255 for value in properties["classification"]["color"])
        assert all(isinstance(value, int | float) for value in properties["measurements"].values())
    return [SimpleNamespace(**feature["properties"]) for feature in collection["features"]]


def command(*arguments):
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output
    return done.output


def assert_same(folder, stem, other, names):
    """The files ``<stem><end>`` of a folder have the bytes of those named in ``names`` in the other."""
    for end, name in names.items():
        assert (folder / f"{stem}{end}").read_bytes() == (other / name).read_bytes(), f"{stem}{end} differs from {name}"


def test_skin_results_are_the_same_files_through_every_door(tmp_path, monkeypatch):
    toy = toy_slide(3, size_px=400)
    Image.fromarray(toy.slide.pixels).save(tmp_path / "s1.png")
    slide = read_slide(tmp_path / "s1.png")
    tissue, cells, layers = (tmp_path / name for name in ("tissue", "cells", "layers"))
    save_mask(tissue / "s1.npz", toy.mask, Box.whole(slide.size))
    given = (tmp_path / "s1.png", "--tissue", tissue)
    options = ("--weights", "toy", "--precision", "fp32", "--backend", "torch", "--threads", 1)
    command("cells", "segment", *given, "--out", cells, *options)
    measure = ("layers", "measure", *given, "--cells", cells, "--out", layers)
    assert "kept" not in command(*measure)
    assert "kept" in command(*measure)

    network = load_cell_network("toy", choose_compute("cpu", "fp32", 1, backend="torch"))
    found = segment_cells(slide, toy.mask, network)
    measured = measure_layers(slide, toy.mask, found.instances, found.table)
    root, platform = DataRoot(tmp_path / "data"), tmp_path / "platform"
    stage = CellsStage(root, SimpleNamespace(sha256=network.sha256), ComputeSettings(), CellSettings())
    stage._network = network
    of_mask, of_cells = {"weights_sha256": "m"}, {"synthetic": bool(network.warning)}
    records = (SimpleNamespace(values=values) for values in (of_mask, of_cells))
    one = SkinInput(slide, toy.mask, next(records), found.instances, found.table, next(records), {})
    stage.save("s1", (one, found), platform)
    files = {".npz": "cells.npz", ".parquet": "cells.parquet", ".ome.tif": "cells.ome.tif", ".png": "figure.png"}
    assert_same(cells, "s1", platform, files | {".geojson": "cells.geojson"})
    LayersStage(root, LayerSettings()).save("s1", (one, measured), platform)
    tables = [f"{kind}.parquet" for kind in ("cell_layers", "profile", "relative", "zones")]
    files = {f".{end}": f"layers.{end}" for end in ("parquet", "ome.tif", "geojson")} | {".png": "figure.png"}
    assert_same(layers, "s1", platform, files | {f"_{name}": name for name in (*tables, "cells.geojson")})

    monkeypatch.setattr("dermatome.skin.tissue.stage.write_tissue", lambda *_: StageResult("tissue", "v", {}))
    champion = SimpleNamespace(weights=SimpleNamespace(sha256="t", card=SimpleNamespace(name="t")))
    networks = SkinNetworks(champion, network, network.compute)
    shown = SkinFound(slide, SimpleNamespace(mask=toy.mask, warning=""), found, measured, networks, Settings())
    shown.write(tmp_path / "web")
    web = {path.name for path in add_csv(tmp_path / "web")}
    assert "data:image/png" in shown.tables(tmp_path / "web")
    for folder, part in ((cells, "cells"), (layers, "layers")):
        ends = [path.name[2:] for path in folder.iterdir() if path.name.startswith("s1") and path.suffix != ".json"]
        assert_same(folder, "s1", tmp_path / "web", {end: f"s1_{part}{end}" for end in ends})
        ours, theirs = (read_record(place) for place in (folder / "s1.json", tmp_path / "web" / f"s1_{part}.json"))
        assert (ours.values, ours.settings) == (theirs.values, theirs.settings)
        assert {"mpp", "mpp_source", "i0_red"} <= ours.values.keys()
        assert {"dermatome", "torch", "cellpose"} <= ours.libraries.keys()
    assert {"s1_layers.csv", "s1_cells.csv"} <= web

    assert [one.objectType for one in outlines(cells / "s1.geojson")] == ["detection"] * len(found.table)
    drawn = outlines(layers / "s1.geojson")
    assert [one.measurements["layer"] for one in drawn] == list(range(1, len(measured.layers) + 1))
    assert drawn[0].name == "layer 1 (basal)"
    classed = outlines(layers / "s1_cells.geojson")
    assert {"basal", "suprabasal"} <= {one.classification["name"] for one in classed}
    wanted = {"layer", "distance_um", "relative_depth", "mean_dab_od", "mean_h_od"}
    for one in classed:
        if one.classification["name"] != "no layer":
            assert one.measurements.keys() >= wanted - {"relative_depth"}
            assert (one.measurements["layer"] == 1) == (one.classification["name"] == "basal")
    assert sum(wanted <= one.measurements.keys() for one in classed) > len(classed) / 2


def test_layers_of_two_calls_and_slides_without_any_are_in_one_table(tmp_path):
    toy = toy_slide(3, size_px=400)
    tissue, cells, out = (tmp_path / name for name in ("tissue", "cells", "layers"))
    for name, mask in (("a", toy.mask), ("b", toy.mask * 0)):
        Image.fromarray(toy.slide.pixels).save(tmp_path / f"{name}.png")
        save_mask(tissue / f"{name}.npz", mask, Box.whole(toy.slide.size))
        given = (tmp_path / f"{name}.png", "--tissue", tissue)
        command("cells", "segment", *given, "--weights", "toy", "--backend", "torch", "--out", cells, "--threads", 1)
        last = command("layers", "measure", *given, "--cells", cells, "--out", out, "--table", tmp_path / "all.csv")
    assert "no pixel of the tissue mask is epidermis" in last
    for table in (pd.read_parquet(out / "layers.parquet"), pd.read_csv(tmp_path / "all.csv")):
        measured, empty = (table[table["slide"] == name] for name in "ab")
        assert len(measured) > 3
        assert empty["outcome"].tolist() == ["no_epidermis"]
        assert empty["layer"].isna().all()


def test_nuclei_are_the_same_files_through_every_door(tmp_path):
    Image.fromarray(toy_nuclei(11, Size(128, 128)).slide.whole()).save(tmp_path / "s1.png")
    slide, out, til = read_slide(tmp_path / "s1.png", declared_mpp=0.25), tmp_path / "nuclei", tmp_path / "til"
    options = ("--weights", "toy", "--precision", "fp32", "--backend", "torch", "--threads", 1)
    command("nuclei", "predict", tmp_path / "s1.png", "--out", out, *options)
    assert "lymphocytes per mm²" in command("nuclei", "til", out, "--out", til)
    assert pd.read_parquet(til / "til.parquet")["slide"].tolist() == ["s1"]
    assert command("nuclei", "til", out, "--out", til, "--table", "-").count("kept") == 1

    compute = choose_compute("cpu", "fp32", 1, backend="torch")
    source = nucleus_weights_named(DataRoot(tmp_path), "toy")
    network = load_nuclei(source, compute, NucleusSettings())
    context = WebContext(DataRoot(tmp_path), compute, UploadLimits(), tmp_path)
    found = find_nuclei(slide, context, Settings(), source, network, lambda share, text: None)
    stage = NucleusStage(DataRoot(tmp_path), source, ComputeSettings(), NucleusSettings(), 0.45)
    stage._network, stage._compute = network, compute
    stage.save("s1", _Found(slide, None, found.nuclei, {}), tmp_path / "platform")
    maps = [f"{kind}.ome.tif" for kind in ("semantic", "ternary", "instances")] + ["semantic.png", "ternary.png"]
    files = {".parquet": "nuclei.parquet", ".geojson": "nuclei.geojson", ".png": "figure.png"}
    assert_same(out, "s1", tmp_path / "platform", files | {f"_{name}": name for name in maps})
    found.write(tmp_path / "web")
    ends = [path.name[2:] for path in out.iterdir() if path.suffix != ".json"]
    assert_same(out, "s1", tmp_path / "web", {end: f"s1{end}" for end in ends})
    assert_same(til, "s1", tmp_path / "web", {end: f"s1_til{end}" for end in (".parquet", ".png")})
    assert {one.objectType for one in outlines(out / "s1.geojson")} == {"detection"}
