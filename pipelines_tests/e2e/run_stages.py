"""Runs every per-slide asset over every registered slide in one process, as a run of the platform does."""

import sys
from pathlib import Path

import dagster as dg

from orchestration.definitions import build_defs
from orchestration.requests import PER_SLIDE


def main(root: Path) -> None:
    defs = build_defs(root)
    job = defs.resolve_job_def("infer")
    with dg.DagsterInstance.get() as instance:
        slides = instance.get_dynamic_partitions("slides")
        for asset in PER_SLIDE:
            result = job.execute_in_process(
                instance=instance,
                asset_selection=[dg.AssetKey(asset)],
                tags={
                    "dagster/asset_partition_range_start": slides[0],
                    "dagster/asset_partition_range_end": slides[-1],
                },
            )
            assert result.success
        defs.resolve_job_def("refresh_metrics").execute_in_process(instance=instance)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
