"""`slide_images`: a slide's image file, fetched or copied, and verified by decoding all of it."""

from pathlib import Path

from assets.partitions import SLIDES, all_of
from assets.skin.hpa_images import hpa_images
from assets.slide_asset import AnyStage, Run, slide_asset
from assets.sources import INBOX
from dermatome.pipeline.cached_stage import WaitingStage
from dermatome.storage.record import StageResult


@slide_asset(
    SLIDES, "skin_images", kind="file", code_version="3", partitions_a_run=500,
    # Dagster cannot know which gene's page names a slide; the slide's source does.
    deps=[all_of(hpa_images), INBOX], decided_by=["images.declared_mpp", "images.max_side_px", "hpa.image"],
    pool="hpa", checks={"image_not_blank": "The file decodes completely and is not blank."},
)  # fmt: skip
def slide_images(run: Run) -> AnyStage:
    """One partition is one slide: its image file with sha256, size, mpp and the source of that mpp.

    The scale is the one a TIFF states. HPA states none, so `declared_mpp` of the settings is stored with `declared` as
    its source. `[hpa] image = "tiff"` fetches the lossless originals; `file` and `location` name the file in use.
    """
    from dermatome.slides.register import read_sources, source_of
    from dermatome.slides.source import acquire_slide

    root, images, hpa = run.root, run.settings.images, run.settings.hpa
    fetch, sources = run.client.fetch_image, read_sources(root.slide_sources, run.keys)

    def make(slide: str, folder: Path) -> StageResult:
        source, kept = source_of(slide, sources), root.folder("slide_images", slide)
        return acquire_slide(
            source, folder, images.declared_mpp, images.max_side_px,
            fetch_image=fetch, lossless=hpa.image == "tiff", kept=kept, root=root.path,
        )  # fmt: skip

    def inputs(slide: str) -> dict[str, str]:
        return {"hpa_images": source_of(slide, sources).identity}

    return WaitingStage(root, "slide_images", make=make, inputs=inputs, at_once=hpa.at_once)
