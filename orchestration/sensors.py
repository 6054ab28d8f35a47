"""The sensors; all are off until a person turns them on in the UI."""

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import dagster as dg

from assets.partitions import ANNOTATED_SLIDES, NUCLEI_CASES, REQUESTED_BY
from dermatome.errors import DermatomeError
from dermatome.slides.dicom import is_dicom
from dermatome.slides.register import read_sources, write_sources
from dermatome.slides.source import SlideSource, inbox_images, inbox_place, place_source
from dermatome.storage.files import changed_in, folders_in, usable_id
from dermatome.storage.layout import FAILURES, DataRoot
from orchestration.jobs import refresh_metrics
from orchestration.requests import NUCLEI, SKIN, Chain, first_slides, number_of_slides, register_slides, untried_slides
from resources import PathsResource
from resources.dagster_private import subset_of

_SLIDES_PER_TICK = 2_000
_GENES_PER_TICK = 500
# Dagster stops a tick after one minute.
_TICK_S = 20.0
# A file that changed a moment ago may still be being copied.
_SETTLED_S = 5.0
_SHOWN = 5
_IN_FOLDER, _OTHER_KIND = "files in folders", "files of a kind that is not read"
_NO_NAME, _KNOWN = "files whose names have no letter of A to Z and no digit", "images of slides known from elsewhere"
_RETRY_METRICS_S = 1800.0
_STATE = "dermatome/metrics_state"
# A run in NOT_STARTED may belong to a daemon that died, and waiting for it could take for ever.
_NOT_IN_PROGRESS = ("NOT_STARTED", "SUCCESS", "FAILURE", "CANCELED")
_IN_PROGRESS = [status for status in dg.DagsterRunStatus if status.value not in _NOT_IN_PROGRESS]


@dg.sensor(
    minimum_interval_seconds=60,
    asset_selection=list(SKIN.stages),
    description="Registers the slides of new hpa_images rows, and requests those that are missing or have moved.",
)
def new_hpa_images(context: dg.SensorEvaluationContext, paths: PathsResource) -> dg.SensorResult | dg.SkipReason:
    """Follows the events of `hpa_images`. The work of a tick is bounded; the next one continues."""
    from dermatome.hpa.records import gene_images

    root, until = paths.data_root, time.monotonic() + _TICK_S
    after = int(context.cursor) if context.cursor else None
    events = context.instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=dg.AssetKey("hpa_images"), after_storage_id=after),
        limit=_GENES_PER_TICK,
        ascending=True,
    ).records
    if not events:
        return dg.SkipReason("No gene page was read since the last tick.")
    sources: list[SlideSource] = []
    for event in events:
        after = event.storage_id
        if (gene := event.partition_key) is None:  # the event of orchestration.instance.note_optional
            continue
        try:
            rows = gene_images(root, gene)
        except (DermatomeError, OSError) as error:
            # Continue: otherwise every later tick would stop at this gene.
            context.log.error(f"The slides of {gene} are skipped ({error}): materialize hpa_images for it again.")
            continue
        sources += [SlideSource(r["slide"], "hpa", r["image_url"], r["gene"], r["ensembl_id"]) for r in rows]
        if len(sources) >= _SLIDES_PER_TICK or time.monotonic() > until:
            break
    wanted = register_slides(context.instance, root, sources)
    latest = {source.slide: source for source in sources}
    registered = read_sources(root.slide_sources, latest)
    _warn_of_clashes(context, list(latest.values()), registered)
    return _request(context, SKIN, root, wanted, list(latest), cursor=str(after))


@dataclass
class _Inbox:
    """The slides found in an inbox.

    Attributes:
        folder: The inbox.
        changed: Times at which the files of each slide were put there, seconds since 1970.
        new: Slides to take whatever the cursor is: unknown ones, and those whose image has moved.
        sources: Sources of the images; empty for a pipeline that registers none.
        not_taken: Names of the files that are not taken, by reason.
    """

    folder: Path
    changed: dict[str, list[float]] = field(default_factory=dict)
    new: set[str] = field(default_factory=set)
    sources: dict[str, SlideSource] = field(default_factory=dict)
    not_taken: dict[str, list[str]] = field(default_factory=dict)

    def leave(self, reason: str, *names: str) -> None:
        """Records files that are not taken, with the reason."""
        if names:
            self.not_taken.setdefault(reason, []).extend(names)

    @property
    def note(self) -> str:
        """Sentence that lists what is not taken and why; empty if everything is taken."""
        parts = (f"{len(names)} {reason} ({_shortened(names)})" for reason, names in sorted(self.not_taken.items()))
        return f" Not taken from {self.folder}: {'; '.join(parts)}." if self.not_taken else ""


