"""The partitions: what one unit of work is."""

import dagster as dg

REQUESTED_BY = "dermatome/requested_by"
"""The tag of runs and backfills that says which sensor or job asked for them."""
STALE = "dermatome/stale"
"""The tag of backfills that compute stale slides again; without it, what is materialized is kept as it is."""
BY_INFER = "infer"
BY_INFER_NUCLEI = "infer_nuclei"

GENES = dg.DynamicPartitionsDefinition(name="genes")
SLIDES = dg.DynamicPartitionsDefinition(name="slides")
ANNOTATED_SLIDES = dg.DynamicPartitionsDefinition(name="annotated_slides")
TRAINING_VERSIONS = dg.DynamicPartitionsDefinition(name="training_versions")
CELL_VERSIONS = dg.DynamicPartitionsDefinition(name="cell_versions")
STUDIES = dg.DynamicPartitionsDefinition(name="studies")
NUCLEI_CASES = dg.DynamicPartitionsDefinition(name="nuclei_cases")
NUCLEI_SLIDES = dg.DynamicPartitionsDefinition(name="nuclei_slides")
NUCLEI_VERSIONS = dg.DynamicPartitionsDefinition(name="nuclei_versions")


def by_hand(asset: dg.AssetsDefinition) -> dg.AssetDep:
    """An upstream asset whose changes make an asset no staler: Dagster must not propose a training."""
    return dg.AssetDep(asset, partition_mapping=dg.SpecificPartitionsPartitionMapping([]))


def all_of(asset: dg.AssetsDefinition) -> dg.AssetDep:
    """An upstream asset; every one of its partitions is read."""
    return dg.AssetDep(asset, partition_mapping=dg.AllPartitionMapping())
