"""A data root that is copied elsewhere, or mounted under another path, is complete."""

import shutil

from assets.partitions import NUCLEI_SLIDES, SLIDES
from dermatome.slides.register import read_sources
from dermatome.slides.source import SlideSource
from dermatome.storage.layout import DataRoot
from dermatome.storage.record import read_record
from dermatome.synthetic.skin import toy_slide
from dermatome.warehouse.store import build_store
from orchestration.requests import register_slides
from pipelines_tests.asset_runs import run


def reused(result, asset):
    assert result.success
    return [event.metadata["reused"].value for event in result.asset_materializations_for_node(asset)]


def test_a_moved_root_finds_and_reuses_everything(root, new_instance, tmp_path_factory):
    others = tmp_path_factory.mktemp("others")
    image, elsewhere = toy_slide(7, size_px=160).jpeg(), others / "elsewhere.jpg"
    for path in (root.inbox / "mine.jpg", root.nuclei_inbox / "he.jpg", elsewhere):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image)
    sources = [SlideSource(path.stem, "folder", str(path)) for path in (root.inbox / "mine.jpg", elsewhere)]
    chosen = [("slide_images", "mine"), ("slide_images", "elsewhere"), ("nuclei_slides", "he")]
    with new_instance() as instance:
        register_slides(instance, root, sources)
        instance.add_dynamic_partitions(NUCLEI_SLIDES.name, ["he"])
        for asset, key in chosen:
            assert reused(run(root, instance, asset, key=key), asset) == [False]
    build_store(root)

    moved = DataRoot(others / "mounted elsewhere" / "data")
    shutil.copytree(root.path, moved.path)
    shutil.rmtree(root.path)
    locations = {slide: source.location for slide, source in read_sources(moved.slide_sources).items()}
    assert locations == {"mine": str(moved.inbox / "mine.jpg"), "elsewhere": str(elsewhere)}
    with new_instance() as instance:  # the events lie in the copied root too, but none are needed
        instance.add_dynamic_partitions(SLIDES.name, ["mine", "elsewhere"])
        instance.add_dynamic_partitions(NUCLEI_SLIDES.name, ["he"])
        for asset, key in chosen:
            assert reused(run(moved, instance, asset, key=key), asset) == [True]
        assert register_slides(instance, moved, [SlideSource("mine", "folder", locations["mine"])]) == []
    recorded = [read_record(moved.record(asset, key)).values["location"] for asset, key in chosen]
    assert recorded == ["inbox/mine.jpg", str(elsewhere), "nuclei_inbox/he.jpg"]
    shutil.rmtree(moved.folder("slide_images", "mine"))
    with new_instance() as instance:
        instance.add_dynamic_partitions(SLIDES.name, ["mine"])
        assert reused(run(moved, instance, "slide_images", key="mine"), "slide_images") == [False]
    assert build_store(moved).rows["slides"] == 2
