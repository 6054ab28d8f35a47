"""Scores of a network on tiles: calibration, borders, each tile's own; their report; and versions side by side."""

import csv
import io
import re
from dataclasses import replace

import duckdb
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from PIL import Image

from dermatome.classes import TISSUE_LABELS
from dermatome.errors import MissingInput
from dermatome.labels.palette import Palette, classes_to_rgb
from dermatome.registry.manifest import manifest_path, write_manifest
from dermatome.registry.report import compare_versions, read_version, report_html, write_training_report
from dermatome.skin.tiles.crops import TilePair, manifest_rows
from dermatome.skin.tissue.evaluate import evaluate
from dermatome.skin.tissue.report import TISSUE_REPORT, report_values, tissue_figures, tissue_tables
from dermatome.storage.layout import WEIGHTS_FILE, DataRoot
from dermatome.storage.record import Check
from dermatome.warehouse.store import build_store
from pipelines_tests.records import put_record

HISTORY = pd.DataFrame(
    {"epoch": [1, 2], "step": [5, 10], "seconds": [1.0, 2.0], "learning_rate": [0.1, 0.0], "train_loss": [0.7, 0.5]}
    | {"mean_iou": [0.4, 0.6]}
    | {f"iou_{label}": [0.4, 0.6] for label in TISSUE_LABELS}
)


@pytest.fixture
def tile(tmp_path):
    """60 × 80 px: background left, epidermis right of column 40."""
    mask = np.zeros((60, 80), np.uint8)
    mask[:, 40:] = 2
    palette = Palette.shipped("dermatome")
    for name, pixels in (("i", np.full((60, 80, 3), 200, np.uint8)), ("m", classes_to_rgb(mask, palette))):
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    paths = {"image_path": tmp_path / "i.png", "mask_path": tmp_path / "m.png"}
    return TilePair(name="t", **paths, palette=palette, slide="s", patient="p")


def network(shift=0, confidence=0.8):
    """Finds the border `shift` px too far right, as sure as it is told; in two bands of rows, as prediction does."""

    def run(tile, sink):
        labels = np.roll(tile.read()[1], shift, axis=1)
        labels[:, :shift] = 0
        rows = np.where(np.arange(4)[:, None, None] == labels, confidence, (1 - confidence) / 3).astype(np.float32)
        sink(0, rows[:, :25])
        sink(25, rows[:, 25:])

    return run


def test_what_is_right_and_how_sure(tile):
    found = evaluate([tile, replace(tile, name="u")], network(shift=8), mpp=0.5)
    assert found.confusion.tolist() == [[2 * 60 * 40, 0, 0, 0], [0] * 4, [2 * 60 * 8, 0, 2 * 60 * 32, 0], [0] * 4]
    assert found.calibration.error == pytest.approx(0.9 - 0.8, abs=1e-6)
    assert evaluate([tile], network(0, 0.95), 0.5).calibration.error == pytest.approx(0.05, abs=1e-6)
    (one, two) = found.tiles
    assert one.accuracy == two.accuracy == pytest.approx(0.9)
    assert one.iou == (pytest.approx(40 / 48), None, pytest.approx(32 / 40), None)
    assert one.mean_iou == pytest.approx((40 / 48 + 32 / 40) / 2)
    nothing = evaluate([], network(), 0.5)
    assert nothing.calibration.error is None
    assert nothing.boundary_f1 == (None,) * 4


def test_borders_count_within_eight_microns(tile):
    near, far = (evaluate([tile], network(shift), mpp=1.0).boundary_f1 for shift in (7, 10))
    assert near == (1.0, None, 1.0, None)
    assert far == (0.0, None, 0.0, None)
    assert evaluate([tile], network(10), mpp=0.5).boundary_f1[2] == 1.0
    missed = evaluate([tile], network(shift=79), mpp=1.0)
    assert missed.boundary_f1[2] == 0.0
    assert missed.boundary_f1[1] is None


def write_report(folder, version, found, **options):
    tables, figures = tissue_tables(version, found), tissue_figures(found)
    write_training_report(folder, TISSUE_REPORT, version, HISTORY, tables=tables, figures=figures, **options)


def trained(root, version, tile, shift, **values):
    folder = root.folder("tissue_weights", version)
    found = evaluate([tile], network(shift), 0.5)
    rows = manifest_rows([tile], "validation") + manifest_rows([replace(tile, name="other")], "train")
    write_manifest(manifest_path(folder / WEIGHTS_FILE), rows)
    settings = {"encoder": "resnet18", "augment": {"blur_px": 1.0}, "seed": shift}
    values = {"weights_sha256": "ab" * 32, "mpp": 2.0, "epochs": 2, "steps": 10, **report_values(found), **values}
    checks = (Check("no_leakage", shift == 0, "Slide <s> is on both sides."),)
    write_report(folder, version, found, values=values, settings=settings, checks=checks)
    put_record(root, "tissue_weights", version, data_version=version, values=values, settings=settings, checks=checks)
    return folder


