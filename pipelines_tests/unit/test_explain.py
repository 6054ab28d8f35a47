"""Values of tables computed again from the files that a data root keeps."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from dermatome.classes import StainingPattern
from dermatome.errors import BadImage, BadSetting, DermatomeError, MissingInput, StorageFailed
from dermatome.labels.npz import load_instances
from dermatome.skin.explain import TABLES, explain_value
from dermatome.storage.layout import DataRoot
from dermatome.storage.record import file_facts, read_record, write_record
from dermatome.synthetic.skin import toy_slide
from pipelines_tests.experiments import explained
from pipelines_tests.toy_root import put_cells_and_layers, put_images, put_true_masks
from pipelines_tests.unit.test_cli import run

SLIDE = "t1"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    root, slides = DataRoot(folder / "data"), {SLIDE: toy_slide(3, StainingPattern.BASAL, size_px=448)}
    put_images(root, folder / "images", slides, {})
    put_true_masks(root, slides)
    put_cells_and_layers(root, [SLIDE])
    return root


def test_random_values_of_every_table_are_equal_when_computed_again(made, capsys):
    assert {part for _, part, *_ in explained.tables(made)} == {*TABLES, "epidermis"}
    assert explained.main([str(made.path), "--values", "40"]) == 0
    assert "40 of 40 equal" in capsys.readouterr().out
    found = explain_value(made, SLIDE, "h_score")
    assert found.equal
    assert found.stored > 0


@pytest.mark.parametrize(("part", "row"), [("layer", 2), ("zone", "lower_suprabasal"), ("relative_depth", 0.3)])
def test_the_counted_pixels_are_those_of_the_row(made, part, row):
    found = explain_value(made, SLIDE, "area_px", part, row)
    assert found.counted_px == found.stored == np.count_nonzero(found.counted.whole())
    rows, columns = np.nonzero(found.counted.whole())
    edges = (rows.min(), columns.min(), rows.max() + 1, columns.max() + 1)
    assert tuple(vars(found.box).values()) == edges


def test_the_counted_pixels_of_a_cell_are_its_pixels(made):
    instances = load_instances(made.folder("cell_masks", SLIDE) / "cells.npz")
    number = int(np.bincount(instances[instances > 0]).argmax())
    found = explain_value(made, SLIDE, "mean_dab_od", "cell", number)
    np.testing.assert_array_equal(found.counted.whole(), instances == number)
    assert found.equal
    # Its relative depth is that of the pixels that are in a layer.
    of_layers = explain_value(made, SLIDE, "relative_depth", "cell", number)
    assert of_layers.equal
    assert 0 < of_layers.counted_px <= found.counted_px


def test_a_value_that_its_files_do_not_give_is_said_to_differ(made, tmp_path, capfd):
    root = copied(made, tmp_path)
    folder = root.folder("epidermis_layers", SLIDE)
    table = pd.read_parquet(folder / "layers.parquet")
    table.loc[table["layer"] == 2, "mean_dab_od"] += 1e-12
    table.to_parquet(folder / "layers.parquet")
    record = read_record(folder / "record.json")
    write_record(folder / "record.json", replace(record, files=file_facts(folder)))
    assert not explain_value(root, SLIDE, "mean_dab_od", "layer", 2).equal
    assert run(capfd, "explain", SLIDE, "--data", root.path, "--column", "mean_dab_od", "--layer", 2)[0] == 1
    assert explain_value(root, SLIDE, "mean_dab_od", "layer", 1).equal


def test_settings_of_the_record_are_used_not_those_of_now(made, tmp_path):
    root = copied(made, tmp_path)
    root.settings.write_text("[layers]\nweak_od = 0.05\n")
    assert explain_value(root, SLIDE, "positive_share", "layer", 1).equal


def copied(made, tmp_path):
    return DataRoot(shutil.copytree(made.path, tmp_path / "copy"))


@pytest.mark.parametrize(
    ("asset", "file", "error"),
    [
        ("slide_images", "image.jpg", BadImage),
        ("epidermis_masks", "mask.npz", StorageFailed),
        ("cell_masks", "cells.npz", StorageFailed),
        ("epidermis_layers", "layers.parquet", StorageFailed),
    ],
)
def test_a_file_that_was_changed_explains_nothing(made, tmp_path, asset, file, error):
    root = copied(made, tmp_path)
    path = root.folder(asset, SLIDE) / file
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(error):
        explain_value(root, SLIDE, "mean_dab_od", "layer", 1)


def test_a_result_of_an_earlier_mask_is_refused(made, tmp_path):
    root = copied(made, tmp_path)
    path = root.record("epidermis_masks", SLIDE)
    write_record(path, replace(read_record(path), data_version="another"))
    for part in ("layer", "cell"):
        with pytest.raises(MissingInput, match="were computed from earlier epidermis_masks: materialize"):
            explain_value(root, SLIDE, "mean_dab_od", part, 1)


@pytest.mark.parametrize(
    ("column", "part", "row", "error", "said"),
    [
        ("mean_dab_od", "layer", 0, MissingInput, "has no layer 0: layers.parquet has"),
        ("mean_dab_od", "layer", 999, MissingInput, "has no layer 999"),
        ("mean_dab_od", "cell", 99999, MissingInput, "has no cell 99999: cells.parquet has"),
        ("distance_um", "cell", 99999, MissingInput, "has no cell 99999: cell_layers.parquet has"),
        ("mean_dab_od", "zone", "granular", BadSetting, "no zone 'granular': use one of basal,"),
        ("dab", "layer", 1, BadSetting, "no column 'dab' of layer 1: use one of layer,"),
        ("mpp", "epidermis", None, BadSetting, "no column 'mpp' of epidermis"),
    ],
)
def test_what_is_not_there_is_named(made, column, part, row, error, said):
    with pytest.raises(error, match=said):
        explain_value(made, SLIDE, column, part, row)


def test_the_command_prints_what_a_value_was_computed_from(made, tmp_path, capfd):
    picture = tmp_path / "pixels.png"
    asked = ("explain", SLIDE, "--data", made.path, "--column", "mean_dab_od")
    code, output, _ = run(capfd, *asked, "--layer", 2, "--pixels", picture)
    assert code == 0
    found = explain_value(made, SLIDE, "mean_dab_od", "layer", 2)
    image = read_record(made.record("slide_images", SLIDE)).values
    mask = read_record(made.record("epidermis_masks", SLIDE)).files["mask.npz"]
    for fact in (repr(found.stored), "equal", image["image_sha256"], mask.sha256, f"{found.counted_px:,} px", "toy"):
        assert str(fact) in output
    with Image.open(picture) as shown:
        pixels = np.asarray(shown.convert("RGB"))
    assert max(pixels.shape) <= 1200
    assert (pixels == (0, 255, 255)).all(axis=2).sum() > 100

    code, output, _ = run(capfd, *asked, "--cell", 5, "--json")
    assert code == 0
    said = json.loads(output)
    assert said["equal"] is True
    assert said["stored"] == said["recomputed"] == explain_value(made, SLIDE, "mean_dab_od", "cell", 5).stored
    assert said["image"]["image_sha256"] == image["image_sha256"]
    assert set(said) >= {"i0", "mask", "cells", "pixels", "recomputed_by"}


def test_the_command_refuses_two_places_and_an_unknown_slide(made, capfd):
    asked = ("explain", SLIDE, "--data", made.path, "--column", "mean_dab_od")
    assert run(capfd, *asked, "--layer", 2, "--cell", 1)[0] == 2
    code, _, errors = run(capfd, "explain", "other", "--data", made.path, "--column", "h_score")
    assert code == 1
    assert "other has no epidermis_layers yet" in errors
    assert issubclass(MissingInput, DermatomeError)
