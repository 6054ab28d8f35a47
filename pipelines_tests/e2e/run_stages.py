"""Runs every per-slide asset over every registered slide in one process, as a run of the platform does."""

import sys
from pathlib import Path

import dagster as dg

from orchestration.definitions import build_defs
from orchestration.requests import PER_SLIDE


def main(root: Path) -> None:
    job = build_defs(root).resolve_implicit_global_asset_job_def()
    with dg.DagsterInstance.get() as instance:
        slides = instance.get_dynamic_partitions("slides")
        tags = {"dagster/asset_partition_range_start": slides[0], "dagster/asset_partition_range_end": slides[-1]}
        for asset in (*PER_SLIDE, "skin_metrics"):
            result = job.execute_in_process(
                instance=instance, asset_selection=[dg.AssetKey(asset)], tags=tags if asset in PER_SLIDE else None
            )
            assert result.success


if __name__ == "__main__":
    main(Path(sys.argv[1]))
