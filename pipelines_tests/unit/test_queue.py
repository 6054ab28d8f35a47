"""What to annotate next: views that disagree, regions unlike one another, and the asset's files."""

import duckdb
import numpy as np
import pandas as pd
import pytest

from dermatome.geometry import Box
from dermatome.inference.predictor import Predictor
from dermatome.pipeline.stage_files import load_slide
from dermatome.skin.queue.rank import Candidate, _views, choose, disagreement
from dermatome.skin.queue.settings import QueueSettings
from dermatome.skin.queue.stage import queue_slides
from dermatome.skin.tiles.corrections import save_correction
from dermatome.synthetic.skin import toy_slide
from dermatome.warehouse.store import build_store
from pipelines_tests.asset_runs import run
from pipelines_tests.records import put_record
from pipelines_tests.toy_root import put_images


def test_only_views_that_differ_disagree():
    certain = np.eye(4)[:, :, None]  # view, class, one pixel
    same, unsure = np.tile(certain[:1], (4, 1, 1))[..., None], np.full((4, 4, 1, 1), 0.25)
    two = certain[[0, 0, 1, 1]][..., None]
    assert [float(disagreement(views)[0, 0]) for views in (same, unsure, two, certain[..., None])] == pytest.approx(
        [0, 0, 1, 2], abs=1e-6
    )


class PointWise:
    """A network that sees each pixel by itself, or by its place in the tile."""

    def __init__(self, by_place=False):
        self.by_place = by_place

    def stream(self, batches):
        for places, tiles in batches:
            share = tiles[..., 0] / 255
            if self.by_place:
                share = np.broadcast_to(np.linspace(0, 1, share.shape[1])[:, None], share.shape)
            yield places, (np.stack([share, 1 - share], axis=1).astype(np.float32),)


@pytest.mark.parametrize("views", [2, 4, 8])
def test_views_are_turned_back(views):
    image = np.random.default_rng(0).integers(0, 255, (70, 90, 3), dtype=np.uint8)
    seen = _views(Predictor(PointWise(), 2, tile_px=64, overlap_px=16, skip_background=False), image, views)
    assert seen.shape == (views, 2, 70, 90)
    np.testing.assert_allclose(seen, np.broadcast_to(seen[:1], seen.shape), atol=1e-5)
    np.testing.assert_allclose(seen[0, 0], image[..., 0] / 255, atol=1e-5)
    by_place = _views(Predictor(PointWise(True), 2, tile_px=96, skip_background=False), image, views)
    assert disagreement(by_place).mean() > 0.1


def region(slide, left, disagreement, *features):
    return Candidate(slide, Box(0, left, 100, left + 100), disagreement, np.array(features, float))


FOUND = [
    region("a", 0, 1.0, 0, 0),
    region("a", 100, 0.9, 0, 0.1),
    region("a", 50, 0.95, 0, 0),
    region("b", 0, 0.5, 1, 1),
]


def test_regions_are_chosen_by_gain_and_do_not_overlap():
    def order(diversity, annotated):
        return [(one.candidate.slide, one.candidate.box.left_px) for one in choose(FOUND, 9, diversity, annotated)]

    assert order(0, {}) == [("a", 0), ("a", 100), ("b", 0)]
    assert order(1, {}) == [("a", 0), ("b", 0), ("a", 100)]
    assert order(0, {"a": [Box(0, 0, 100, 100)]}) == [("a", 100), ("b", 0)]
    (first, *_) = choose(FOUND, 1, 1, {"a": [Box(0, 0, 100, 100)]})
    assert first.candidate.slide == "b", "what looks like an annotated region waits"
    assert (choose([], 3, 1, {}), len(choose(FOUND, 2, 1, {}))) == ([], 2)


def test_of_many_slides_some_are_drawn(root):
    for number in range(6):
        put_record(root, "slide_images", f"s{number}", data_version=f"v{number}")
    few = queue_slides(root, QueueSettings(slides=3, seed=1))
    assert len(few) == 3
    assert few == queue_slides(root, QueueSettings(slides=3, seed=1))
    assert queue_slides(root, QueueSettings()) == {f"s{number}": f"v{number}" for number in range(6)}


def test_the_queue_of_a_data_root(tmp_path, root):
    import dagster as dg

    slides = {name: toy_slide(seed, size_px=300) for seed, name in enumerate(("one", "two"))}
    put_images(root, tmp_path / "in", slides, {})
    root.settings.write_text(
        '[queue]\nside_px = 256\nviews = 2\n[compute]\ndevice = "cpu"\nthreads = 1\nbackend = "torch"\n'
    )
    mask = np.zeros((256, 256), np.uint8)
    save_correction(root, load_slide(root, "two"), Box(0, 0, 256, 256), mask, author="Ada", version="")
    with dg.instance_for_test() as instance:
        assert run(root, instance, "annotation_queue").success
    folder = root.folder("annotation_queue", "current")
    table = pd.read_parquet(folder / "queue.parquet")
    assert table["slide"].tolist() == ["one"], "all else overlaps with what is proposed or annotated"
    assert table["disagreement"].iloc[0] > 0
    row = table.iloc[0]
    link = f"http://127.0.0.1:7860/correct?slide=one&amp;left={row['left_px']}&amp;top={row['top_px']}&amp;side=256"
    assert link in (folder / "queue.html").read_text()
    with duckdb.connect(str(build_store(root).path), read_only=True) as store:
        assert store.execute("select rank, slide from annotation_queue").fetchall() == [(1, "one")]


def test_regions_that_views_disagree_on_are_compared_with_the_starter_s_errors(tmp_path, compute):
    from pipelines_tests.experiments.annotate_next import ranking
    from pipelines_tests.toy_tiles import write_tiles

    found = ranking(write_tiles(tmp_path, [toy_slide(seed, size_px=300) for seed in (1, 2)]), compute, 1, 5)
    assert found["regions"] == 8
    assert -1 <= found["spearman"] <= 1
    assert 0 < found["error_of_all"] < 0.9
