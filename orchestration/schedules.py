"""The schedules; all are off until a person turns them on in the UI."""

import dagster as dg

from assets.partitions import GENES
from orchestration.jobs import fetch_hpa_pages, infer, infer_nuclei

# The number of genes in one run of `hpa_images`.
_GENES_PER_RUN = 500


def refresh_hpa(context: dg.ScheduleEvaluationContext) -> list[dg.RunRequest] | dg.SkipReason:
    """Requests all gene pages. Unchanged pages keep their data version, so nothing downstream becomes stale."""
    genes = context.instance.get_dynamic_partitions(str(GENES.name))
    if not genes:
        return dg.SkipReason("No gene is registered: run the job register_genes.")
    when = context.scheduled_execution_time.isoformat()
    chunks = [genes[start : start + _GENES_PER_RUN] for start in range(0, len(genes), _GENES_PER_RUN)]
    return [
        dg.RunRequest(
            run_key=f"{when}-{number}",
            tags={"dagster/asset_partition_range_start": chunk[0], "dagster/asset_partition_range_end": chunk[-1]},
        )
        for number, chunk in enumerate(chunks)
    ]


def _nightly(name: str, job: dg.JobDefinition, slides: str, time_zone: str) -> dg.ScheduleDefinition:
    (op,) = job.graph.node_names()
    return dg.ScheduleDefinition(
        name=name,
        job=job,
        cron_schedule="0 22 * * *",
        execution_timezone=time_zone,
        run_config={"ops": {op: {"config": {"spare_failed": True}}}},
        description=f"Nightly: requests everything that is missing for {slides}, as a backfill. Failed slides are "
        "retried at growing intervals.",
    )


def schedules(time_zone: str) -> list[dg.ScheduleDefinition]:
    """All schedules, in the time zone ``time_zone``."""
    weekly = dg.schedule(
        job=fetch_hpa_pages,
        cron_schedule="0 3 * * 0",
        execution_timezone=time_zone,
        description="Weekly: reads every gene's page again.",
    )
    return [
        weekly(refresh_hpa),
        _nightly("backfill_new_slides", infer, "skin slides", time_zone),
        _nightly("backfill_new_nuclei", infer_nuclei, "H&E slides", time_zone),
    ]