def _places(context: dg.SensorEvaluationContext, inbox: _Inbox, names: Mapping[str, float]) -> dict[str, list[float]]:
    """Finds the slides among the files of an inbox: image files, and folders of DICOM files.

    Files that are no slide are recorded in ``inbox``.

    Returns:
        For each file or folder, the times at which its files were put there, seconds since 1970.
    """
    if loose := [name for name in names if "/" not in name and is_dicom(name)]:
        context.log.error(
            f"{len(loose)} DICOM files lie directly in {inbox.folder} ({_shortened(loose)}) and are not taken: move "
            "the files of each slide into a folder of their own there, named like the slide."
        )
    inbox.leave("DICOM files outside of a slide's folder", *loose)
    found: dict[str, list[float]] = {}
    for name, changed_at in names.items():
        if (place := inbox_place(name)) is None:
            if "/" in name or not is_dicom(name):
                inbox.leave(_IN_FOLDER if "/" in name else _OTHER_KIND, name)
        elif not usable_id(place if "/" in name else Path(name).stem):
            inbox.leave(_NO_NAME, name)
        else:
            found.setdefault(place, []).append(changed_at)
    return found


def _skin_inbox(context: dg.SensorEvaluationContext, root: DataRoot, known: Collection[str]) -> _Inbox:
    """Takes each image file as a slide, named without the suffix, and each folder of DICOM files.

    Of several images of a slide, the registered one is used, or the oldest one if that no longer exists.
    """
    inbox = _Inbox(root.inbox)
    files: dict[str, list[tuple[list[float], SlideSource]]] = {}
    for place, times in _places(context, inbox, changed_in(root.inbox, folders=True)).items():
        source = place_source(root.inbox, place)
        files.setdefault(source.slide, []).append((times, source))
    registered = read_sources(root.slide_sources)
    clashes: list[SlideSource] = []
    for slide, found in files.items():
        before = registered.get(slide) if slide in known else None
        found.sort(key=lambda one: (before is None or one[1].location != before.location, max(one[0])))
        (times, source), *others = found
        if before is not None and before.origin == "hpa":
            clashes += [source, *(other for _, other in others)]
            continue
        registered[slide] = source
        clashes += [other for _, other in others]
        inbox.changed[slide], inbox.sources[slide] = times, source
        if before is None or before.location != source.location:
            inbox.new.add(slide)
    inbox.leave(_KNOWN, *(Path(image.location).name for image in clashes))
    _warn_of_clashes(context, clashes, registered)
    return inbox


def _nuclei_inbox(context: dg.SensorEvaluationContext, root: DataRoot, known: Collection[str]) -> _Inbox:
    """Takes each file as a slide, named without the suffix, and each folder of DICOM files.

    A slide that has several images is not taken.
    """
    inbox = _Inbox(root.nuclei_inbox)
    names = changed_in(inbox.folder, folders=True)
    images = inbox_images(inbox.folder, names)
    if clashes := sorted(slide for slide, sources in images.items() if len(sources) > 1):
        context.log.error(
            f"{len(clashes)} slides have more than one image in {inbox.folder} ({_shortened(clashes)}), so none of "
            "these is taken: keep one of each, or rename the others."
        )
    inbox.leave("slides with several images", *clashes)
    times = _places(context, inbox, names)
    for slide, (source, *others) in images.items():
        if not others:
            inbox.changed[slide] = times[Path(source.location).name]
            inbox.new |= {slide} - set(known)
    return inbox


