"""Runs of single assets, and records that stand for them."""

import dagster as dg

from orchestration.definitions import build_defs
from pipelines_tests.records import put_record


def put(root, asset, partition, **values):
    """Writes a record with these values, whose data version is that of its weights."""
    put_record(root, asset, partition, data_version=str(values.get("weights_sha256", "v"))[:32], values=values)


def run(root, instance, *assets, key=None, config=None):
    """Materializes assets in one run.

    Args:
        root: the data root.
        instance: of Dagster.
        assets: names.
        key: of the partition.
        config: run config of each asset, by name.
    """
    return build_defs(root.path).resolve_implicit_global_asset_job_def().execute_in_process(
        instance=instance,
        asset_selection=[dg.AssetKey(asset) for asset in assets],
        tags={"dagster/partition": key} if key else {},
        run_config={"ops": {name: {"config": given} for name, given in config.items()}} if config else None,
        raise_on_error=False,
    )  # fmt: skip
