"""The stage `epidermis_layers`, file to file: a slide that is read in parts gives what it gives in memory."""

import numpy as np
import pandas as pd
import pytest
import tifffile

from dermatome.geometry import Box
from dermatome.labels.npz import save_instances, save_mask
from dermatome.labels.ome_tiff import write_ome_tiff
from dermatome.labels.tiled import TiledArray
from dermatome.pipeline.batch import run_batch
from dermatome.pipeline.cached_stage import WaitingStage, cached_stage
from dermatome.pipeline.stage_files import write_rows
from dermatome.skin import stage_files as stage_parts
from dermatome.skin.layers import depth
from dermatome.skin.layers.settings import LayerSettings
from dermatome.skin.layers.stage import LayersStage
from dermatome.skin.stage_files import CELLS_FILE, CELLS_TABLE, CELLS_TIFF, MASK_FILE, MASK_TIFF
from dermatome.slides import slide as slides
from dermatome.slides.source import SlideSource, acquire_slide
from dermatome.slides.tiled_tiff import TiledLabels, TiledPixels
from dermatome.storage.layout import DataRoot
from dermatome.storage.record import StageResult
from dermatome.synthetic.skin import toy_slide


def make(stage):
    (one,) = run_batch(cached_stage(stage, {}, "1", "run"), ["s1"])
    assert one.error is None, one.error
    return one.result.record


@pytest.fixture
def root(tmp_path):
    found, toy = DataRoot(tmp_path / "data"), toy_slide(3, size_px=700)
    tifffile.imwrite(tmp_path / "s1.tif", toy.slide.pixels, tile=(128, 128), photometric="rgb")
    source = SlideSource("s1", "folder", str(tmp_path / "s1.tif"))
    numbers = np.unique(toy.instances)[1:]

    def mask(key, folder):
        save_mask(folder / MASK_FILE, toy.mask, Box(0, 0, 700, 700))
        write_ome_tiff(folder / MASK_TIFF, TiledArray.of(toy.mask), 0.5)
        return StageResult("tissue", "mask-1", {"weights_sha256": "0"})

    def cells(key, folder):
        save_instances(folder / CELLS_FILE, toy.instances)
        write_ome_tiff(folder / CELLS_TIFF, TiledArray.of(toy.instances.astype(np.int32)), 0.5)
        write_rows(folder / CELLS_TABLE, key, pd.DataFrame({"cell_id": numbers, "equivalent_diameter_um": 6.0}))
        return StageResult("cells", "cells-1", {})

    make(WaitingStage(found, "slide_images", lambda _, f: acquire_slide(source, f, 0.5, 20_000)))
    make(WaitingStage(found, "epidermis_masks", mask))
    make(WaitingStage(found, "cell_masks", cells))
    return found


def layer_map(root):
    return tifffile.imread(root.folder("epidermis_layers", "s1") / "layers.ome.tif")


def test_a_slide_read_in_parts_has_the_layers_it_has_in_memory(root, monkeypatch):
    whole = make(LayersStage(root, LayerSettings()))
    assert whole.outcome == "measured"
    in_memory = layer_map(root)
    read = LayersStage(root, LayerSettings()).load
    assert isinstance(read("s1").mask, np.ndarray)
    for module in (slides, stage_parts):
        monkeypatch.setattr(module, "WHOLE_PX", 0)
    monkeypatch.setattr(depth, "BLOCK_PX", 512)
    parts = read("s1")
    assert isinstance(parts.slide.pixels, TiledPixels)
    assert isinstance(parts.mask, TiledLabels)
    assert isinstance(parts.instances, TiledLabels)
    stage = LayersStage(root, LayerSettings())
    stage.always = True  # type: ignore[misc]
    again = make(stage)
    np.testing.assert_array_equal(layer_map(root), in_memory)
    words = {name for name, value in whole.values.items() if isinstance(value, str)}
    assert {name: again.values[name] for name in words} == {name: whole.values[name] for name in words}
    numbers = whole.values.keys() - words
    assert [again.values[n] for n in sorted(numbers)] == pytest.approx([whole.values[n] for n in sorted(numbers)])
