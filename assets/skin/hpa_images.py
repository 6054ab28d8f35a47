"""`hpa_images`: a gene's HPA page, turned into one row for each image of the tissue."""

from datetime import timedelta

import dagster as dg

from assets.partitions import GENES
from assets.slide_asset import AnyStage, Run, slide_asset
from assets.sources import HPA
from dermatome.pipeline.cached_stage import WaitingStage


@slide_asset(
    GENES, "skin_images", kind="parquet", code_version="3", partitions_a_run=500,
    deps=[HPA], decided_by=["images.tissue", "hpa.base_url", "hpa.archive_urls", "hpa.licence", "hpa.attribution"],
    pool="hpa",
    # The schedule refresh_hpa reads the pages weekly; HPA has a release a year.
    freshness_policy=dg.FreshnessPolicy.time_window(fail_window=timedelta(days=60), warn_window=timedelta(days=15)),
)  # fmt: skip
def hpa_images(run: Run) -> AnyStage:
    """One partition is one gene: a row for each image of its HPA page, with antibody, patient, staining by cell type,
    reliability, licence and page sha256.

    The page is requested at every materialization; an unchanged page (ETag or same content) keeps its data version, so
    nothing downstream becomes stale.

    [Find a gene by its symbol](/genes)
    """
    from dermatome.hpa.stage import make_images

    root, client, tissue = run.root, run.client, run.settings.images.tissue
    return WaitingStage(
        root,
        "hpa_images",
        make=lambda gene, folder: make_images(client, gene, root.hpa_page(gene), folder, tissue),
        always=True,  # only a request shows whether the page has changed
        at_once=run.settings.hpa.at_once,
    )
