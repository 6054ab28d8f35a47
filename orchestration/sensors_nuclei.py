"""The sensors of nuclei; off until somebody turns them on in the UI."""

import time

import dagster as dg

from assets.partitions import NUCLEI_CASES, NUCLEI_SLIDES, REQUESTED_BY
from dermatome.errors import StorageFailed
from dermatome.files import changed_in, folders_in, safe_id
from dermatome.nuclei.slides import inbox_sources
from orchestration.requests import NUCLEI_PER_SLIDE, nuclei_stages_possible, subset_of
from resources import PathsResource

_SLIDES_A_TICK = 2_000
# A file that was touched a moment ago may still be being copied.
_SETTLED_S = 5.0


@dg.sensor(
    minimum_interval_seconds=60,
    description="Registers patients' folders put into `nuclei_annotations`, so that nuclei_patches can be made.",
)
def nuclei_case_folder(context: dg.SensorEvaluationContext, paths: PathsResource) -> dg.SensorResult | dg.SkipReason:
    """One case for each folder; making patches of it is left to a person."""
    folder = paths.data_root.nuclei_annotations
    known = set(context.instance.get_dynamic_partitions(str(NUCLEI_CASES.name)))
    new: list[str] = []
    for name in folders_in(folder):
        if name in known:
            continue
        try:
            new.append(safe_id(name, "The case"))
        except StorageFailed as error:
            context.log.error(str(error))
    if not new:
        return dg.SkipReason(f"No new folder in {folder}.")
    return dg.SensorResult(dynamic_partitions_requests=[NUCLEI_CASES.build_add_request(new)])


@dg.sensor(
    minimum_interval_seconds=60,
    asset_selection=list(NUCLEI_PER_SLIDE),
    description="Registers H&E slides put into `nuclei_inbox`, and asks for them and for those that were replaced.",
)
def nuclei_slide_folder(context: dg.SensorEvaluationContext, paths: PathsResource) -> dg.SensorResult | dg.SkipReason:
    """One slide for each file, its name without the suffix being the slide id.

    The cursor is when the latest file that was taken was put there: what is younger is new, or another.
    """
    inbox = paths.data_root.nuclei_inbox
    changed, seen = changed_in(inbox), float(context.cursor) if context.cursor else float("-inf")
    sources = {source.location: slide for slide, source in inbox_sources(inbox).items()}
    known = set(context.instance.get_dynamic_partitions(str(NUCLEI_SLIDES.name)))
    taken: list[str] = []
    latest = seen
    # From the oldest, so that what a tick leaves to the next is younger than its cursor.
    for name, changed_at in sorted(changed.items(), key=lambda one: (one[1], one[0])):
        slide = sources.get(str(inbox / name))
        if slide is None or (changed_at <= seen and slide in known):
            continue
        if changed_at > time.time() - _SETTLED_S or len(taken) >= _SLIDES_A_TICK:
            break
        try:
            taken.append(safe_id(slide, "The slide"))
        except StorageFailed as error:
            context.log.error(str(error))
        latest = max(latest, changed_at)
    if not taken:
        return dg.SkipReason(f"No new slide in {inbox}.")
    subset = subset_of(dict.fromkeys(nuclei_stages_possible(paths.data_root), taken), NUCLEI_SLIDES)
    new = [slide for slide in taken if slide not in known]
    return dg.SensorResult(
        run_requests=[dg.RunRequest.for_asset_graph_subset(subset, tags={REQUESTED_BY: context.sensor_name})],
        dynamic_partitions_requests=[NUCLEI_SLIDES.build_add_request(new)] if new else [],
        cursor=repr(latest),
    )


NUCLEI_SENSORS = [nuclei_case_folder, nuclei_slide_folder]
