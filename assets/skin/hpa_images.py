"""`hpa_images`: a gene's HPA page, turned into one row for each image of the tissue."""

from collections.abc import Iterator
from pathlib import Path

import dagster as dg

from assets.each import make_each
from assets.partitions import GENES
from dermatome.stage_record import StageResult
from resources import HpaResource, PathsResource, SettingsResource, SlideEngineResource

RECORDS_FILE = "images.parquet"


@dg.asset(
    partitions_def=GENES,
    output_required=False,
    backfill_policy=dg.BackfillPolicy.multi_run(500),
    pool="hpa",
    code_version="1",
    group_name="images",
    kinds={"parquet"},
)
def hpa_images(
    context: dg.AssetExecutionContext,
    paths: PathsResource,
    settings: SettingsResource,
    hpa: HpaResource,
    engine: SlideEngineResource,
) -> Iterator[dg.AssetMaterialization | dg.AssetCheckEvaluation]:
    """Image records of one gene: antibody, patient, staining by cell type, reliability, licence, page sha256.

    The page is asked for at every materialization; an unchanged page (ETag or same content) keeps its data version, so
    nothing downstream becomes stale.
    """
    from dermatome.hpa.records import parse_page, write_records

    root = paths.data_root
    images = settings.value.images

    def make(gene: str, folder: Path) -> StageResult:
        fetched = hpa.client.fetch_page(gene, root.hpa_page(gene))
        page = parse_page(fetched.path, tissue=images.tissue)
        version = write_records(page, folder / RECORDS_FILE)
        return StageResult(
            outcome=page.outcome,
            message=page.message,
            data_version=version,
            values={
                "gene": page.gene,
                "ensembl_id": page.ensembl_id,
                "release": page.release,
                "images": page.records.num_rows,
                "page_url": fetched.url,
                "page_sha256": page.page_sha256,
                "page_bytes": fetched.bytes,
            },
        )

    yield from make_each(
        context,
        root,
        engine,
        inputs=lambda gene: {},
        make=make,
        settings={"tissue": images.tissue, "base_url": settings.value.hpa.base_url},
        again=lambda record: True,  # only asking tells whether the page has changed
        at_once=settings.value.hpa.at_once,
    )
