"""The sensors; all are off until somebody turns them on in the UI."""

import time
from collections.abc import Iterable, Mapping, Sequence

import dagster as dg
from dagster._core.storage.dagster_run import NOT_FINISHED_STATUSES

from assets.partitions import ANNOTATED_SLIDES, REQUESTED_BY, SLIDES
from dermatome.errors import DermatomeError, StorageFailed
from dermatome.slides.plain import SUFFIXES
from dermatome.slides.register import read_sources, write_sources
from dermatome.slides.source import SlideSource
from dermatome.storage.files import changed_in, folders_in, safe_id
from dermatome.storage.layout import FAILURES, DataRoot
from orchestration.arrivals import say_what_is_early, settled, shortened
from orchestration.jobs import refresh_metrics as refresh_metrics_job
from orchestration.requests import (
    PER_SLIDE,
    at_most,
    register_slides,
    stages_possible,
    subset_of,
    unasked_slides,
)
from resources import PathsResource

SLIDES_A_TICK = 2_000
# Dagster gives a tick a minute.
TICK_S = 20.0
_GENES_A_TICK = 500
_AGAIN_S = 1800.0
_STATE = "dermatome/metrics_state"
# A run that was never started may be of a daemon that died, and must not be waited for.
_GOING_ON = [status for status in NOT_FINISHED_STATUSES if status != dg.DagsterRunStatus.NOT_STARTED]


@dg.sensor(
    minimum_interval_seconds=60,
    asset_selection=list(PER_SLIDE),
    description="Registers the slides of fresh hpa_images rows, asks for what they lack and for images that moved.",
)
def new_hpa_images(context: dg.SensorEvaluationContext, paths: PathsResource) -> dg.SensorResult | dg.SkipReason:
    """Follows the events of `hpa_images`; bounded for each tick, the next tick goes on where this one stopped."""
    from dermatome.hpa.records import read_records
    from dermatome.hpa.stage import RECORDS_FILE

    root, until = paths.data_root, time.monotonic() + TICK_S
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
        after = event.storage_id
        gene = event.partition_key or ""
        try:
            rows = read_records(root.folder("hpa_images", gene) / RECORDS_FILE).to_pylist()
        except (DermatomeError, OSError) as error:
            # Stopping here would stop at the same gene for ever.
            context.log.error(f"The slides of {gene} are passed over ({error}): materialize hpa_images for it again.")
            continue
        sources += [SlideSource(r["slide"], "hpa", r["image_url"], r["gene"], r["ensembl_id"]) for r in rows]
        if len(sources) >= SLIDES_A_TICK or time.monotonic() > until:
            break
    wanted = register_slides(context.instance, root, sources)
    latest = {source.slide: source for source in sources}
    _say_what_is_not_taken(context, latest.values(), read_sources(root.slide_sources, latest))
    return _ask(context, root, wanted, list(latest), cursor=str(after))


@dg.sensor(
    minimum_interval_seconds=60,
    asset_selection=list(PER_SLIDE),
    description="The same for images put into the folder `inbox` of the data root.",
)
def image_folder(context: dg.SensorEvaluationContext, paths: PathsResource) -> dg.SensorResult | dg.SkipReason:
    """One slide for each image file; its name without the suffix is the slide id.

    A file that was replaced by another of its name is asked for again, and one that moved (its folder or its suffix is
    another, and the old file is gone) is taken from where it is now. The cursor is when the latest file that was looked
    at was put there: what is younger is new, or another.
    """
    root = paths.data_root
    found = changed_in(root.inbox)
    if not found:
        return dg.SkipReason(f"There is no file in {root.inbox}: put images there.")
    sourced = read_sources(root.slide_sources)
    known = set(context.instance.get_dynamic_partitions(str(SLIDES.name)))
    here = {str(root.inbox / name) for name in found}
    seen = float(context.cursor) if context.cursor else None
    taken: dict[str, SlideSource] = {}
    replaced: dict[str, float] = {}
    others: list[SlideSource] = []
    early: list[str] = []
    latest, now = seen or 0.0, time.time()
    # From the oldest, so that what a tick leaves to the next is younger than its cursor.
    for name, changed_at in sorted(found.items(), key=lambda one: (one[1], one[0])):
        path = root.inbox / name
        if path.suffix.lower() not in SUFFIXES:
            continue
        try:
            source = SlideSource(safe_id(path.stem, "The slide"), "folder", str(path))
        except StorageFailed as error:
            context.log.error(str(error))
            continue
        before = sourced.get(source.slide) if source.slide in known else None
        same = before is not None and before.location == source.location
        if source.slide in taken or (before is not None and not same and _is_elsewhere(before, here)):
            others.append(source)
            continue
        if same and changed_at > now:
            early.append(source.slide)
            continue
        if not settled(changed_at, now):
            continue
        if same and (seen is None or changed_at <= seen):
            latest = max(latest, changed_at)
            continue
        if len(taken) + len(replaced) >= SLIDES_A_TICK:
            break
        latest = max(latest, changed_at) if changed_at <= now else latest
        if same:
            replaced[source.slide] = changed_at
        else:
            taken[source.slide] = source
    _say_what_is_not_taken(context, others, sourced | taken)
    say_what_is_early(context, root.inbox, early)
    cursor = repr(latest)
    if not taken and not replaced:
        return dg.SensorResult(skip_reason=f"No new image in {root.inbox}.", cursor=cursor)
    write_sources(root.slide_sources, taken.values())
    asked = [slide for slide in taken if slide not in known]
    again = [*replaced, *(slide for slide in taken if slide in known and slide in sourced)]
    return _ask(context, root, [*asked, *again], list(taken), cursor=cursor, add=asked)


