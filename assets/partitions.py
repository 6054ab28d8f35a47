"""The partitions definitions, and how assets depend on partitions of others."""

import dagster as dg

REQUESTED_BY = "dermatome/requested_by"
"""Tag of runs and backfills that names the sensor or job that requested them."""
STALE = "dermatome/stale"
"""Tag of backfills that recompute stale slides; without it, a materialized partition is left unchanged."""
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
    """A dependency on an asset whose changes never make the downstream asset stale, as users materialize it by hand."""
    return dg.AssetDep(asset, partition_mapping=dg.SpecificPartitionsPartitionMapping([]))


def all_of(asset: dg.AssetsDefinition) -> dg.AssetDep:
    """A dependency on all partitions of an asset."""
    return dg.AssetDep(asset, partition_mapping=dg.AllPartitionMapping())
