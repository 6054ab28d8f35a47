"""`nuclei_slides`: an H&E slide's file, copied and checked."""

from pathlib import Path

from assets.partitions import NUCLEI_SLIDES
from assets.slide_asset import AnyStage, Run, slide_asset
from assets.sources import NUCLEI_INBOX
from dermatome.pipeline.cached_stage import WaitingStage
from dermatome.storage.record import StageResult


@slide_asset(
    NUCLEI_SLIDES, "nuclei_images", kind="file", code_version="2", partitions_a_run=400,
    deps=[NUCLEI_INBOX], decided_by=["nuclei_images"],
    checks={"image_not_blank": "The file decodes and is not blank."},
)  # fmt: skip
def nuclei_slides(run: Run) -> AnyStage:
    """One partition is one slide of `nuclei_inbox/` with its sha256, size and scale: a JPEG, PNG or TIFF, a vendor's
    file that OpenSlide reads, or a folder with the `.dcm` files of a DICOM slide. All its levels are kept, but not
    its label.

    The scale is the one the file states, or else `declared_mpp` of the settings, with `declared` as its source.
    """
    from dermatome.slides.source import SlideSource, acquire_slide, inbox_source, inbox_sources

    root, images = run.root, run.settings.nuclei_images
    sources = inbox_sources(root.nuclei_inbox)

    def source(slide: str) -> SlideSource:
        return sources.get(slide) or inbox_source(root.nuclei_inbox, slide)  # it may have come after the run began

    def inputs(slide: str) -> dict[str, str]:
        return {"nuclei_inbox": source(slide).identity}

    def make(slide: str, folder: Path) -> StageResult:
        return acquire_slide(source(slide), folder, images.declared_mpp, images.max_side_px, root=root.path)

    return WaitingStage(root, "nuclei_slides", make=make, inputs=inputs, at_once=2)
