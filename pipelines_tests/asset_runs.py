"""Runs of single assets, and records that stand for them."""

import dagster as dg

from dermatome.storage.record import StageRecord, write_record
from orchestration.definitions import build_defs


def put(root, asset, partition, **values):
    """Writes a record with these values."""
    record = StageRecord(
        asset=asset, partition=partition, fingerprint="f", code_version="1", inputs={}, settings={}, outcome="made",
        data_version=str(values.get("weights_sha256", "v"))[:32], values=values,
    )  # fmt: skip
    write_record(root.record(asset, partition), record)


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
