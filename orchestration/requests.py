"""Finds the slides that are missing or due for another try, and registers new ones; for skin and nuclei alike."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import dagster as dg

from assets.partitions import BY_INFER, BY_INFER_NUCLEI, NUCLEI_SLIDES, SLIDES
from dermatome.errors import BadWeights, MissingInput
from dermatome.nuclei.maps.networks import find_nucleus_weights
from dermatome.settings import load_settings
from dermatome.slides.register import read_sources, write_sources
from dermatome.slides.source import SlideSource
from dermatome.storage.files import safe_id
from dermatome.storage.layout import CHAMPION, DataRoot
from dermatome.storage.record import Failure, read_failures
from resources.dagster_private import keys_in_progress

PER_SLIDE = ("slide_images", "epidermis_masks", "cell_masks", "epidermis_layers")
NUCLEI_PER_SLIDE = ("nuclei_slides", "nucleus_maps", "til_scores")

_GAP = 100
_MAX_NIGHTS = 64
# Adding 160,000 keys in one call takes seconds, during which the storage serves nothing else.
_CHUNK = 10_000


@dataclass(frozen=True)
class Chain:
    """The assets of a pipeline that are materialized for each slide, in order.

    Attributes:
        has_weights: Tells whether the weights exist that all stages after the first need.
        requested_by: Value of the tag :data:`REQUESTED_BY` on backfills of missing slides.
        missing_weights: Log message if the weights are missing.
    """

    slides: dg.DynamicPartitionsDefinition
    stages: tuple[str, ...]
    has_weights: Callable[[DataRoot], bool]
    requested_by: str
    missing_weights: str

    @property
    def partitions(self) -> str:
        """Name of the dynamic partitions definition of the slides."""
        return str(self.slides.name)

    def possible_stages(self, root: DataRoot) -> tuple[str, ...]:
        """The stages that can be materialized now: only the first one (the images) if the weights are missing."""
        return self.stages if self.has_weights(root) else self.stages[:1]


def _has_nuclei_weights(root: DataRoot) -> bool:
    try:
        find_nucleus_weights(root, load_settings(root.settings).nuclei_weights)
    except (MissingInput, BadWeights):
        return False
    return True


SKIN = Chain(
    SLIDES,
    PER_SLIDE,
    lambda root: root.record("tissue_champion", CHAMPION).is_file(),
    BY_INFER,
    "There is no tissue champion yet, so only images are requested: materialize tissue_weights and tissue_champion, or "
    "materialize epidermis_masks by hand, which then uses the starter.",
)
NUCLEI = Chain(
    NUCLEI_SLIDES,
    NUCLEI_PER_SLIDE,
    _has_nuclei_weights,
    BY_INFER_NUCLEI,
    "There is no nuclei champion, and the weights that settings.toml names do not exist, so only images are requested: "
    "materialize nuclei_weights for a version, then nuclei_champion, or set nuclei_weights in settings.toml.",
)


def register_slides(instance: dg.DagsterInstance, root: DataRoot, sources: Iterable[SlideSource]) -> list[str]:
    """Stores the source of each slide's image, then adds the slide's partition.

    A known slide keeps its source, unless that image is lost or has moved within its origin: a file in a folder never
    replaces an HPA image of the same name, nor the other way round.

    Returns:
        The slides to be materialized: new ones, in order, then those whose image has moved.

    Raises:
        StorageFailed: A slide's name is no file name, or the sources cannot be read or written; nothing is registered.
    """
    known = set(instance.get_dynamic_partitions(SKIN.partitions))
    given = list(sources)
    new = list(dict.fromkeys(safe_id(source.slide, "The slide") for source in given if source.slide not in known))
    before = read_sources(root.slide_sources, {source.slide for source in given if source.slide in known})
    kept, changed = dict(before), dict[str, SlideSource]()
    for source in given:
        now = kept.get(source.slide)
        if now is None or (now.origin == source.origin and now.location != source.location):
            kept[source.slide] = changed[source.slide] = source
    # Sources are written first: a partition without a source would fail.
    write_sources(root.slide_sources, changed.values())
    for start in range(0, len(new), _CHUNK):
        instance.add_dynamic_partitions(SKIN.partitions, new[start : start + _CHUNK])
    moved = [slide for slide, source in before.items() if kept[slide].location != source.location]
    return [*new, *moved]


def missing_slides(
    instance: dg.DagsterInstance, root: DataRoot, stages: Sequence[str], chain: Chain = SKIN
) -> dict[str, list[str]]:
    """For each stage, the registered slides that are not materialized or failed last, in order of registration.

    Slides that an open backfill will materialize are left out.
    """
    registered = instance.get_dynamic_partitions(chain.partitions)
    in_progress = keys_in_progress(instance)
    missing: dict[str, list[str]] = {}
    for stage in stages:
        # A slide that failed may have been materialized before, by older code or from an older image.
        good = instance.get_materialized_partitions(dg.AssetKey(stage)) - root.failed(stage)
        good |= in_progress.get(stage, set())
        missing[stage] = [slide for slide in registered if slide not in good]
    return missing


def with_stale_slides(
    missing: Mapping[str, Sequence[str]], stale: Mapping[str, Collection[str]], registered: Sequence[str]
) -> dict[str, list[str]]:
    """Adds the stale slides of each stage to the missing ones, and both to all later stages.

    Returns:
        The slides of each stage, in order of registration.
    """
    wanted: dict[str, list[str]] = {}
    before: set[str] = set()
    for stage, slides in missing.items():
        before |= {*slides, *stale[stage]}
        wanted[stage] = [slide for slide in registered if slide in before]
    return wanted


def due_slides(root: DataRoot, missing: Mapping[str, Sequence[str]], now: datetime) -> dict[str, list[str]]:
    """The missing slides of each stage, without those that failed and are not due for another try.

    A slide that keeps failing (such as a truncated file) is retried after 1, 2, 4, … nights, at most 64. While it waits
    at one stage, it is not requested for the later stages either.
    """
    due: dict[str, list[str]] = {}
    waiting: set[str] = set()
    for stage, slides in missing.items():
        waiting |= {slide for slide, failure in read_failures(root, stage).items() if now < _due_at(failure)}
        due[stage] = [slide for slide in slides if slide not in waiting]
    return due


def _due_at(failure: Failure) -> datetime:
    nights = min(2 ** (failure.tries - 1), _MAX_NIGHTS)
    # A nightly run may take until noon.
    return failure.failed_at + timedelta(days=nights, hours=-12)


def fill_gaps(wanted: Sequence[str], missing: Collection[str], registered: Sequence[str]) -> list[str]:
    """Adds materialized slides that lie between two wanted ones, so that a backfill needs fewer runs.

    Dagster gives a run one range of keys: 300 slides scattered over a study would take 300 runs of several seconds each
    before their first line. A slide that is already materialized costs one event, so a gap of a hundred is cheaper.

    A gap that contains a slide of ``missing`` is not filled.
    """
    chosen = set(wanted)
    filled: list[str] = []
    gap: list[str] | None = None  # None: no wanted slide lies close enough before
    for slide in registered:
        if slide in chosen:
            filled += [*(gap or ()), slide]
            gap = []
        elif gap is None or slide in missing or len(gap) == _GAP:
            gap = None
        else:
            gap.append(slide)
    return filled


def untried_slides(
    instance: dg.DagsterInstance, root: DataRoot, stages: Sequence[str], slides: Sequence[str]
) -> dict[str, list[str]]:
    """For each stage, the ``slides`` that were never materialized, never failed, and are in no open backfill.

    A slide that failed at a stage counts as tried at the later stages too.
    """
    untried: dict[str, list[str]] = {}
    failed: set[str] = set()
    in_progress = keys_in_progress(instance)
    for stage in stages:
        failed |= root.failed(stage)
        done = failed | instance.get_materialized_partitions(dg.AssetKey(stage)) | in_progress.get(stage, set())
        untried[stage] = [slide for slide in slides if slide not in done]
    return untried


def first_slides(slides_by_stage: Mapping[str, Sequence[str]], limit: int | None = None) -> dict[str, list[str]]:
    """Keeps the first ``limit`` distinct slides of all stages; stages without any of them are left out."""
    chosen = set(list(dict.fromkeys(slide for slides in slides_by_stage.values() for slide in slides))[:limit])
    kept = {stage: [slide for slide in slides if slide in chosen] for stage, slides in slides_by_stage.items()}
    return {stage: slides for stage, slides in kept.items() if slides}


def number_of_slides(slides_by_stage: Mapping[str, Sequence[str]]) -> int:
    """Number of distinct slides over all stages."""
    return len({slide for slides in slides_by_stage.values() for slide in slides})
