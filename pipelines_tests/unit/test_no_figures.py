"""The setting `figures`: every stage that draws a slide leaves its figure out, and draws it once it is wanted."""

from functools import partial

import pytest
from PIL import Image

from dermatome.geometry import Size
from dermatome.nuclei.maps.networks import nucleus_weights_named
from dermatome.nuclei.maps.stage import NucleusStage
from dermatome.nuclei.til.stage import til_stage
from dermatome.pipeline.batch import run_batch
from dermatome.pipeline.cached_stage import WaitingStage, cached_stage
from dermatome.registry.champion import Weights
from dermatome.registry.model_kinds import TISSUE
from dermatome.skin.cells.networks import cell_weights_named
from dermatome.skin.cells.stage import CellsStage
from dermatome.skin.layers.stage import LayersStage
from dermatome.skin.tissue.stage import MaskStage
from dermatome.slides.source import SlideSource, acquire_slide
from dermatome.storage.files import sha256_file
from dermatome.storage.layout import FIGURE_FILE, PREVIEW_FILE, DataRoot
from dermatome.synthetic.nuclei import toy_nuclei
from dermatome.synthetic.skin import toy_slide
from pipelines_tests.benchmarks.networks import untrained_tissue
from pipelines_tests.toy_root import SETTINGS, put_images, run_stage

STAGES = ("epidermis_masks", "cell_masks", "epidermis_layers", "nucleus_maps", "til_scores")


@pytest.fixture(scope="module")
def stages(tmp_path_factory):
    """Gives, for `figures`, the stage of each asset over a data root of one slide of each kind."""
    folder = tmp_path_factory.mktemp("figures")
    root = DataRoot(folder / "data")
    put_images(root, folder / "images", {"s": toy_slide(3, size_px=256)}, {})
    Image.fromarray(toy_nuclei(11, Size(96, 96)).slide.whole()).save(folder / "he.png")
    acquire = partial(acquire_slide, SlideSource("s", "folder", str(folder / "he.png")))
    run_stage(WaitingStage(root, "nuclei_slides", lambda _, into: acquire(into, 0.25, 20_000)), ["s"], {})
    path = untrained_tissue(folder, mpp=2.0).path
    tissue = Weights(root, TISSUE, "w", sha256_file(path), file=path)

    def of(figures):
        compute = SETTINGS.compute
        cells, nuclei = cell_weights_named(root, "toy"), nucleus_weights_named(root, "toy")
        made = (
            MaskStage(root, tissue, compute, SETTINGS.tissue, figures=figures),
            CellsStage(root, cells, compute, SETTINGS.cells, figures),
            LayersStage(root, SETTINGS.layers, figures),
            NucleusStage(root, nuclei, compute, SETTINGS.nuclei, 0.5, figures),
            til_stage(root, SETTINGS.til, figures=figures),
        )
        return dict(zip(STAGES, made, strict=True))

    return of


@pytest.mark.parametrize("asset", STAGES)  # in this order, as one reads what the one before wrote
def test_a_figure_is_left_out_and_drawn_when_it_is_wanted(stages, asset):
    made = []
    for figures in (False, False, True, False):
        stage = stages(figures)[asset]
        (done,) = run_batch(cached_stage(stage, {}, "1", "run"), ["s"])
        assert done.error is None, done.error
        drawn = {path.name for path in stage.root.folder(asset, "s").iterdir() if path.suffix in (".png", ".webp")}
        made.append((done.result.reused, drawn, done.result.record))
    pictures = {FIGURE_FILE, PREVIEW_FILE} | ({"semantic.png", "ternary.png"} if asset == "nucleus_maps" else set())
    assert [reused for reused, _, _ in made] == [False, True, False, True]
    assert [drawn for _, drawn, _ in made] == [set(), set(), pictures, pictures]
    first, last = made[0][2], made[2][2]
    assert (first.data_version, first.fingerprint, first.values) == (last.data_version, last.fingerprint, last.values)
    assert {name: facts.sha256 for name, facts in last.files.items() if name not in pictures} == {
        name: facts.sha256 for name, facts in first.files.items()
    }