def _is_elsewhere(source: SlideSource, here: set[str]) -> bool:
    """Whether a slide's image is not the inbox's, or is another file there that has not gone."""
    return source.origin != "folder" or source.location in here


def _say_what_is_not_taken(
    context: dg.SensorEvaluationContext, sources: Iterable[SlideSource], kept: Mapping[str, SlideSource]
) -> None:
    """One line on the images whose slides have theirs from elsewhere."""
    clashes = [
        f"{source.location} (slide {source.slide} is {kept[source.slide].location})"
        for source in sources
        if kept[source.slide].location != source.location
    ]
    if clashes:
        context.log.warning(
            f"{len(clashes)} images are not taken, as their slides are known from elsewhere: "
            f"{shortened(clashes)}; rename the files in the inbox."
        )


@dg.sensor(minimum_interval_seconds=60, description="Registers annotated slides put into the folder `annotations`.")
def annotation_folder(context: dg.SensorEvaluationContext, paths: PathsResource) -> dg.SensorResult | dg.SkipReason:
    """One annotated slide for each folder; making tiles of it is left to a person."""
    folder = paths.data_root.annotations
    known = set(context.instance.get_dynamic_partitions(str(ANNOTATED_SLIDES.name)))
    new: list[str] = []
    for name in folders_in(folder):
        if name in known:
            continue
        try:
            new.append(safe_id(name, "The annotated slide"))
        except DermatomeError as error:
            context.log.error(str(error))
    if not new:
        return dg.SkipReason(f"No new folder in {folder}.")
    return dg.SensorResult(dynamic_partitions_requests=[ANNOTATED_SLIDES.build_add_request(new)])


@dg.sensor(
    job=refresh_metrics_job,
    minimum_interval_seconds=300,
    description="Makes the DuckDB file again when anything that is in it was made, or failed, since.",
)
def fresh_metrics(context: dg.SensorEvaluationContext, paths: PathsResource) -> dg.RunRequest | dg.SkipReason:
    """One run for each state of what the store is made of, however many events led to it.

    There is no cursor: a run says itself which state it was asked for, and only one that succeeded settles it. One that
    failed is asked for again half an hour later.
    """
    state = _state_of_what_is_stored(context.instance, paths.data_root)
    if not state:
        return dg.SkipReason("Nothing is made yet.")
    job = refresh_metrics_job.name
    if context.instance.get_runs_count(dg.RunsFilter(job_name=job, statuses=_GOING_ON)):
        return dg.SkipReason("The file is being made, or is about to be.")
    tags = {REQUESTED_BY: context.sensor_name}
    for last in context.instance.get_run_records(dg.RunsFilter(job_name=job, tags=tags), limit=1):
        if last.dagster_run.status != dg.DagsterRunStatus.SUCCESS:
            if time.time() - last.update_timestamp.timestamp() < _AGAIN_S:
                return dg.SkipReason(f"Run {last.dagster_run.run_id} did not make the file: it is tried again later.")
        elif last.dagster_run.tags.get(_STATE) == state:
            return dg.SkipReason("Nothing was made since the last run.")
    return dg.RunRequest(tags=tags | {_STATE: state})


def _state_of_what_is_stored(instance: dg.DagsterInstance, root: DataRoot) -> str:
    """The latest event of the assets in the store, and when a partition failed last; empty where there is neither."""
    from dermatome.warehouse.tables import TABLES

    newest, failed_at = 0, 0.0
    for asset in {table.asset for table in TABLES.values()} - {FAILURES}:
        for record in instance.fetch_materializations(dg.AssetKey(asset), limit=1).records:
            newest = max(newest, record.storage_id)
    for asset in folders_in(root.path / FAILURES):
        failed_at = max(failed_at, *changed_in(root.path / FAILURES / asset).values(), 0.0)
    return f"{newest} {failed_at}" if newest or failed_at else ""


def _ask(
    context: dg.SensorEvaluationContext,
    root: DataRoot,
    new: list[str],
    slides: list[str],
    cursor: str | None,
    add: Sequence[str] = (),
) -> dg.SensorResult:
    """Asks for ``new`` slides, and for those of ``slides`` that a tick registered which died before it could ask.

    The partitions of ``add`` are added along with that.
    """
    stages = stages_possible(root)
    unasked = unasked_slides(context.instance, root, stages, slides)
    wanted = {stage: list(dict.fromkeys([*new, *unasked[stage]])) for stage in stages}
    wanted, count = at_most(wanted)
    if not count:
        return dg.SensorResult(skip_reason="No slide is new or was forgotten.", cursor=cursor)
    context.log.info(f"{len(new)} new or replaced slides; {count} are asked for.")
    return dg.SensorResult(
        run_requests=[
            dg.RunRequest.for_asset_graph_subset(subset_of(wanted), tags={REQUESTED_BY: context.sensor_name})
        ],
        # The daemon adds them together with the request: a tick that dies before leaves them unknown, for the next.
        dynamic_partitions_requests=[SLIDES.build_add_request(list(add))] if add else [],
        cursor=cursor,
    )


SENSORS = [new_hpa_images, image_folder, annotation_folder, fresh_metrics]