def test_the_report_of_a_version(tmp_path, tile):
    folder = trained(DataRoot(tmp_path), "v001", tile, 8)
    lines = list(csv.DictReader(io.StringIO((folder / "scores.csv").read_text())))
    by_label = {line["label"]: line for line in lines}
    assert list(by_label) == [*TISSUE_LABELS]
    epidermis = by_label["epidermis"]
    assert [int(epidermis[f"{name}_px"]) for name in ("tp", "fp", "fn", "tn")] == [60 * 32, 0, 60 * 8, 60 * 40]
    assert float(epidermis["iou"]) == pytest.approx(0.8)
    assert by_label["keratin"]["iou"] == ""
    bins = pq.read_table(folder / "calibration.parquet").to_pylist()
    assert sum(row["pixels"] for row in bins) == 60 * 80
    assert next(row["share_right"] for row in bins if row["pixels"]) == pytest.approx(0.9)
    assert pq.read_table(folder / "tile_scores.parquet").to_pylist()[0]["patient"] == "p"
    page = (folder / "report.html").read_text()
    assert page.count("data:image/jpeg") == 4
    assert "<td>1.0</td>" in page, "nested settings"
    assert "Slide &lt;s&gt; is on both sides." in page
    for name in ("curves.png", "confusion.png", "reliability.png", "samples.png"):
        assert (folder / name).read_bytes().startswith(b"\x89PNG")
    assert pd.read_csv(folder / "history.csv").drop(columns="version").equals(HISTORY)
    (events,) = (folder / "tensorboard").iterdir()
    content = events.read_bytes()
    assert all(name in content for name in (b"training/train_loss", b"validation/iou_keratin", b"training/learning"))


def test_without_validation_tiles_the_report_has_no_samples(tmp_path):
    found = evaluate([], network(), 0.5)
    values = report_values(found)
    write_report(tmp_path, "v001", found, values=values, settings={})
    assert not (tmp_path / "samples.png").exists()
    assert pq.read_table(tmp_path / "tile_scores.parquet").num_rows == 0
    assert values["accuracy"] is None
    assert "undefined" in (tmp_path / "report.html").read_text()


def test_versions_side_by_side_and_in_the_store(tmp_path, tile):
    root = DataRoot(tmp_path / "root")
    trained(root, "v001", tile, 0, initial_weights="imagenet (of the hub)")
    trained(root, "v001_cont1", tile, 8, parent="v001", parent_sha256="ab" * 32)
    folder = root.folder("training_comparison", "current")
    result = compare_versions(root, TISSUE_REPORT, root.partitions("tissue_weights"), folder)
    page = (folder / "comparison.html").read_text()
    assert result.values["versions"] == "v001, v001_cont1"
    assert (result.values["best_version"], result.values["best_score"]) == ("v001", 1.0)
    assert pd.read_csv(folder / "versions.csv")["iou_epidermis"].tolist() == pytest.approx([1.0, 0.8])
    summary = pd.read_csv(folder / "summary.csv", index_col="score").loc["iou_epidermis"]
    assert summary[["versions", "mean", "lowest", "highest"]].tolist() == pytest.approx([2, 0.9, 0.8, 1.0])
    assert summary["sd"] == pytest.approx(0.2 / 2**0.5)
    assert "Slide &lt;s&gt; is on both sides." in page
    assert "different data" not in page
    assert "<td>imagenet (of the hub)</td><td>v001</td>" in page
    assert not re.search(r"(src|href)=.(?!data:)", page), "the page must need no other file"
    assert page.count("data:image/jpeg") == 2 * 4
    build_store(root)
    with duckdb.connect(str(root.store), read_only=True) as store:
        line = store.execute("select ancestor from training_lineage where version = 'v001_cont1'").fetchall()
        scores = store.execute("select fn_px, boundary_f1 from training_classes where label = 'epidermis'").fetchall()
        assert store.execute("select count(*) from training_calibration").fetchone() == (2 * 15,)
        assert store.execute("select count(*), min(mean_iou) < 0.9 from training_tiles").fetchone() == (2, True)
        assert store.execute("select calibration_error from training where version = 'v001'").fetchone()[0] > 0.19
    assert line == [("v001_cont1",), ("v001",)]
    assert sorted(scores) == [(0, 1.0), (480, 1.0)]
    v1, v2 = (read_version(root, "tissue_weights", version) for version in ("v001", "v001_cont1"))
    other = replace(v2, values={**v2.values, "validation_sha256": "x"})
    assert "different data" in report_html([v1, other], TISSUE_REPORT)
    held_out = report_html([v1, v2], TISSUE_REPORT, "v001", {"v001": {"iou_keratin": 0.25}})
    assert "v001 ★" in held_out
    assert "0.250" in held_out
    with pytest.raises(MissingInput, match="no trained versions"):
        report_html([], TISSUE_REPORT)
    with pytest.raises(MissingInput, match="materialize tissue_weights"):
        read_version(root, "tissue_weights", "v009")