def _take_arrivals(
    context: dg.SensorEvaluationContext, paths: PathsResource, chain: Chain
) -> dg.SensorResult | dg.SkipReason:
    """Registers and requests slides that are new in an inbox, and requests those that were replaced there.

    The cursor has two parts. The first is the time of the latest file that was taken, by the storage's clock: a file
    with a later time is new or was replaced. Times in the future are ignored, as that clock may be wrong. The second is
    the number of stages that could be computed: if it grows, because weights now exist, known slides are requested too.
    """
    root, now = paths.data_root, time.time()
    known = set(context.instance.get_dynamic_partitions(chain.partitions))
    inbox = (_skin_inbox if chain is SKIN else _nuclei_inbox)(context, root, known)
    at, _, stages_before = (context.cursor or "").partition(" ")
    seen = float(at) if at else None
    stages = len(chain.possible_stages(root))
    has_more_stages = not stages_before or stages > int(stages_before)
    unsure = [slide for slide in inbox.changed if slide not in inbox.new] if has_more_stages else []
    taken: list[str] = []
    early: list[str] = []
    latest = seen or 0.0
    # The oldest first, so that slides left to the next tick are younger than its cursor.
    for slide, times in sorted(inbox.changed.items(), key=lambda one: (max(one[1]), one[0])):
        changed_at, is_new = max(times), slide in inbox.new
        if not is_new and changed_at > now:
            early.append(slide)
            continue
        # A time in the future does not show how long ago the file changed; waiting for it could take years.
        if not all(abs(now - at) >= _SETTLED_S for at in times):
            continue
        if is_new or (seen is not None and changed_at > seen):
            if len(taken) >= _SLIDES_PER_TICK:
                break
            taken.append(slide)
        latest = max(latest, changed_at) if changed_at <= now else latest
    if early:
        context.log.warning(
            f"The files of {len(early)} slides in {inbox.folder} ({_shortened(early)}) have times in the future, and "
            "are not taken before then: set the clocks of this machine and of the storage right."
        )
    # Sources are written first: a partition without a source would fail.
    write_sources(root.slide_sources, [inbox.sources[slide] for slide in taken if slide in inbox.sources])
    add = [slide for slide in taken if slide not in known]
    return _request(context, chain, root, taken, unsure, cursor=f"{latest!r} {stages}", add=add, note=inbox.note)


def _inbox_sensor(name: str, chain: Chain, description: str) -> dg.SensorDefinition:
    """A sensor that takes new and replaced files of a pipeline's inbox; see :func:`_take_arrivals`."""

    @dg.sensor(name=name, minimum_interval_seconds=60, asset_selection=list(chain.stages), description=description)
    def arrivals(context: dg.SensorEvaluationContext, paths: PathsResource) -> dg.SensorResult | dg.SkipReason:
        return _take_arrivals(context, paths, chain)

    return arrivals


image_folder = _inbox_sensor(
    "image_folder", SKIN, "Registers images put into `inbox`, and requests new, replaced and moved ones."
)
nuclei_slide_folder = _inbox_sensor(
    "nuclei_slide_folder",
    NUCLEI,
    "Registers H&E slides put into `nuclei_inbox`, and requests new and replaced ones.",
)


def _folder_sensor(
    name: str, folder: str, partitions: dg.DynamicPartitionsDefinition, description: str
) -> dg.SensorDefinition:
    """A sensor that registers one partition for each folder in ``folder``; users materialize them."""

    @dg.sensor(name=name, minimum_interval_seconds=60, description=description)
    def register(context: dg.SensorEvaluationContext, paths: PathsResource) -> dg.SensorResult | dg.SkipReason:
        path = paths.data_root.path / folder
        known = set(context.instance.get_dynamic_partitions(str(partitions.name)))
        folders = folders_in(path)
        unusable = [key for key in folders if usable_id(key) != key]
        new = [key for key in folders if key not in known and key not in unusable]
        note = f" Not taken, must be renamed: {len(unusable)} folders ({_shortened(unusable)})." if unusable else ""
        if not new:
            return dg.SkipReason(f"No new folder in {path}.{note}")
        if note:
            context.log.warning(note.strip())
        return dg.SensorResult(dynamic_partitions_requests=[partitions.build_add_request(new)])

    return register


annotation_folder = _folder_sensor(
    "annotation_folder",
    "annotations",
    ANNOTATED_SLIDES,
    "Registers annotated slides put into `annotations`, so that training_tiles can be materialized.",
)
nuclei_case_folder = _folder_sensor(
    "nuclei_case_folder",
    "nuclei_annotations",
    NUCLEI_CASES,
    "Registers patients' folders put into `nuclei_annotations`, so that nuclei_patches can be materialized.",
)


