"""The sensors; all are off until somebody turns them on in the UI."""

import time
from pathlib import Path

import dagster as dg

from assets.partitions import ANNOTATED_SLIDES
from dermatome.data_root import DataRoot
from dermatome.errors import DermatomeError, StorageFailed
from dermatome.files import safe_id
from dermatome.slide import SUFFIXES
from dermatome.slide_source import SlideSource, folder_sources
from orchestration.jobs import refresh_metrics as refresh_metrics_job
from orchestration.requests import PER_SLIDE, REQUESTED_BY, register_slides, stages_possible, subset_of
from resources import PathsResource

SLIDES_A_TICK = 2_000
_GENES_A_TICK = 500
# A file that was touched a moment ago may still be being copied.
_SETTLED_S = 5.0


@dg.sensor(
    minimum_interval_seconds=60,
    asset_selection=list(PER_SLIDE),
    description="Registers the slides of fresh hpa_images rows and asks for what they lack.",
)
def new_hpa_images(context: dg.SensorEvaluationContext, paths: PathsResource) -> dg.SensorResult | dg.SkipReason:
    """Follows the events of `hpa_images`; bounded for each tick, the next tick goes on where this one stopped."""
    from dermatome.hpa.records import read_records
    from dermatome.hpa.stage import RECORDS_FILE

    root = paths.data_root
    after = int(context.cursor) if context.cursor else None
    events = context.instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=dg.AssetKey("hpa_images"), after_storage_id=after),
        limit=_GENES_A_TICK,
        ascending=True,
    ).records
    if not events:
        return dg.SkipReason("No gene page was read since the last tick.")
    sources: list[SlideSource] = []
    for event in events:
        gene = event.partition_key or ""
        for row in read_records(root.folder("hpa_images", gene) / RECORDS_FILE).to_pylist():
            sources.append(
                SlideSource(
                    slide=row["slide"],
                    origin="hpa",
                    location=row["image_url"],
                    gene=row["gene"],
                    ensembl_id=row["ensembl_id"],
                )
            )
        after = event.storage_id
        if len(sources) >= SLIDES_A_TICK:
            break
    return _register_and_request(context, root, sources, cursor=str(after))


@dg.sensor(
    minimum_interval_seconds=60,
    asset_selection=list(PER_SLIDE),
    description="The same for images put into the folder `inbox` of the data root.",
)
def image_folder(context: dg.SensorEvaluationContext, paths: PathsResource) -> dg.SensorResult | dg.SkipReason:
    """One slide for each image file; its name without the suffix is the slide id."""
    root = paths.data_root
    if not root.inbox.is_dir():
        return dg.SkipReason(f"There is no folder {root.inbox}: make it and put images into it.")
    known = set(context.instance.get_dynamic_partitions("slides"))
    settled = time.time() - _SETTLED_S
    named: dict[str, Path] = {}
    for path in sorted(root.inbox.iterdir()):
        if path.suffix.lower() not in SUFFIXES or not path.is_file() or path.stem in known:
            continue
        try:
            slide = safe_id(path.stem, "The slide")
        except StorageFailed as error:
            context.log.error(str(error))
            continue
        if slide in named:
            context.log.error(f"{path.name} and {named[slide].name} would be the same slide {slide}: rename one.")
        elif path.stat().st_mtime <= settled:
            named[slide] = path
        if len(named) >= SLIDES_A_TICK:
            break
    if not named:
        return dg.SkipReason(f"No new image in {root.inbox}.")
    return _register_and_request(context, root, folder_sources(root.inbox, named.items()), cursor=context.cursor)


@dg.sensor(minimum_interval_seconds=60, description="Registers annotated slides put into the folder `annotations`.")
def annotation_folder(context: dg.SensorEvaluationContext, paths: PathsResource) -> dg.SensorResult | dg.SkipReason:
    """One annotated slide for each folder; making tiles of it is left to a person."""
    folder = paths.data_root.annotations
    known = set(context.instance.get_dynamic_partitions(str(ANNOTATED_SLIDES.name)))
    new: list[str] = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if not path.is_dir() or path.name in known:
            continue
        try:
            new.append(safe_id(path.name, "The annotated slide"))
        except DermatomeError as error:
            context.log.error(str(error))
    if not new:
        return dg.SkipReason(f"No new folder in {folder}.")
    return dg.SensorResult(dynamic_partitions_requests=[ANNOTATED_SLIDES.build_add_request(new)])


@dg.sensor(
    job=refresh_metrics_job,
    minimum_interval_seconds=300,
    description="Makes the DuckDB file again when layers or weights were made since.",
)
def fresh_metrics(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
    """One run for each state of the upstream assets, however many events led to it."""
    newest = 0
    for asset in (*PER_SLIDE, "hpa_images", "tissue_weights", "tissue_champion"):
        records = context.instance.fetch_materializations(dg.AssetKey(asset), limit=1).records
        newest = max(newest, records[0].storage_id if records else 0)
    if not newest or context.cursor == str(newest):
        return dg.SkipReason("Nothing was made since the last tick.")
    context.update_cursor(str(newest))
    return dg.RunRequest(run_key=str(newest))


def _register_and_request(
    context: dg.SensorEvaluationContext, root: DataRoot, sources: list[SlideSource], cursor: str | None
) -> dg.SensorResult | dg.SkipReason:
    new = register_slides(context.instance, root, sources)
    if not new:
        return dg.SensorResult(skip_reason="Every slide of these was known already.", cursor=cursor)
    subset, slides = subset_of(dict.fromkeys(stages_possible(root), new))
    context.log.info(f"{slides} new slides.")
    request = dg.RunRequest.for_asset_graph_subset(subset, tags={REQUESTED_BY: context.sensor_name})
    return dg.SensorResult(run_requests=[request], cursor=cursor)


SENSORS = [new_hpa_images, image_folder, annotation_folder, fresh_metrics]
