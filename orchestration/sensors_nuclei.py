"""The sensors of nuclei; off until somebody turns them on in the UI."""

import time
from collections.abc import Collection
from pathlib import Path

import dagster as dg

from assets.partitions import NUCLEI_CASES, NUCLEI_SLIDES, REQUESTED_BY
from dermatome.errors import StorageFailed
from dermatome.slides.dicom import is_dicom
from dermatome.slides.source import inbox_clashes, inbox_place, inbox_sources
from dermatome.storage.files import changed_in, folders_in, safe_id
from orchestration.arrivals import say_what_is_early, settled, shortened
from orchestration.requests import NUCLEI_PER_SLIDE, nuclei_stages_possible, subset_of
from resources import PathsResource

_SLIDES_A_TICK = 2_000


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
    """One slide for each file, its name without the suffix being the slide id, and for each folder of DICOM files.

    The cursor is when the latest file that was taken was put there: what is younger is new, or another.
    """
    inbox = paths.data_root.nuclei_inbox
    changed, seen = changed_in(inbox, folders=True), float(context.cursor) if context.cursor else float("-inf")
    _say_what_is_not_taken(context, inbox, changed)
    arrived: dict[str, list[float]] = {}
    for name, changed_at in changed.items():
        if (place := inbox_place(name)) is not None:
            arrived.setdefault(str(inbox / place), []).append(changed_at)
    slides = {slide: arrived[source.location] for slide, source in inbox_sources(inbox, changed).items()}
    known = set(context.instance.get_dynamic_partitions(str(NUCLEI_SLIDES.name)))
    taken: list[str] = []
    early: list[str] = []
    latest, now = seen, time.time()
    # From the oldest, so that what a tick leaves to the next is younger than its cursor.
    for slide, times in sorted(slides.items(), key=lambda one: (max(one[1]), one[0])):
        changed_at = max(times)
        if slide in known and changed_at > now:
            early.append(slide)
            continue
        if (slide in known and changed_at <= seen) or not all(settled(at, now) for at in times):
            continue
        if len(taken) >= _SLIDES_A_TICK:
            break
        try:
            taken.append(safe_id(slide, "The slide"))
        except StorageFailed as error:
            context.log.error(str(error))
        latest = max(latest, changed_at) if changed_at <= now else latest
    say_what_is_early(context, inbox, early)
    if not taken:
        return dg.SkipReason(f"No new slide in {inbox}.")
    subset = subset_of(dict.fromkeys(nuclei_stages_possible(paths.data_root), taken), NUCLEI_SLIDES)
    new = [slide for slide in taken if slide not in known]
    return dg.SensorResult(
        run_requests=[dg.RunRequest.for_asset_graph_subset(subset, tags={REQUESTED_BY: context.sensor_name})],
        dynamic_partitions_requests=[NUCLEI_SLIDES.build_add_request(new)] if new else [],
        cursor=repr(latest),
    )


def _say_what_is_not_taken(context: dg.SensorEvaluationContext, inbox: Path, names: Collection[str]) -> None:
    """A line on slides of two images, and one on DICOM files outside of a slide's folder, which may be of any slide."""
    if clashes := inbox_clashes(inbox, names):
        context.log.error(
            f"{len(clashes)} slides have more than one image in {inbox} ({shortened(clashes)}), and none is taken: "
            "leave one of each, or rename the others."
        )
    loose = [name for name in names if "/" not in name and is_dicom(name)]
    if loose:
        context.log.error(
            f"{len(loose)} DICOM files lie loose in {inbox} ({shortened(loose)}) and are not taken: put those of each "
            "slide into a folder of its own there, named like the slide."
        )


NUCLEI_SENSORS = [nuclei_case_folder, nuclei_slide_folder]
