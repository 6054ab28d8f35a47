"""The schedules; all are off until somebody turns them on in the UI."""

import dagster as dg

from assets.partitions import GENES
from orchestration.jobs import fetch_hpa_pages, infer, infer_nuclei

# As `hpa_images` takes this many genes a run.
_GENES_A_RUN = 500
_EACH_NIGHT = "0 22 * * *"


@dg.schedule(job=fetch_hpa_pages, cron_schedule="0 3 * * 0", description="Weekly: reads every gene's page again.")
def refresh_hpa(context: dg.ScheduleEvaluationContext) -> list[dg.RunRequest] | dg.SkipReason:
    """Asks for all gene pages; unchanged ones keep their data version, so nothing downstream becomes stale."""
    genes = context.instance.get_dynamic_partitions(str(GENES.name))
    if not genes:
        return dg.SkipReason("No gene is registered: run the job register_genes.")
    when = context.scheduled_execution_time.isoformat()
    chunks = [genes[start : start + _GENES_A_RUN] for start in range(0, len(genes), _GENES_A_RUN)]
    return [
        dg.RunRequest(
            run_key=f"{when}-{number}",
            tags={
                "dagster/asset_partition_range_start": chunk[0],
                "dagster/asset_partition_range_end": chunk[-1],
            },
        )
        for number, chunk in enumerate(chunks)
    ]


backfill_new_slides = dg.ScheduleDefinition(
    name="backfill_new_slides",
    job=infer,
    cron_schedule=_EACH_NIGHT,
    run_config={"ops": {"request_missing": {"config": {"spare_failed": True}}}},
    description="Nightly: everything that is missing downstream, in batches; failed slides are tried again, those that "
    "keep failing ever more seldom.",
)


backfill_new_nuclei = dg.ScheduleDefinition(
    name="backfill_new_nuclei",
    job=infer_nuclei,
    cron_schedule=_EACH_NIGHT,
    run_config={"ops": {"request_missing_nuclei": {"config": {"spare_failed": True}}}},
    description="Nightly: the same for slides of nuclei.",
)

SCHEDULES = [refresh_hpa, backfill_new_slides, backfill_new_nuclei]
