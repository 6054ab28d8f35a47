"""Which slides are missing, which are due again, and registering new ones; for skin and nuclei alike."""

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
# Adding 160,000 keys in one call takes seconds, during which everything else waits.
_CHUNK = 10_000


@dataclass(frozen=True)
class Chain:
    """The assets of a pipeline that are materialized slide by slide.

    Attributes:
        has_weights: Whether the weights are there that all stages but the first need.
        requested_by: Tag of the backfills of missing slides.
        missing_weights: Sentence that the log gets where the weights are missing.
    """

    slides: dg.DynamicPartitionsDefinition
    stages: tuple[str, ...]
    has_weights: Callable[[DataRoot], bool]
    requested_by: str
    missing_weights: str

    @property
    def partitions(self) -> str:
        """Name of the partitions."""
        return str(self.slides.name)

    def possible_stages(self, root: DataRoot) -> tuple[str, ...]:
        """The stages that can be materialized now: without weights, only the images."""
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
    "by hand epidermis_masks, which then uses the starter.",
)
NUCLEI = Chain(
    NUCLEI_SLIDES,
    NUCLEI_PER_SLIDE,
    _has_nuclei_weights,
    BY_INFER_NUCLEI,
    "There is no nuclei champion, and settings.toml names no weights that exist, so only images are requested: "
    "materialize nuclei_weights for a version, then nuclei_champion, or set nuclei_weights in settings.toml.",
)


def register_slides(instance: dg.DagsterInstance, root: DataRoot, sources: Iterable[SlideSource]) -> list[str]:
    """Writes where the image of each slide is, then adds the slide's partition.

    A known slide keeps its source, unless that is lost or the image has moved within its origin: a file of the same
    name in a folder is not HPA's image, nor the other way round.

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
    # Sources first: a partition whose image nobody can find would fail.
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
    """The missing slides of each stage and the stale ones, each at the later stages, too, in order of registration."""
    wanted: dict[str, list[str]] = {}
    before: set[str] = set()
    for stage, slides in missing.items():
        before |= {*slides, *stale[stage]}
        wanted[stage] = [slide for slide in registered if slide in before]
    return wanted


def due_slides(root: DataRoot, missing: Mapping[str, Sequence[str]], now: datetime) -> dict[str, list[str]]:
    """The missing slides of each stage without those that failed and are not due again.

    A slide that keeps failing (a truncated file, say) is tried after one night, two, four, up to 64. A slide that waits
    at a stage waits at the later ones, too.
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
    """Adds materialized slides that lie between wanted ones, so that a backfill needs fewer runs.

    Dagster gives a run one range of keys: 300 slides scattered over a study would take 300 runs, each with seconds
    before its first line. A slide that is materialized already costs one event, so a gap of a hundred is cheaper.

    A slide that is ``missing`` never fills a gap.
    """
    chosen = set(wanted)
    filled: list[str] = []
    gap: list[str] | None = None  # None: no wanted slide is near enough before it
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
    """For each stage, those of ``slides`` that were neither materialized nor tried, nor are in an open backfill.

    A slide that failed counts as tried at the later stages, too.
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
    """The same for the first ``limit`` different slides; stages that have none of them are left out."""
    chosen = set(list(dict.fromkeys(slide for slides in slides_by_stage.values() for slide in slides))[:limit])
    kept = {stage: [slide for slide in slides if slide in chosen] for stage, slides in slides_by_stage.items()}
    return {stage: slides for stage, slides in kept.items() if slides}


def number_of_slides(slides_by_stage: Mapping[str, Sequence[str]]) -> int:
    """How many different slides there are."""
    return len({slide for slides in slides_by_stage.values() for slide in slides})
