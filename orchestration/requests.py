"""Which slides are missing where, and registering new ones."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta

import dagster as dg
from dagster._core.definitions.assets.graph.asset_graph_subset import AssetGraphSubset
from dagster._core.execution.backfill import BulkActionsFilter, BulkActionStatus

from assets.partitions import REQUESTED_BY, SLIDES
from dermatome.errors import BadWeights, MissingInput
from dermatome.nuclei.maps.networks import NucleusWeights
from dermatome.settings import load_settings
from dermatome.slides.register import read_sources, write_sources
from dermatome.slides.source import SlideSource
from dermatome.storage.files import safe_id
from dermatome.storage.layout import DataRoot
from dermatome.storage.record import Failure, read_failures

PER_SLIDE = ("slide_images", "epidermis_masks", "cell_masks", "epidermis_layers")
NUCLEI_PER_SLIDE = ("nuclei_slides", "nucleus_maps", "til_scores")

_GAP = 100
_MOST_NIGHTS = 64
# Adding 160,000 keys takes seconds in one call and everything else waits for it.
_CHUNK = 10_000


def register_slides(instance: dg.DagsterInstance, root: DataRoot, sources: Iterable[SlideSource]) -> list[str]:
    """Writes where each slide's image is, then adds its partition.

    A known slide keeps its source, unless that is lost or the image has moved within its origin: a file of the same
    name in a folder is not HPA's image, nor the other way round.

    Returns:
        The slides to be made: those that were not known before, in order, then those whose image has moved.

    Raises:
        StorageFailed: a slide's name is no file name, or the sources cannot be read or written; nothing is registered.
    """
    known = set(instance.get_dynamic_partitions(str(SLIDES.name)))
    given = list(sources)
    new = list(dict.fromkeys(safe_id(source.slide, "The slide") for source in given if source.slide not in known))
    before = read_sources(root.slide_sources, {source.slide for source in given if source.slide in known})
    kept, changed = dict(before), dict[str, SlideSource]()
    for source in given:
        now = kept.get(source.slide)
        if now is None or (now.origin == source.origin and now.location != source.location):
            kept[source.slide] = changed[source.slide] = source
    # The source first: a partition whose image nobody can find would fail.
    write_sources(root.slide_sources, changed.values())
    for start in range(0, len(new), _CHUNK):
        instance.add_dynamic_partitions(str(SLIDES.name), new[start : start + _CHUNK])
    moved = [slide for slide, source in before.items() if kept[slide].location != source.location]
    return [*new, *moved]


def stages_possible(root: DataRoot) -> tuple[str, ...]:
    """The per-slide assets that can be made now: without a champion, only images can."""
    return PER_SLIDE if root.record("tissue_champion", "current").is_file() else PER_SLIDE[:1]


def nuclei_stages_possible(root: DataRoot) -> tuple[str, ...]:
    """The same of nuclei: without a network to find them with, only slides can."""
    try:
        NucleusWeights.of(root, load_settings(root.settings).nuclei_weights)
    except (MissingInput, BadWeights):
        return NUCLEI_PER_SLIDE[:1]
    return NUCLEI_PER_SLIDE


def missing_slides(
    instance: dg.DagsterInstance,
    root: DataRoot,
    stages: Sequence[str],
    partitions: dg.DynamicPartitionsDefinition = SLIDES,
) -> dict[str, list[str]]:
    """For each stage, the registered slides it has not made or failed to make again, as they were registered.

    Those that a backfill going on is to make are left out.
    """
    registered = instance.get_dynamic_partitions(str(partitions.name))
    going_on = _slides_going_on(instance)
    missing: dict[str, list[str]] = {}
    for stage in stages:
        # What failed may have been made before, by older code or of an older image.
        good = instance.get_materialized_partitions(dg.AssetKey(stage)) - root.failed(stage)
        good |= going_on.get(stage, set())
        missing[stage] = [slide for slide in registered if slide not in good]
    return missing


def due_slides(root: DataRoot, missing: Mapping[str, Sequence[str]], now: datetime) -> dict[str, list[str]]:
    """For each stage, the missing slides without those that failed and whose turn has not come again.

    What keeps failing (a file that is cut short, an image that is none) is tried ever more seldom: after a night, two,
    four, up to 64. A slide that waits at a stage waits at those after, too.
    """
    due: dict[str, list[str]] = {}
    waiting: set[str] = set()
    for stage, slides in missing.items():
        waiting |= {slide for slide, failure in read_failures(root, stage).items() if now < _again_at(failure)}
        due[stage] = [slide for slide in slides if slide not in waiting]
    return due


def _again_at(failure: Failure) -> datetime:
    nights = min(2 ** (failure.tries - 1), _MOST_NIGHTS)
    # A night's run may take until noon.
    return failure.failed_at + timedelta(days=nights, hours=-12)


def with_gaps_filled(wanted: Sequence[str], lacking: Collection[str], registered: Sequence[str]) -> list[str]:
    """The slides of ``wanted``, and those between them that are made, as they were registered.

    Dagster gives a run one range of keys: 300 slides scattered over a study would take 300 runs, of seconds each before
    their first line. What is made already costs an event (see `assets.slide_asset`), so a gap of a hundred is
    cheaper than another run.

    Args:
        wanted: the slides to be made.
        lacking: all that are not made, which never fill a gap.
        registered: all slides.
    """
    chosen = set(wanted)
    asked: list[str] = []
    gap: list[str] | None = None  # None where there is nothing before it that could be gone on with
    for slide in registered:
        if slide in chosen:
            asked += [*(gap or ()), slide]
            gap = []
        elif gap is None or slide in lacking or len(gap) == _GAP:
            gap = None
        else:
            gap.append(slide)
    return asked


def unasked_slides(
    instance: dg.DagsterInstance, root: DataRoot, stages: Sequence[str], slides: Sequence[str]
) -> dict[str, list[str]]:
    """For each stage, those of ``slides`` that were neither made nor tried, and that no backfill is about to make.

    A slide that failed counts as tried at the stages after, too.
    """
    unasked: dict[str, list[str]] = {}
    tried: set[str] = set()
    going_on = _slides_going_on(instance)
    for stage in stages:
        tried |= root.failed(stage)
        done = tried | instance.get_materialized_partitions(dg.AssetKey(stage)) | going_on.get(stage, set())
        unasked[stage] = [slide for slide in slides if slide not in done]
    return unasked


def _slides_going_on(instance: dg.DagsterInstance) -> dict[str, set[str]]:
    """For each asset, the partitions that backfills going on are to make."""
    going_on: dict[str, set[str]] = {}
    for backfill in instance.get_backfills(filters=BulkActionsFilter(statuses=[BulkActionStatus.REQUESTED])):
        if backfill.asset_backfill_data is None:
            continue
        for key, subset in backfill.asset_backfill_data.target_subset.partitions_subsets_by_asset_key.items():
            going_on.setdefault(key.to_user_string(), set()).update(subset.get_partition_keys())
    return going_on


def at_most(slides_by_stage: Mapping[str, Sequence[str]], limit: int | None = None) -> tuple[dict[str, list[str]], int]:
    """The same for the first ``limit`` slides, and how many there are."""
    chosen = list(dict.fromkeys(slide for slides in slides_by_stage.values() for slide in slides))[:limit]
    wanted = set(chosen)
    return {s: [slide for slide in slides if slide in wanted] for s, slides in slides_by_stage.items()}, len(chosen)


def subset_of(
    slides_by_stage: Mapping[str, Sequence[str]], partitions: dg.DynamicPartitionsDefinition = SLIDES
) -> AssetGraphSubset:
    """What to ask the backfill daemon for."""
    parts = {
        dg.AssetKey(stage): partitions.subset_with_partition_keys(slides) for stage, slides in slides_by_stage.items()
    }
    return AssetGraphSubset(
        partitions_subsets_by_asset_key={key: subset for key, subset in parts.items() if len(subset)},
        non_partitioned_asset_keys=set(),
    )


def is_busy(instance: dg.DagsterInstance, requested_by: str) -> bool:
    """Whether a backfill that ``requested_by`` asked for is still going on."""
    going_on = instance.get_backfills(
        filters=BulkActionsFilter(
            statuses=[BulkActionStatus.REQUESTED, BulkActionStatus.CANCELING, BulkActionStatus.FAILING],
            tags={REQUESTED_BY: requested_by},
        ),
        limit=1,
    )
    return bool(going_on)