@dg.sensor(
    job=refresh_metrics,
    minimum_interval_seconds=300,
    description="Refreshes the DuckDB file when an asset that fills it was materialized or failed.",
)
def fresh_metrics(context: dg.SensorEvaluationContext, paths: PathsResource) -> dg.RunRequest | dg.SkipReason:
    """Requests one run for each state of the store's sources, however many events led to it.

    There is no cursor: a tag of the run names the state it was requested for. Only a successful run settles that state;
    after a failed one, another run is requested half an hour later.
    """
    state = _state_of_results(context.instance, paths.data_root)
    if not state:
        return dg.SkipReason("Nothing is materialized yet.")
    job = refresh_metrics.name
    if context.instance.get_runs_count(dg.RunsFilter(job_name=job, statuses=_IN_PROGRESS)):
        return dg.SkipReason("A refresh is in progress.")
    tags = {REQUESTED_BY: context.sensor_name}
    for last in context.instance.get_run_records(dg.RunsFilter(job_name=job, tags=tags), limit=1):
        if last.dagster_run.status != dg.DagsterRunStatus.SUCCESS:
            if time.time() - last.update_timestamp.timestamp() < _RETRY_METRICS_S:
                return dg.SkipReason(f"Run {last.dagster_run.run_id} did not succeed; it will be retried later.")
        elif last.dagster_run.tags.get(_STATE) == state:
            return dg.SkipReason("Nothing was materialized since the last run.")
    return dg.RunRequest(tags=tags | {_STATE: state})


def _state_of_results(instance: dg.DagsterInstance, root: DataRoot) -> str:
    """Identifies the state: the latest event of the store's assets and the time of the last failure; may be empty."""
    from dermatome.warehouse.tables import TABLES

    newest, failed_at = 0, 0.0
    for asset in {table.asset for table in TABLES.values()} - {FAILURES}:
        for record in instance.fetch_materializations(dg.AssetKey(asset), limit=1).records:
            newest = max(newest, record.storage_id)
    for asset in folders_in(root.path / FAILURES):
        failed_at = max(failed_at, *changed_in(root.path / FAILURES / asset).values(), 0.0)
    return f"{newest} {failed_at}" if newest or failed_at else ""


def _request(
    context: dg.SensorEvaluationContext,
    chain: Chain,
    root: DataRoot,
    new: Sequence[str],
    unsure: Sequence[str],
    cursor: str | None,
    add: Sequence[str] = (),
    note: str = "",
) -> dg.SensorResult:
    """Requests the slides ``new``, and those of ``unsure`` that were never tried: a tick may die after registering.

    The daemon adds the partitions ``add`` together with the request: if a tick dies before, they stay unknown. ``note``
    is the sentence about files that are not taken.
    """
    stages = chain.possible_stages(root)
    untried = untried_slides(context.instance, root, stages, unsure)
    wanted = first_slides({stage: list(dict.fromkeys([*new, *untried[stage]])) for stage in stages})
    if not wanted:
        return dg.SensorResult(skip_reason=f"No slide is new or untried.{note}", cursor=cursor)
    context.log.info(f"{len(new)} new or replaced slides; {number_of_slides(wanted)} are requested.{note}")
    subset = subset_of(wanted, chain.slides)
    return dg.SensorResult(
        run_requests=[dg.RunRequest.for_asset_graph_subset(subset, tags={REQUESTED_BY: context.sensor_name})],
        dynamic_partitions_requests=[chain.slides.build_add_request(list(add))] if add else [],
        cursor=cursor,
    )


def _warn_of_clashes(
    context: dg.SensorEvaluationContext, images: Sequence[SlideSource], registered: Mapping[str, SlideSource]
) -> None:
    """Warns, in one line, of images whose slides are registered with another image."""
    clashes = [
        f"{image.location} (slide {image.slide} is {registered[image.slide].location})"
        for image in images
        if registered[image.slide].location != image.location
    ]
    if clashes:
        context.log.warning(
            f"{len(clashes)} images are not taken, as slides of these names have other images: {_shortened(clashes)}; "
            "rename the files in the inbox."
        )


def _shortened(texts: Sequence[str]) -> str:
    return f"{', '.join(texts[:_SHOWN])}{', …' if len(texts) > _SHOWN else ''}"


SENSORS = [new_hpa_images, image_folder, nuclei_slide_folder, annotation_folder, nuclei_case_folder, fresh_metrics]
