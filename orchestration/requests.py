"""Which slides are missing where, and registering new ones."""

from collections.abc import Iterable, Sequence

import dagster as dg
from dagster._core.definitions.assets.graph.asset_graph_subset import AssetGraphSubset
from dagster._core.execution.backfill import BulkActionsFilter, BulkActionStatus

from assets.partitions import SLIDES
from dermatome.data_root import DataRoot
from dermatome.slide_source import SlideSource, write_source

PER_SLIDE = ("slide_images", "epidermis_masks", "cell_masks", "epidermis_layers")
REQUESTED_BY = "dermatome/requested_by"

# Adding 160,000 keys takes seconds in one call and everything else waits for it.
_CHUNK = 10_000


def register_slides(instance: dg.DagsterInstance, root: DataRoot, sources: Iterable[SlideSource]) -> list[str]:
    """Writes where each slide's image is, then adds its partition.

    Returns:
        The slides that were not known before, in order.
    """
    known = set(instance.get_dynamic_partitions(str(SLIDES.name)))
    new: list[str] = []
    for source in sources:
        if source.slide in known:
            continue
        # The source first: a partition whose image nobody can find would fail.
        write_source(root.source(source.slide), source)
        known.add(source.slide)
        new.append(source.slide)
    for start in range(0, len(new), _CHUNK):
        instance.add_dynamic_partitions(str(SLIDES.name), new[start : start + _CHUNK])
    return new


def stages_possible(root: DataRoot) -> tuple[str, ...]:
    """The per-slide assets that can be made now: without a champion, only images can."""
    return PER_SLIDE if root.record("tissue_champion", "current").is_file() else PER_SLIDE[:1]


def missing_slides(instance: dg.DagsterInstance, stages: Sequence[str]) -> dict[str, list[str]]:
    """For each stage, the registered slides it has not made, in the order they were registered."""
    registered = instance.get_dynamic_partitions(str(SLIDES.name))
    missing: dict[str, list[str]] = {}
    for stage in stages:
        made = instance.get_materialized_partitions(dg.AssetKey(stage))
        missing[stage] = [slide for slide in registered if slide not in made]
    return missing


def subset_of(slides_by_stage: dict[str, list[str]], limit: int | None = None) -> tuple[AssetGraphSubset, int]:
    """What to ask the backfill daemon for, and how many slides that is; at most ``limit`` slides."""
    chosen = list(dict.fromkeys(slide for slides in slides_by_stage.values() for slide in slides))[:limit]
    wanted = set(chosen)
    parts = {
        dg.AssetKey(stage): SLIDES.subset_with_partition_keys([slide for slide in slides if slide in wanted])
        for stage, slides in slides_by_stage.items()
    }
    return (
        AssetGraphSubset(
            partitions_subsets_by_asset_key={key: subset for key, subset in parts.items() if len(subset)},
            non_partitioned_asset_keys=set(),
        ),
        len(chosen),
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
